"""Opening what lies in a directory without ever following a link, whatever becomes of its components meanwhile."""

from __future__ import annotations

import errno
import os
from typing import Final

_STEP: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_beneath(root: int, path: bytes, *, directory: bool = False) -> int:
    """A descriptor of what lies at `path` (relative, without '..'; empty: the root itself) below the directory `root`.

    Every component is opened by itself, in the directory held before it: one that has become a link is refused, and one
    that is exchanged meanwhile leads at most to another place that was below the root a moment before.

    Raises:
        OSError: it is not there, or a component is a link (ELOOP, ENOTDIR).
        ValueError: the path leads upwards.
    """
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts or path.startswith(b"/"):
        raise ValueError("not a path below")
    held = os.open(b".", _STEP, dir_fd=root)
    try:
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            following = os.open(part, _FILE if last and not directory else _STEP, dir_fd=held)
            os.close(held)
            held = following
    except BaseException:
        os.close(held)
        raise
    return held


def is_link(error: OSError) -> bool:
    """Whether opening failed as a component is a link, or is no directory any more."""
    return error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)


class Folders:
    """Keeps the last directory open, as files are read directory by directory."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._path: bytes | None = None
        self._held = -1

    def open_file(self, path: bytes) -> int:
        """As open_beneath, for a file."""
        folder, _, name = path.rpartition(b"/")
        if folder != self._path:
            held = open_beneath(self._root, folder, directory=True)
            self.close()
            self._path, self._held = folder, held
        return os.open(name, _FILE, dir_fd=self._held)

    def close(self) -> None:
        """Let go."""
        if self._path is not None:
            os.close(self._held)
            self._path = None
