"""Where the code comes from: git, the user's Python and its packages, the command line, the tools of this machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incl_cli.places import cache_dir

MAX_DIFF_BYTES = 20_000_000
_GIT_S = 10.0
_PYTHON_S = 20.0
_KEPT_VARIABLES = (
    "PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "CONDA_DEFAULT_ENV",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
)
_PROBE = """
import sys
sys.path[:] = [p for p in sys.path if p]
import json, platform
from importlib import metadata
found = {}
for d in metadata.distributions():
    name = d.metadata["Name"]
    if name and name not in found:
        found[name] = d.version
places = [p for p in sys.path if p.rstrip("/").endswith(("site-packages", "dist-packages"))]
print(json.dumps({"python": platform.python_version(), "packages": found, "places": places}))
"""
_PASSWORD = re.compile(r"^([a-z+]+://)[^/@]*@", re.IGNORECASE)


@dataclass(frozen=True)
class GitState:
    """A working tree: the commit below it and what is not committed; all empty outside of git."""

    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool = False
    diff: bytes = b""
    note: str = ""


def git_state(folder: Path) -> GitState:
    """The git state of a folder. Never fails: what cannot be had is left out, with a note where that is a surprise."""
    if shutil.which("git") is None:
        return GitState()
    head = _git(folder, "rev-parse", "HEAD", "--abbrev-ref", "HEAD", "--show-toplevel")
    if head is None:
        inside = _git(folder, "rev-parse", "--is-inside-work-tree")
        return GitState(note="git: no commit yet" if inside is not None else "")
    commit, branch = head.decode(errors="replace").splitlines()[:2]
    remote = _git(folder, "config", "--get", "remote.origin.url")
    diff, note = _diff(folder)
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return GitState(
        commit=commit,
        branch=None if branch == "HEAD" else branch[:250],
        remote=_without_password(remote.decode(errors="replace").strip())[:1000] if remote else None,
        dirty=bool(diff) or bool(status),
        diff=diff,
        note=note,
    )


def _diff(folder: Path) -> tuple[bytes, str]:
    diff = _git(folder, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", "--no-textconv")
    if diff is None:
        return b"", "git: the diff took too long and is not kept"
    if len(diff) > MAX_DIFF_BYTES:
        return b"", f"git: the diff is larger than {MAX_DIFF_BYTES // 1_000_000} MB and is not kept"
    return diff, ""


def _without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1", url)


def _git(folder: Path, *words: str) -> bytes | None:
    """What a git command prints, or none when it fails or takes long. It locks nothing and asks nothing."""
    settings = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_GIT_S, env=settings, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True)
class PythonState:
    """The user's own Python: version, and 'name==version' lines."""

    version: str = ""
    packages: bytes = b""


def python_state(path: str | None = None) -> PythonState:
    """The Python found as `python` (or `python3`) on PATH and what is installed in it.

    Asked once; afterwards read from a file until the interpreter or its site-packages change.
    """
    found = shutil.which("python", path=path) or shutil.which("python3", path=path)
    if found is None:
        return PythonState()
    kept = cache_dir() / "python" / f"{hashlib.sha256(_key(found).encode()).hexdigest()[:32]}.json"
    known = _read(kept)
    if known is None or known["stamps"] != _stamps(known["places"]):
        known = _probe(found)
        if known is None:
            return PythonState()
        _write(kept, known)
    lines = sorted((f"{name}=={version}" for name, version in known["packages"].items()), key=str.lower)
    return PythonState(str(known["python"]), ("\n".join(lines) + "\n").encode() if lines else b"")


def _key(found: str) -> str:
    real = os.path.realpath(found)
    try:
        stamp = os.stat(real).st_mtime_ns  # noqa: PTH116
    except OSError:
        stamp = 0
    return json.dumps([found, real, stamp, os.environ.get("PYTHONPATH"), os.environ.get("PYTHONHOME")])


def _stamps(places: Sequence[str]) -> list[int]:
    stamps = []
    for place in places:
        try:
            stamps.append(os.stat(place).st_mtime_ns)  # noqa: PTH116
        except OSError:
            stamps.append(0)
    return stamps


def _probe(found: str) -> dict[str, Any] | None:
    try:
        done = subprocess.run(
            [found, "-c", _PROBE], capture_output=True, timeout=_PYTHON_S, stdin=subprocess.DEVNULL, check=False
        )
        known: dict[str, Any] = json.loads(done.stdout)
        known["stamps"] = _stamps(known["places"])
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
        return None
    return known


def _read(kept: Path) -> dict[str, Any] | None:
    try:
        known: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if {"python", "packages", "places", "stamps"} <= known.keys() else None


def _write(kept: Path, known: dict[str, Any]) -> None:
    partial = kept.with_name(f".{kept.name}.{os.getpid()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_text(json.dumps(known), encoding="utf-8")
        partial.replace(kept)
    except OSError:
        return


def tools() -> dict[str, str]:
    """The variables that say where this machine's tools lie."""
    return {
        name: os.environ[name] for name in _KEPT_VARIABLES if os.environ.get(name) and "\x00" not in os.environ[name]
    }


def command_line(words: Sequence[str]) -> str:
    """What was typed, for people; the values of --env are the experiment's own and stay."""
    return shlex.join([Path(sys.argv[0]).name or "incl", *words])[:10_000]
