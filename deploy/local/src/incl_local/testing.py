"""A user's home with a platform in it, and the command line as typed: for end-to-end tests and benchmarks."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


_HOMES = itertools.count()


class Home:
    """A user's home on a fresh machine, with a platform of its own in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        folder.mkdir(parents=True, exist_ok=True)
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("INCL_", "XDG_", "PYTHON", "COV"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{keep.get('PATH', '')}"
        port = 20_000 + (os.getpid() * 31 + next(_HOMES)) % 1200 * 10
        self.environment = {
            **keep,
            "HOME": str(folder),
            "INCL_DATA": str(self.data),
            "INCL_PORT": str(port),
            "PATH": path,
            "NO_COLOR": "1",
        }

    def start(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """A command of the command line that goes on beside the test."""
        return subprocess.Popen(
            [sys.executable, "-m", "incl_cli", *words],
            cwd=cwd or self.folder,
            env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )

    def incl(
        self, *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Result:
        """A command, to its end."""
        child = self.start(*words, cwd=cwd, env=env)
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
            raise AssertionError(f"incl {' '.join(words)} did not end within {timeout} s\n{out}\n{err}") from None
        return Result(child.returncode, out, err)

    def show(self, ref: str = "@last") -> Any:
        """`incl show --json`."""
        result = self.incl("show", ref, "--json")
        assert result.code == 0, result.err
        return result.json

    def submit(self, *words: str, cwd: Path | None = None) -> str:
        """`incl run --detach`: the id."""
        result = self.incl("run", "--detach", *words, cwd=cwd)
        assert result.code == 0, result.err
        return result.out.strip().splitlines()[-1]

    def until(self, ref: str, states: Sequence[str], timeout: float = 60) -> Any:
        """The view of an experiment once it is in one of these states."""
        return wait(lambda: (v := self.show(ref)) and v["row"]["state"] in states and v, timeout, f"{ref} in {states}")


class CloudSwitches:
    """The fake cloud beside a platform: what is in it, and everything that can be done to it."""

    def __init__(self, home: Home) -> None:
        self._said = json.loads((home.data / "cloud.json").read_text(encoding="utf-8"))
        self.form = str(self._said["vms"])

    def state(self) -> Any:
        """Its VMs, disks and calls."""
        return self._ask("state")

    def names(self) -> list[str]:
        """Of every VM."""
        return sorted(vm["name"] for vm in self.state()["instances"])

    def ids(self) -> dict[str, str]:
        """VM -> the id that the provider gave it: one that is made again has another."""
        return {vm["name"]: vm["id"] for vm in self.state()["instances"]}

    def turn(self, switch: str, **given: Any) -> Any:
        """Use a switch: see docs/mechanisms/fake-cloud.md."""
        return self._ask(switch, json.dumps(given).encode())

    def empty(self) -> bool:
        """Whether no VM and no disk is left."""
        state = self.state()
        return not state["instances"] and not state["disks"]

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self._said['token']}"}
        request = urllib.request.Request(f"{self._said['url']}/fake/{path}", body, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - our own address
            return json.loads(answer.read() or b"null")


def wait(look: Callable[[], Any], timeout: float, what: str) -> Any:
    """What `look` returns once it is true."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        pause.wait(0.05)


def interrupt(child: subprocess.Popen[str]) -> None:
    """What Ctrl-C does."""
    child.send_signal(signal.SIGINT)
