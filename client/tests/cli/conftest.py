"""The command line, run in this process against a platform in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from incl_cli.main import main
from incl_cli.output import Output
from incl_cli.testing import FakePlatform


class Terminal(io.StringIO):
    """Text that a person would look at."""

    def isatty(self) -> bool:
        return True


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])["error"]


Run = Callable[..., Result]


@pytest.fixture
def fake() -> FakePlatform:
    return FakePlatform()


@pytest.fixture
def cli(fake: FakePlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command line; cwd is an empty folder with a space in its name."""
    work = tmp_path / "my work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("INCL_HOME", str(tmp_path / "home"))
    for name in ("INCL_CONTEXT_FILE", "INCL_PROJECT", "INCL_TOKEN", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str, terminal: bool = False) -> Result:
        out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
        color = False if "--no-color" in words else None
        code = main(words, Output(out, err, as_json="--json" in words, color=color), fake.connect)
        return Result(code, out.getvalue(), err.getvalue())

    return run
