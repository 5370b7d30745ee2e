"""Which files a job leaves behind, found without following anything out of its folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """A file to keep: its name in the experiment, and the real file that holds its bytes."""

    path: str
    file: Path
    mode: int
    size: int


@dataclass
class Collected:
    """The files, what was left out with the reason, and the patterns that matched nothing."""

    files: list[Found]
    skipped: list[str]
    unmatched: list[str]


def collect(outputs: Path, work: Path, patterns: tuple[str, ...]) -> Collected:
    """All files below `outputs`, and what the patterns match below `work`.

    A symbolic link counts as the file that it points to, as long as that lies in one of the two folders; sockets,
    pipes and devices are left out. A name that both give is taken from `outputs`.
    """
    roots = tuple(Path(os.path.realpath(root)) for root in (outputs, work))
    matches = {pattern: list(_match(work, pattern)) for pattern in patterns}
    collected = Collected([], [], [pattern for pattern, files in matches.items() if not files])
    seen: set[str] = set()
    for base, file in [
        *((outputs, file) for file in _walk(outputs)),
        *((work, file) for files in matches.values() for file in files),
    ]:
        name = _name(file.relative_to(base))
        if name in seen:
            continue
        seen.add(name)
        found = _found(name, file, roots)
        if isinstance(found, Found):
            collected.files.append(found)
        else:
            collected.skipped.append(f"{name}: {found}")
    return collected


def _walk(root: Path) -> Iterator[Path]:
    """Everything below root that is no directory; links to directories are not entered."""
    for folder, _, names in os.walk(root, followlinks=False):
        for name in sorted(names):
            yield Path(folder, name)


def _match(work: Path, pattern: str) -> Iterator[Path]:
    for path in sorted(work.glob(pattern.removeprefix("./"))):
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)
        else:
            yield path


def _found(name: str, file: Path, roots: tuple[Path, ...]) -> Found | str:
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(root) for root in roots):
        return "a link that leads out of the job's folders"
    try:
        status = real.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    if len(name) > 2048:
        return "the name is too long"
    return Found(name, real, stat.S_IMODE(status.st_mode) & 0o777, status.st_size)


def _name(path: Path) -> str:
    """As text; bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
