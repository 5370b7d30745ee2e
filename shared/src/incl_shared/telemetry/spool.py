"""Reading the spools of the SDK: every line of every writer once, in order, with its number.

The reader keeps nothing that matters: whoever ships holds a Position for each writer and hands it back.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from incl_shared.ids import TOKEN_PATTERN
from incl_shared.telemetry.records import DROPS, FILES, INT64, MOST_DROPS, candidates, drops, loads

READ_BYTES = 2 << 20
"""The most that is read at once; a line longer than this is no record."""
ENDING = ".jsonl"
LOST_ENDING = ".lost"
"""Of a file whose length is how many records its writer dropped in all (see docs/mechanisms/spool.md)."""
MAX_WRITERS = 5_000
"""Of one spool; files beyond these are left alone, each a gap."""
DIRECTORY_ENDING = ".incl-dir.tar.zst"
"""A checkpoint that is a directory is stored as one archive, under its name with this ending."""
_HEAD = 128
_TOKEN = re.compile(TOKEN_PATTERN)
_HELD_OF_ONE = 32
_MOST_WORD = 2000


@dataclass(frozen=True, slots=True)
class Position:
    """How far a writer's file is read. offset: bytes; sequence: lines before it; dropped: records told of as lost."""

    offset: int = 0
    sequence: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive lines of one writer. data: their bytes, each line with its newline; offset: the place after them."""

    writer: str
    first: int
    count: int
    data: bytes
    offset: int

    @property
    def lines(self) -> list[bytes]:
        """The lines without their newlines."""
        return self.data[:-1].split(b"\n")

    def cut(self, count: int) -> Piece:
        """The first `count` lines of it."""
        if count >= self.count:
            return self
        rest = len(self.data.split(b"\n", count)[-1])
        return Piece(self.writer, self.first, count, self.data[: len(self.data) - rest], self.offset - rest)


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
    """Tails all `*.jsonl` of a directory.

    The files that grow are held open: a job that deletes its own spool loses nothing that it has written. A file that
    is gone and was not held, or that shrank, has lost an unknown number of records: `lost` counts one for each.
    """

    def __init__(self, directory: Path, *, max_writers: int = MAX_WRITERS) -> None:
        self.directory = directory
        self.lost: dict[str, int] = {}
        self._max_writers = max_writers
        self._writers: set[str] = set()
        self._heads: dict[str, bytes] = {}
        self._moved: dict[str, tuple[int, int]] = {}
        self._searched: dict[str, tuple[int, int]] = {}
        self._held = Held()

    def close(self) -> None:
        """Let the files go."""
        self._held.close()

    def writers(self) -> list[str]:
        """The writers that there are by now, in the order of their names: the first that came, where they are many."""
        if len(self._writers) >= self._max_writers:
            return sorted(self._writers)  # no more of them is taken
        found = self._found()
        self.know(sorted(found - self._writers)[: self._max_writers - len(self._writers)])
        return sorted((found | self._held.names()) & self._writers)

    def know(self, writers: Iterable[str]) -> None:
        """These are writers, whoever else comes."""
        self._writers.update(writers)

    def refused(self) -> int:
        """How many files there are of writers that are too many."""
        return len(self._found() - self._writers) if len(self._writers) >= self._max_writers else 0

    def _found(self) -> set[str]:
        try:
            with os.scandir(self.directory) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(ENDING)]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return set()  # the job took it away; what is held is read on
        return {name for name in (n.removesuffix(ENDING) for n in names) if _TOKEN.fullmatch(name)}

    def read(self, writer: str, position: Position, *, max_records: int = 5000) -> Piece | None:
        """The next complete lines after position, at most max_records of them and READ_BYTES; None: nothing yet."""
        try:
            descriptor = self._held.get(writer, self.directory / f"{writer}{ENDING}")
            offset, size = self._begin(writer, descriptor, position.offset)
            data = os.pread(descriptor, max(0, min(READ_BYTES, size - offset)), offset)
            end = data.rfind(b"\n") + 1
            if end == 0 and len(data) == READ_BYTES:
                return self._overlong(writer, position, descriptor, offset)
        except OSError:
            return None
        if end == 0:
            replaced = self._replaced(writer, descriptor, position, torn=bool(data))
            return self.read(writer, position, max_records=max_records) if replaced else None
        data = data if end == len(data) else data[:end]
        piece = Piece(writer, position.sequence + 1, data.count(b"\n"), data, offset + end)
        return piece.cut(max_records)

    def _replaced(self, writer: str, descriptor: int, position: Position, *, torn: bool) -> bool:
        """All is read. Where the file was deleted and another one has its name, that one is read from now on."""
        try:
            if os.fstat(descriptor).st_nlink:
                return False
            fresh = open_regular(self.directory / f"{writer}{ENDING}", os.O_RDONLY)
        except OSError:
            return False
        os.dup2(fresh, descriptor, inheritable=False)
        os.close(fresh)
        self.lost[writer] = self.lost.get(writer, 0) + torn
        self._moved[writer] = (position.offset, 0)
        self._heads.pop(writer, None)
        return True

    def untold(self, writer: str, position: Position) -> int:
        """Records lost that no record before position (the end of its lines) tells of: a line that was never finished,
        and what the writer dropped until it died."""
        try:
            descriptor = self._held.get(writer, self.directory / f"{writer}{ENDING}")
            tail = os.pread(descriptor, READ_BYTES, position.offset)
        except OSError:
            tail = b""
        lost = _length(self.directory / f"{writer}{LOST_ENDING}")
        if lost and loads(tail) is not None:
            lost += 1  # it lacks its newline alone: its writer did not drop it
        return max(bool(tail), lost - position.dropped)

    def seek(self, writer: str, sequence: int) -> Position:
        """The position after record `sequence`, or after the last one there is. Reads the file from its beginning."""
        return self.skip(writer, Position(), sequence)

    def skip(self, writer: str, position: Position, sequence: int = 2**62) -> Position:
        """The position after record `sequence`, or after the last complete one, from a position before it."""
        while position.sequence < sequence:
            piece = self.read(writer, position, max_records=sequence - position.sequence)
            if piece is None:
                break
            position = after(position, piece)
        return position

    @property
    def missing(self) -> bool:
        """Whether the directory is not there any more (or is none): what was logged since is nowhere."""
        return not self.directory.is_dir()

    def gone(self, writer: str) -> bool:
        """Whether the writer's file is not there any more, and not held either."""
        return writer not in self._held.names() and not (self.directory / f"{writer}{ENDING}").exists()

    def _begin(self, writer: str, descriptor: int, offset: int) -> tuple[int, int]:
        """Where to read on, and the size. A file that shrank was emptied (all in it is new) or cut (same beginning)."""
        size = os.fstat(descriptor).st_size
        head = self._heads.get(writer, b"")
        asked = offset
        known = self._moved.pop(writer, None)
        if known is not None and known[0] == asked:
            offset = known[1]
        if size < offset:
            same = bool(head) and os.pread(descriptor, len(head), 0) == head[:size]
            offset, head = size if same else 0, b""
            self.lost[writer] = self.lost.get(writer, 0) + 1
        if offset != asked:
            self._moved[writer] = (asked, offset)  # until the caller's position has gone on
        if len(head) < _HEAD and size > len(head):
            self._heads[writer] = os.pread(descriptor, _HEAD, 0)
        return offset, size

    def _overlong(self, writer: str, position: Position, descriptor: int, offset: int) -> Piece | None:
        """Seek its end, from where it was sought before. Holes are passed over: a sparse file may have terabytes."""
        begin, at = self._searched.get(writer, (-1, 0))
        at = max(at, offset) if begin == offset else offset
        while (data_at := _data_from(descriptor, at)) is not None:
            data = os.pread(descriptor, READ_BYTES, data_at)
            found = data.find(b"\n")
            if found >= 0:
                self._searched.pop(writer, None)
                return Piece(writer, position.sequence + 1, 1, b"\n", data_at + found + 1)
            at = data_at + len(data)
            self._searched[writer] = (offset, at)
        return None


def _data_from(descriptor: int, at: int) -> int | None:
    """Where the next bytes are that were ever written; none: there are no more."""
    if not hasattr(os, "SEEK_DATA"):
        return at if at < os.fstat(descriptor).st_size else None
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _length(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    return min(status.st_size, MOST_DROPS) if stat.S_ISREG(status.st_mode) else 0


class Held:
    """Open files of one spool, by writer: as many as the process can afford, oldest use let go first."""

    _count: ClassVar[int] = 0
    _most: ClassVar[int] = 0

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def names(self) -> set[str]:
        """Whose files are held."""
        return set(self._open)

    def get(self, writer: str, path: Path) -> int:
        """A descriptor, for use until the next call.

        Raises:
            OSError: there is no such file, and none is held.
        """
        held = self._open.pop(writer, None)
        if held is None:
            held = open_regular(path, os.O_RDONLY)
            Held._count += 1
            if self._open and (Held._count > self._limit() or len(self._open) >= _HELD_OF_ONE):
                self._let_go(next(iter(self._open)))
        self._open[writer] = held
        return held

    @staticmethod
    def _limit() -> int:
        if not Held._most:
            Held._most = max(16, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))
        return Held._most

    def close(self) -> None:
        """Let all go."""
        for writer in list(self._open):
            self._let_go(writer)

    def _let_go(self, writer: str) -> None:
        os.close(self._open.pop(writer))
        Held._count -= 1


def after(position: Position, piece: Piece) -> Position:
    """The position after a piece."""
    dropped = sum(drops(line) for _, line in candidates(piece, DROPS))
    return Position(piece.offset, position.sequence + piece.count, position.dropped + dropped)


@dataclass(frozen=True, slots=True)
class SpooledFile:
    """A 'c', 'f' or 'v' record whose file still lies in the spool."""

    writer: str
    sequence: int
    record: dict[str, Any]
    path: Path

    @property
    def listed_as(self) -> str:
        """The path under which it is listed among the files of the experiment; never leads out of it."""
        record = self.record
        if record["k"] == "c":
            name = _word(record.get("path"), self.path.name)
        elif record["k"] == "v":
            name = f"{_word(record.get('model'), 'model')}/{self.writer}-{self.sequence}/{self.path.name}"
        else:
            key, step = _word(record.get("key"), "media"), _word(record.get("s"), "0")
            name = f"{key}/{step}/{_word(record.get('name'), self.path.name)}"
        clean = name.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
        parts = [part for part in clean.split("/") if part not in ("", ".", "..")]
        return "/".join(parts)[:2000].rstrip("/") or "file"

    @property
    def step(self) -> int | None:
        """The step that its record says, if it says one that can be stored."""
        step = self.record.get("s")
        return step if type(step) is int and -INT64 <= step < INT64 else None


def _word(value: object, other: str) -> str:
    """A value as a part of a path; another one where there is none, or a thing that has no name."""
    return (str(value) or other)[:_MOST_WORD] if isinstance(value, str | int | float) else other


def spooled_files(directory: Path) -> list[SpooledFile]:
    """Every file that waits in a spool, oldest first of each writer: what to upload after a restart.

    A file outside the spool is not named, whatever a record says.
    """
    reader, found, inside = SpoolReader(directory), [], directory.resolve()
    try:
        for writer in reader.writers():
            position = Position()
            while (piece := reader.read(writer, position, max_records=READ_BYTES)) is not None:
                for number, line in candidates(piece, FILES):
                    file = spooled_file(inside, writer, number, line)
                    if file is not None:
                        found.append(file)
                position = after(position, piece)
    finally:
        reader.close()
    return found


def spooled_file(directory: Path, writer: str, sequence: int, line: bytes) -> SpooledFile | None:
    """The file that a line speaks of, when it lies in this (resolved) spool directory and is still there."""
    record = loads(line)
    if record is None or record["k"] not in ("c", "f", "v"):
        return None
    name = record.get("file")
    if not isinstance(name, str) or "\x00" in name:
        return None
    path = Path(name)
    try:
        inside = path.resolve().is_relative_to(directory) and path.exists()
    except (OSError, RuntimeError, UnicodeError):
        return None
    return SpooledFile(writer, sequence, record, path) if inside else None
