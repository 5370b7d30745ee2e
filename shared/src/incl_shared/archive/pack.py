"""Pack a working directory into a deterministic tar.zst: the same files give the same bytes, and so the same sha256.

Order by the bytes of the paths, no times, no owners, one of two modes. zstd with workers gives the same bytes for any
number of workers, one or more (https://github.com/facebook/zstd, doc of nbWorkers); so the number of cores is free.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import zstandard

from incl_shared.archive.beneath import Folders, is_link
from incl_shared.archive.tarformat import (
    DIRECTORY,
    END_OF_ARCHIVE,
    FILE,
    Member,
    display,
    header,
    padding,
)
from incl_shared.archive.tree import Entry, Tree, open_root, scan_held, unreadable
from incl_shared.errors import InclError, InvalidInput

WARN_BYTES: Final = 200_000_000
MAX_BYTES: Final = 2_000_000_000

_CHUNK = 1 << 20
_SMALL = 4 << 20


@dataclass(frozen=True, slots=True)
class PackResult:
    """A packed directory. `size` is the bytes of the archive, `bytes` those of the files before compression."""

    path: Path
    sha256: str
    size: int
    files: int
    bytes: int
    largest: tuple[tuple[str, int], ...]
    skipped: dict[str, int]
    warnings: tuple[str, ...]


class _Changed(Exception):  # noqa: N818
    """A file changed while it was read."""

    def __init__(self, path: bytes) -> None:
        super().__init__(path)
        self.path = path


def pack(
    root: Path,
    target: Path,
    *,
    max_bytes: int = MAX_BYTES,
    warn_bytes: int = WARN_BYTES,
    level: int = 3,
    everything: bool = False,
) -> PackResult:
    """Pack the directory `root` into the new file `target` (replaced should it exist, in one step).

    The root is opened once: whatever its path leads to afterwards, and whatever becomes of the directories in it, no
    file from outside gets into the archive.

    Args:
        everything: no ignore file counts, and nothing is left out by its name: for checkpoints.

    Raises:
        InvalidInput: no directory, something in it that cannot be read or does not hold still, or more than max_bytes.
        InclError: the archive cannot be written (disk full).
    """
    target = Path(target).absolute()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    exclude = frozenset({target, partial})
    held = open_root(root)
    try:
        for attempt in (1, 2):
            tree = scan_held(held, root, exclude, everything=everything)
            check_size(tree, max_bytes)
            try:
                digest, size, total = _write(tree, held, partial, level)
                partial.replace(target)
                break
            except _Changed as change:
                if attempt == 2:
                    raise _restless(change.path) from None
            except InclError:
                raise
            except OSError as error:
                raise InclError(
                    f"cannot write the archive {target}",
                    cause=error.strerror or str(error),
                    hint="free some disk space, or set TMPDIR to a directory with room",
                ) from error
            finally:
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)
    finally:
        os.close(held)
    warnings = (*tree.warnings, *_large(tree, warn_bytes))
    return PackResult(target, digest, size, tree.files, total, tree.largest(), dict(tree.skipped), warnings)


def check_size(tree: Tree, max_bytes: int = MAX_BYTES) -> None:
    """Refuse a tree that is too large to be code.

    Raises:
        InvalidInput: with the largest directories by name.
    """
    total = tree.bytes
    if total > max_bytes:
        named = ", ".join(f"{name} ({_size(size)})" for name, size in tree.largest_directories())
        raise InvalidInput(
            f"the directory holds {_size(total)}, more than the {_size(max_bytes)} that can be packed",
            cause=f"the largest: {named}",
            hint="list data and results in .inclignore, and mount data with `data:`",
        )


def _large(tree: Tree, warn_bytes: int) -> tuple[str, ...]:
    if tree.bytes <= warn_bytes:
        return ()
    named = ", ".join(f"{name} ({_size(size)})" for name, size in tree.largest_directories())
    return (f"packed {_size(tree.bytes)}; the largest: {named}. What is no code belongs into .inclignore",)


def _write(tree: Tree, held: int, path: Path, level: int) -> tuple[str, int, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out, contextlib.closing(Folders(held)) as folders:
        sink = _Sink(out, level)
        for entry in tree.entries:
            if entry.kind == FILE:
                _add_file(sink, folders, entry)
            elif entry.kind == DIRECTORY:
                sink.add(header(Member(entry.path + b"/", DIRECTORY, mode=0o755)))
            else:
                sink.add(header(Member(entry.path, entry.kind, mode=0o777, target=entry.target)))
        return (*sink.finish(), sink.content)


class _Sink:
    """Compresses, hashes and writes in pieces of a megabyte."""

    def __init__(self, out: BinaryIO, level: int) -> None:
        workers = min(4, os.cpu_count() or 1)
        self._compressor = zstandard.ZstdCompressor(level=level, threads=workers, write_checksum=True).compressobj()
        self._hash = hashlib.sha256()
        self._out = out
        self._buffer = bytearray()
        self._size = 0
        self.content = 0

    def add(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _CHUNK:
            self._emit(self._compressor.compress(bytes(self._buffer)))
            self._buffer.clear()

    def finish(self) -> tuple[str, int]:
        self.add(END_OF_ARCHIVE)
        self._emit(self._compressor.compress(bytes(self._buffer)) + self._compressor.flush())
        return self._hash.hexdigest(), self._size

    def _emit(self, data: bytes) -> None:
        self._out.write(data)
        self._hash.update(data)
        self._size += len(data)


def _add_file(sink: _Sink, folders: Folders, entry: Entry) -> None:
    handle = _open(folders, entry)
    try:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise _Changed(entry.path)
        mode = 0o755 if before.st_mode & stat.S_IXUSR else 0o644
        if before.st_size <= _SMALL:
            data = _read_small(handle, entry)
            sink.add(header(Member(entry.path, FILE, len(data), mode)) + data + padding(len(data)))
            sink.content += len(data)
            return
        sink.add(header(Member(entry.path, FILE, before.st_size, mode)))
        for chunk in _read_large(handle, entry, before):
            sink.add(chunk)
        sink.add(padding(before.st_size))
        sink.content += before.st_size
    finally:
        os.close(handle)


def _open(folders: Folders, entry: Entry) -> int:
    try:
        return folders.open_file(entry.path)
    except FileNotFoundError:
        raise _Changed(entry.path) from None
    except OSError as error:
        if is_link(error):
            raise _Changed(entry.path) from None
        raise unreadable(entry.path, error) from error


def _read_small(handle: int, entry: Entry) -> bytes:
    """The whole content; read again once when the file changed meanwhile."""
    for _ in range(2):
        before = os.fstat(handle)
        data = b""
        try:
            while piece := os.pread(handle, before.st_size + 1 - len(data), len(data)):
                data += piece
        except OSError as error:
            raise unreadable(entry.path, error) from error
        if len(data) == before.st_size and _same(before, os.fstat(handle)):
            return data
    raise _Changed(entry.path)


def _read_large(handle: int, entry: Entry, before: os.stat_result) -> Iterator[bytes]:
    left = before.st_size
    while left:
        try:
            chunk = os.read(handle, min(left, _CHUNK))
        except OSError as error:
            raise unreadable(entry.path, error) from error
        if not chunk:
            break
        left -= len(chunk)
        yield chunk
    if left or not _same(before, os.fstat(handle)):
        raise _Changed(entry.path)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns


def _restless(path: bytes) -> InvalidInput:
    name = display(path)
    return InvalidInput(
        f"{name} changes while it is packed",
        hint="wait until nothing writes it, or add it to .inclignore",
    )


def _size(count: int) -> str:
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count} bytes"
