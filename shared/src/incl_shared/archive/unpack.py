"""Unpack a foreign tar.zst, member by member, so that nothing can be written out of the destination.

Everything goes into a new private directory beside the destination, which takes its place in one step at the end; a
refused archive leaves nothing behind. Links are made last, when no file can be written through them any more, and each
must resolve inside (the library's extraction filter can be escaped by chains of links; see CVE-2025-4517).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

import zstandard

from incl_shared.archive.tarformat import DIRECTORY, FILE, Member, Reader, display
from incl_shared.errors import ConflictError, InclError, IntegrityError, InvalidInput

_CHUNK: Final = 1 << 20
_MAX_WINDOW: Final = 1 << 27
_RATIO_FROM: Final = 100_000_000
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may hold: bytes of content, members, and (from 100 MB on) bytes out for each byte in."""

    max_bytes: int = 8_000_000_000
    max_members: int = 1_000_000
    max_ratio: float = 1000.0


@dataclass(frozen=True, slots=True)
class UnpackResult:
    """What was written: files and links, and bytes of the files."""

    files: int
    bytes: int


def unpack(
    archive: Path, destination: Path, *, sha256: str | None = None, limits: Limits | None = None
) -> UnpackResult:
    """Unpack `archive` as the directory `destination`, which must not exist, or be empty.

    Args:
        archive: a tar.zst file.
        destination: becomes the root of the tree.
        sha256: of the archive; checked while it is read.
        limits: against archives that explode.

    Raises:
        InvalidInput: a member that is not allowed, or a limit passed; names the member.
        IntegrityError: the archive is damaged or cut short, or its checksum is another.
        ConflictError: the destination is not empty.
        InclError: the files cannot be written (disk full).
    """
    destination = Path(destination).absolute()
    if destination.is_symlink() or (destination.exists() and (not destination.is_dir() or any(destination.iterdir()))):
        raise ConflictError(f"{destination} exists and is not an empty directory")
    destination.parent.mkdir(parents=True, exist_ok=True)
    root = tempfile.mkdtemp(prefix=f".{destination.name[:100]}.", suffix=".partial", dir=destination.parent)
    try:
        with archive.open("rb") as source:
            result = _Unpacker(os.fsencode(os.path.realpath(root)), source, limits or Limits()).run(sha256)
        Path(root).chmod(0o755)
        Path(root).rename(destination)
    except OSError as error:
        raise InclError(
            f"cannot unpack {archive.name}",
            cause=f"{error.strerror or error}: {error.filename or ''}".rstrip(": "),
            hint="see that the disk has room and the directory can be written",
        ) from error
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return result


class _Unpacker:
    def __init__(self, root: bytes, source: BinaryIO, limits: Limits) -> None:
        self._root = root
        self._source = _Source(source)
        self._stream = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            cast(IO[bytes], self._source), read_size=_CHUNK, read_across_frames=True
        )
        self._limits = limits
        self._out = 0
        self._kinds: dict[bytes, bytes] = {b"": DIRECTORY}
        self._links: list[tuple[bytes, bytes]] = []
        self._files = 0
        self._bytes = 0

    def run(self, sha256: str | None) -> UnpackResult:
        reader = Reader(self._read)
        members = 0
        while (member := reader.next()) is not None:
            members += 1
            if members > self._limits.max_members:
                raise InvalidInput(f"the archive has more than {self._limits.max_members} members")
            self._member(member)
            if member.kind == FILE:
                reader.skip_padding(member.size)
        self._drain()
        if sha256 is not None and self._source.hash.hexdigest() != sha256:
            raise IntegrityError(
                "the archive is not the one that was stored",
                cause=f"its sha256 is {self._source.hash.hexdigest()}, wanted {sha256}",
                hint="download it again",
            )
        self._make_links()
        return UnpackResult(self._files, self._bytes)

    def _read(self, count: int) -> bytes:
        """Exactly count bytes of the tar, fewer at its end."""
        pieces: list[bytes] = []
        left = count
        while left:
            try:
                piece = self._stream.read(min(left, _CHUNK))
            except zstandard.ZstdError as error:
                raise IntegrityError("the archive is damaged", cause=str(error), hint="upload it again") from error
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        self._out += count - left
        self._check_volume()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _check_volume(self) -> None:
        headers = 2048 * (len(self._kinds) + 1)
        if self._out > self._limits.max_bytes + headers:
            raise InvalidInput(f"the archive holds more than {self._limits.max_bytes} bytes")
        if self._out > _RATIO_FROM and self._out > self._limits.max_ratio * self._source.count:
            raise InvalidInput(f"the archive grows more than {self._limits.max_ratio:g} times when it is unpacked")

    def _drain(self) -> None:
        """What follows the end of the archive must be zeros; all of the file is read, so that its hash is complete."""
        while piece := self._read(_CHUNK):
            if piece.strip(b"\0"):
                raise InvalidInput("the archive has data after its end")
        while self._source.read(_CHUNK):
            pass

    def _member(self, member: Member) -> None:
        path = _checked_path(member.name)
        if not path and member.kind != DIRECTORY:
            raise InvalidInput(f"the archive has a member without a name: {display(member.name)}")
        self._parents(path)
        known = self._kinds.get(path)
        if known is not None and not known == member.kind == DIRECTORY:
            raise InvalidInput(f"the archive has {display(path)} twice")
        if member.kind == DIRECTORY:
            self._directory(path)
            return
        self._kinds[path] = member.kind
        self._files += 1
        if member.kind == FILE:
            self._file(path, member)
        else:
            self._links.append((path, _checked_target(path, member.target)))

    def _parents(self, path: bytes) -> None:
        at = path.find(b"/")
        while at >= 0:
            parent = path[:at]
            kind = self._kinds.get(parent)
            if kind is None:
                self._directory(parent)
            elif kind != DIRECTORY:
                raise InvalidInput(f"the archive puts {display(path)} below something that is not a directory")
            at = path.find(b"/", at + 1)

    def _directory(self, path: bytes) -> None:
        if path not in self._kinds:
            os.mkdir(self._root + b"/" + path, 0o755)  # noqa: PTH102
            self._kinds[path] = DIRECTORY

    def _file(self, path: bytes, member: Member) -> None:
        if self._bytes + member.size > self._limits.max_bytes:
            raise InvalidInput(f"the archive holds more than {self._limits.max_bytes} bytes, with {display(path)}")
        handle = os.open(self._root + b"/" + path, _CREATE, 0o755 if member.mode & 0o100 else 0o644)
        try:
            _copy(self._read, handle, member, path)
        finally:
            os.close(handle)
        self._bytes += member.size

    def _make_links(self) -> None:
        for path, target in self._links:
            os.symlink(target, self._root + b"/" + path)  # noqa: PTH211
        for path, target in self._links:
            real = os.path.realpath(self._root + b"/" + path)
            if real != self._root and not real.startswith(self._root + b"/"):
                raise _link_out(path, target)


class _Source:
    """The compressed file: hashed and counted as it is read."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.hash = hashlib.sha256()
        self.count = 0

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self.hash.update(data)
        self.count += len(data)
        return data


def _copy(read: Callable[[int], bytes], handle: int, member: Member, path: bytes) -> None:
    left = member.size
    while left:
        piece = read(min(left, _CHUNK))
        if not piece:
            raise IntegrityError(f"the archive is cut short in {display(path)}", hint="upload it again")
        view = memoryview(piece)
        while view:
            view = view[os.write(handle, view) :]
        left -= len(piece)


def _checked_path(name: bytes) -> bytes:
    """The member's path, normalised; the root is empty."""
    if name.startswith(b"/"):
        raise InvalidInput(f"the archive has an absolute path: {display(name)}")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidInput(f"the archive has a path out of its tree: {display(name)}")
    if b"\0" in name or len(name) > 4096 or any(len(part) > 255 for part in parts):
        raise InvalidInput(f"the archive has a name that cannot be a path: {display(name)}")
    return b"/".join(parts)


def _checked_target(path: bytes, target: bytes) -> bytes:
    if not target or b"\0" in target or len(target) > 4095:
        raise InvalidInput(f"the archive has a link without a usable target: {display(path)}")
    depth = path.count(b"/")
    for part in target.split(b"/"):
        depth += -1 if part == b".." else 0 if part in (b"", b".") else 1
        if depth < 0:
            raise _link_out(path, target)
    if target.startswith(b"/"):
        raise _link_out(path, target)
    return target


def _link_out(path: bytes, target: bytes) -> InvalidInput:
    return InvalidInput(f"the archive has a link out of its tree: {display(path)} -> {display(target)}")
