"""The command line, run in this process against a platform in memory."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from incl_cli.testing import FakePlatform, Run, run_incl


@pytest.fixture
def fake() -> FakePlatform:
    return FakePlatform()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of this machine's Python is found out once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli(fake: FakePlatform, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command line; cwd is an empty folder with a space in its name."""
    work = tmp_path / "my work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    for name in ("INCL_HOME", "INCL_CONTEXT_FILE", "INCL_PROJECT", "INCL_TOKEN", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")

    return functools.partial(run_incl, fake)
