"""Files that are whole once they have their names: written beside, synced, renamed; for their owner alone."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from incl_shared.errors import IntegrityError

_BLOCK = 1 << 20


@contextlib.contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A new file, 0600; on the disk at the end, gone when anything failed."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def copy(source: BinaryIO, path: Path, *, limit: int | None = None) -> tuple[str, int]:
    """Write a new file. limit: more bytes than this are refused. Returns (sha256, bytes).

    Raises:
        IntegrityError: there are more.
    """
    digest, size = hashlib.sha256(), 0
    with created(path) as file:
        while block := source.read(_BLOCK):
            size += len(block)
            if limit is not None and size > limit:
                raise IntegrityError(f"{path.name} is larger than its backup says")
            digest.update(block)
            file.write(block)
    return digest.hexdigest(), size


def close_to_others(root: Path) -> None:
    """All below a folder is for its owner alone."""
    for path in root.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def sync_folders(root: Path) -> None:
    """The names in a folder, and in all below it, are on the disk."""
    for folder, _, _ in os.walk(root):
        sync_folder(Path(folder))


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(root: Path) -> None:
    """All files below a folder, and their names, are on the disk."""
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folders(root)
