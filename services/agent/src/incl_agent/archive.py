"""The agent as one archive: what a machine that has nothing but Python fetches and starts.

`python -m incl_agent.archive FILE` writes it and prints its sha256. In it are this environment's own distributions, as
far as the agent needs them, and `bin/incl-agent-vm`. They are of this Python's version and machine: on another one the
launcher says so. The same environment gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOTS = ("incl", "incl-shared", "incl-agent")
SERVICES_ONLY = frozenset(
    {"sqlalchemy", "greenlet", "alembic", "mako", "markupsafe", "faststream", "fast-depends", "anyio", "idna",
     "psycopg", "psycopg-binary", "structlog", "uvicorn", "starlette", "rich", "setuptools"}
)  # fmt: skip
"""Distributions that incl-shared and incl name for the services and the command line; no agent imports them."""
_OWN = {"incl": ("incl",), "incl-shared": ("incl_shared",), "incl-agent": ("incl_agent",)}
_LEFT_OUT = ("__pycache__", "tests", "test")
_NAME = re.compile(r"^[A-Za-z0-9._-]+")
LAUNCHER = """#!/bin/sh
# Starts the agent of this archive, which was made for Python {version} on {machine}.
here="$(cd -- "$(dirname -- "$0")/.." && pwd)" || exit 1
right() {{
  "$1" -c 'import platform, sys; sys.exit((sys.version_info[:2], platform.machine()) != (({tuple}), "{machine}"))' 2>&1
}}
if [ ! -x "$here/env/bin/python" ]; then
  found=""
  for name in python{version} /usr/bin/python{version} python3; do
    if command -v "$name" >/dev/null && right "$name" >/dev/null; then
      found="$name"
      break
    fi
  done
  if [ -z "$found" ]; then
    echo "error: this image has no Python {version} for {machine}, which the agent needs; choose another image" >&2
    exit 78
  fi
  rm -rf -- "$here/env"
  "$found" -m venv --without-pip -- "$here/env" || exit 1
  echo "$here/lib" >"$here/env/lib/python{version}/site-packages/incl.pth"
fi
exec "$here/env/bin/python" -I -m incl_agent.vm
"""


def needed() -> list[str]:
    """The distributions that the agent needs, itself included: what they name, but for what only services use."""
    todo, found = list(ROOTS), set()
    while todo:
        name = _plain(todo.pop())
        if name in found or name in SERVICES_ONLY:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            if "extra ==" in text.replace("'", '"').replace('extra=="', 'extra =="') or not _here(text):
                continue
            match = _NAME.match(text)
            if match is not None:
                todo.append(match[0])
    return sorted(found)


def _here(requirement: str) -> bool:
    """Whether a requirement is for this Python and machine: whether it is installed says as much."""
    match = _NAME.match(requirement)
    try:
        return match is not None and importlib.metadata.version(match[0]) != ""
    except importlib.metadata.PackageNotFoundError:
        return False


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def files() -> Iterator[tuple[str, Path]]:
    """(name in the archive, file) of everything below lib/, in order."""
    chosen: dict[str, Path] = {}
    for name in needed():
        chosen.update(_own(name) if name in _OWN else _installed(name))
        chosen.update(_metadata(name))
    yield from sorted(chosen.items())


def _own(name: str) -> Iterator[tuple[str, Path]]:
    """The packages of a distribution of ours, which may be installed in place."""
    for package in _OWN[name]:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(package)
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*")):
            inner = path.relative_to(root)
            if path.is_file() and path.suffix != ".pyc" and inner.parts[0] not in ("testing", "contracts"):
                yield f"{package}/{inner.as_posix()}", path


def _installed(name: str) -> Iterator[tuple[str, Path]]:
    for entry in importlib.metadata.files(name) or ():
        parts = entry.parts
        if ".." in parts or entry.suffix in (".pyc", ".pth") or any(part in _LEFT_OUT for part in parts):
            continue
        path = Path(str(entry.locate()))
        if path.is_file():
            yield entry.as_posix(), path


def _metadata(name: str) -> Iterator[tuple[str, Path]]:
    """METADATA alone: who asks for a version finds it."""
    for entry in importlib.metadata.files(name) or ():
        if entry.name == "METADATA" and entry.parent.name.endswith(".dist-info"):
            yield entry.as_posix(), Path(str(entry.locate()))


def launcher() -> str:
    """The text of bin/incl-agent-vm."""
    major, minor = sys.version_info[:2]
    return LAUNCHER.format(version=f"{major}.{minor}", tuple=f"{major}, {minor}", machine=os.uname().machine)


def build(target: Path) -> str:
    """Write the archive, whole or not at all; its sha256."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("wb") as raw, gzip.GzipFile("", "wb", 4, raw, mtime=0) as packed:
            _write(packed, files())
        digest = sha256_of(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return digest


def _write(packed: gzip.GzipFile, entries: Iterable[tuple[str, Path]]) -> None:
    with tarfile.open(fileobj=packed, mode="w") as tar:
        _add(tar, "bin/incl-agent-vm", launcher().encode(), 0o755)
        for name, path in entries:
            executable = bool(path.stat().st_mode & 0o100)
            _add(tar, f"lib/{name}", path.read_bytes(), 0o755 if executable else 0o644)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint() -> str:
    """Changes with whatever the archive is made of, and is quick: names, sizes and times."""
    said = hashlib.sha256(launcher().encode())
    for name, path in files():
        stat = path.stat()
        said.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return said.hexdigest()[:16]


def kept(folder: Path) -> tuple[Path, str]:
    """(the archive of this environment below a folder, its sha256); made when it is not there, others are removed."""
    target = folder / f"agent-{fingerprint()}.tar.gz"
    digest = sha256_of(target) if target.is_file() else build(target)
    for other in folder.glob("agent-*.tar.gz"):
        if other != target:
            other.unlink(missing_ok=True)
    return target, digest


if __name__ == "__main__":
    sys.stdout.write(build(Path(sys.argv[1])) + "\n")
