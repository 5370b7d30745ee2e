"""Reading the spools of the SDK: every line of every writer once, in order, with its number.

The reader keeps nothing that matters: whoever ships holds a Position for each writer and hands it back.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from incl_shared.ids import TOKEN_PATTERN

READ_BYTES = 1 << 20
"""A line longer than this is no record."""
ENDING = ".jsonl"
DIRECTORY_ENDING = ".incl-dir.tar.zst"
"""A checkpoint that is a directory is stored as one archive, under its name with this ending."""
_HEAD = 128
_TOKEN = re.compile(TOKEN_PATTERN)
_INT64 = 2**63
_BARE = re.compile(rb"NaN|Infinity")
_START = b'{"k":"'


@dataclass(frozen=True, slots=True)
class Position:
    """How far a writer's file is read. offset: bytes; sequence: lines before it; dropped: records told of as lost."""

    offset: int = 0
    sequence: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive lines of one writer, without their newlines; end is the position after them."""

    writer: str
    first: int
    lines: list[bytes]
    offset: int


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file. A job can put anything into its spool: a link that leads to files which it may
    not see itself is not followed, and a pipe does not make its reader wait.

    Raises:
        OSError: it is something else, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


class SpoolReader:
    """Tails all `*.jsonl` of a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._heads: dict[str, bytes] = {}
        self._moved: dict[str, tuple[int, int]] = {}

    def writers(self) -> list[str]:
        """The writers that there are by now, in the order of their names."""
        try:
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(ENDING)]
        except FileNotFoundError:
            return []
        return sorted(name for name in (n.removesuffix(ENDING) for n in names) if _TOKEN.match(name))

    def read(self, writer: str, position: Position, *, max_records: int = 5000) -> Piece | None:
        """The next complete lines after position, at most max_records of them and READ_BYTES; None: nothing yet."""
        try:
            descriptor = open_regular(self.directory / f"{writer}{ENDING}", os.O_RDONLY)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                offset = self._begin(writer, file.fileno(), position.offset)
                data = os.pread(file.fileno(), READ_BYTES, offset)
                end = data.rfind(b"\n") + 1
                if end == 0:
                    return self._overlong(writer, position, file.fileno(), offset) if len(data) == READ_BYTES else None
        except OSError:
            return None
        lines = data[: end - 1].split(b"\n", max_records)
        if len(lines) > max_records:
            end -= len(lines.pop()) + 1
        return Piece(writer, position.sequence + 1, lines, offset + end)

    def tail(self, writer: str, position: Position) -> int:
        """Bytes after position that end in no newline: a record that its writer never finished."""
        try:
            status = (self.directory / f"{writer}{ENDING}").lstat()
        except OSError:
            return 0
        return max(0, status.st_size - position.offset) if stat.S_ISREG(status.st_mode) else 0

    def seek(self, writer: str, sequence: int) -> Position:
        """The position after record `sequence`, or after the last one there is. Reads the file from its beginning."""
        position = Position()
        while position.sequence < sequence:
            piece = self.read(writer, position, max_records=min(5000, sequence - position.sequence))
            if piece is None:
                break
            position = after(position, piece)
        return position

    def _begin(self, writer: str, descriptor: int, offset: int) -> int:
        """Where to read on. A file that shrank was emptied (all in it is new) or cut (same beginning)."""
        size = os.fstat(descriptor).st_size
        head = self._heads.get(writer, b"")
        asked = offset
        known = self._moved.pop(writer, None)
        if known is not None and known[0] == asked:
            offset = known[1]
        if size < offset:
            same = bool(head) and os.pread(descriptor, len(head), 0) == head[:size]
            offset, head = size if same else 0, b""
        if offset != asked:
            self._moved[writer] = (asked, offset)  # until the caller's position has gone on
        if len(head) < _HEAD and size > len(head):
            self._heads[writer] = os.pread(descriptor, _HEAD, 0)
        return offset

    def _overlong(self, writer: str, position: Position, descriptor: int, offset: int) -> Piece | None:
        at = offset
        while data := os.pread(descriptor, READ_BYTES, at):
            found = data.find(b"\n")
            if found >= 0:
                return Piece(writer, position.sequence + 1, [b""], at + found + 1)
            at += len(data)
        return None


def after(position: Position, piece: Piece) -> Position:
    """The position after a piece."""
    dropped = sum(drops(line) for line in piece.lines if line.startswith(b'{"k":"d"'))
    return Position(piece.offset, position.sequence + len(piece.lines), position.dropped + dropped)


class Scalars(msgspec.Struct, tag_field="k", tag="m"):
    """An 'm' record."""

    t: float
    s: Annotated[int, msgspec.Meta(ge=-_INT64, le=_INT64 - 1)]
    v: dict[str, float]


_scalars = msgspec.json.Decoder(Scalars)


def scalars(line: bytes) -> Scalars | None:
    """The scalars of a line; None when it has none."""
    if line.startswith(b'{"k":"m"'):
        try:
            return _scalars.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    record = loads(line)
    return _tolerant(record) if record is not None and record.get("k") == "m" else None


def loads(line: bytes) -> dict[str, Any] | None:
    """A record of any kind; None when the line is none. What stands after a torn line on the same line is found."""
    for text in (line, *_glued(line)):
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("k"), str):
            return record
    return None


def _glued(line: bytes) -> Iterator[bytes]:
    start = line.rfind(_START)
    if start > 0:
        yield line[start:]


def _tolerant(record: dict[str, Any]) -> Scalars | None:
    step, values, now = record.get("s"), record.get("v"), record.get("t")
    if type(step) is not int or not -_INT64 <= step < _INT64 or not isinstance(values, dict):
        return None
    if not isinstance(now, int | float):
        return None
    kept = {}
    for name, value in values.items():
        if isinstance(value, int | float):
            try:
                kept[name.encode("utf-8", "replace").decode()] = float(value)
            except OverflowError:
                continue
    return Scalars(float(now), step, kept)


def drops(line: bytes) -> int:
    """How many records a 'd' line says were lost; 0 when it is none."""
    record = loads(line)
    count = record.get("n") if record is not None and record.get("k") == "d" else None
    return count if type(count) is int and count > 0 else 0


def as_extra(line: bytes) -> bytes | None:
    """The line of a record that is no scalar, valid JSON but for a bare NaN; None: no record."""
    record = loads(line)
    if record is None or record["k"] == "m":
        return None
    text = json.dumps(record, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A 'c' or 'f' record whose file still lies in the spool."""

    writer: str
    sequence: int
    record: dict[str, Any]
    path: Path

    @property
    def listed_as(self) -> str:
        """The path under which it is listed among the files of the experiment; never leads out of it."""
        record = self.record
        if record["k"] == "c":
            name = str(record.get("path") or self.path.name)
        else:
            name = f"{record.get('key', 'media')}/{record.get('s', 0)}/{record.get('name') or self.path.name}"
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        return "/".join(parts)[:2000] or self.path.name


def spooled_files(directory: Path) -> list[SpooledFile]:
    """Every file that waits in a spool, oldest first of each writer: what to upload after a restart.

    A file outside the spool is not named, whatever a record says.
    """
    reader, found, inside = SpoolReader(directory), [], directory.resolve()
    for writer in reader.writers():
        position = Position()
        while (piece := reader.read(writer, position)) is not None:
            for number, line in enumerate(piece.lines, piece.first):
                file = spooled_file(inside, writer, number, line)
                if file is not None:
                    found.append(file)
            position = after(position, piece)
    return found


def spooled_file(directory: Path, writer: str, sequence: int, line: bytes) -> SpooledFile | None:
    """The file that a line speaks of, when it lies in this (resolved) spool directory and is still there."""
    if not line.startswith((b'{"k":"c"', b'{"k":"f"')):
        return None
    record = loads(line)
    name = record.get("file") if record is not None else None
    if record is None or not isinstance(name, str) or "\x00" in name:
        return None
    path = Path(name)
    try:
        inside = path.resolve().is_relative_to(directory)
    except (OSError, RuntimeError):
        return None
    return SpooledFile(writer, sequence, record, path) if inside and path.exists() else None
