"""The output of a job, line by line, numbered once and for ever.

Raw output lies in files that the job's shim writes. Which bytes became which lines, and when they were seen, is written
to an index file before anybody ships them: after a crash the same bytes have the same numbers and times. The index
holds no text (a frame says where it lies), so a line is on the disk once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from incl_shared.telemetry.lines import MAX_PIECE_BYTES, REPLACES, Kind, cut, split
from incl_shared.telemetry.spool import Position
from incl_shared.telemetry.wire import MAX_LINE_CHARACTERS, Line

OUT, ERR, SAID = 0, 1, 2
WINDOW = 1 << 20
_INDEX_WINDOW = 1 << 17
PROGRESS_S = 1.0
"""A progress bar says one state in this time, and its last one."""
_MAX_FRAMES = 64


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """Lines first … first+count-1 of one stream: the bytes [start, end) of its file, or a text of the platform."""

    first: int
    count: int
    time: float
    stream: int
    start: int
    end: int
    kind: int
    replaces: bool = False
    text: str = ""


class _Stream:
    """How far one file is taken in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self.replaces = False
        self.open = False
        self.shown = (-1, -1)
        self.shown_at = float("-inf")

    def take(self, frame: Frame) -> None:
        self.at = frame.start if frame.kind == Kind.PROGRESS else frame.end
        self.replaces = frame.kind == Kind.PROGRESS
        self.open = frame.kind == Kind.OPEN
        self.shown = (frame.start, frame.end) if frame.kind == Kind.PROGRESS else (-1, -1)


_frame_decoder = msgspec.json.Decoder(Frame)


class LogTailer:
    """Takes in the files of a job. One object and one process at a time for an index."""

    def __init__(self, files: Mapping[int, Path], index: Path) -> None:
        self.index = index
        self.sequence = 0
        self._streams = {number: _Stream(path) for number, path in files.items()}
        self._index_size = 0
        self._fd = os.open(index, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._recover()

    def close(self) -> None:
        """Let the index go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _recover(self) -> None:
        for frame, end in self._frames(0):
            self.sequence = frame.first + frame.count - 1
            self._index_size = end
            if frame.stream in self._streams:
                self._streams[frame.stream].take(frame)
        os.ftruncate(self._fd, self._index_size)

    def poll(self, now: float) -> int:
        """Take in what the files have got. now: seconds since the epoch.

        Returns:
            How many lines are new.
        Raises:
            OSError: the index cannot be written (disk full): nothing is taken in, try again later.
        """
        return self._take(now, final=False)

    def finish(self, now: float) -> int:
        """Take in all that is left, the last line without its newline too: the job has ended."""
        return self._take(now, final=True)

    def say(self, text: str, now: float) -> None:
        """Add words of the platform after what the files have got by now.

        Raises:
            OSError: the index cannot be written.
        """
        self._take(now, final=False)
        clean = text.encode("utf-8", "replace").decode()
        frames = []
        for number, line in enumerate(clean.split("\n"), self.sequence + 1):
            frames.append(Frame(number, 1, now, SAID, 0, 0, Kind.SAID, text=line[:MAX_LINE_CHARACTERS]))
        self._write(frames)

    def _take(self, now: float, *, final: bool) -> int:
        before = self.sequence
        for number, stream in self._streams.items():
            with suppress(FileNotFoundError), stream.path.open("rb", buffering=0) as file:
                while self._take_some(number, stream, file.fileno(), now, final=final):
                    pass
        return self.sequence - before

    def _take_some(self, number: int, stream: _Stream, descriptor: int, now: float, *, final: bool) -> bool:
        if os.fstat(descriptor).st_size < stream.at:
            stream.at = 0  # emptied behind our back
        data = os.pread(descriptor, WINDOW, stream.at)
        final = final and len(data) < WINDOW
        frames: list[Frame] = []
        first, base, at = self.sequence + 1, stream.at, 0
        replaces, shown = stream.replaces, False
        while len(frames) < _MAX_FRAMES and (piece := cut(data[at:], final=final)) is not None:
            start, end = base + at + piece.start, base + at + piece.end
            if piece.kind is Kind.PROGRESS:
                full = len(data) - at >= MAX_PIECE_BYTES
                newest = not full and len(data) < WINDOW
                shown = newest and self._worth_showing(stream, start, end, now)
                if shown:
                    frames.append(Frame(first, 1, now, number, start, end, piece.kind, replaces))
                at += piece.start
                if full:
                    continue
                break
            frames.append(Frame(first, piece.lines, now, number, start, end, piece.kind, replaces))
            first, at, replaces = first + piece.lines, at + piece.end, False
        if final and not frames and not data and stream.open:
            frames.append(Frame(first, 1, now, number, base, base, Kind.LINES))
        self._write(frames)
        for frame in frames:
            stream.take(frame)
        stream.at = base + at
        if shown:
            stream.shown_at = now
        return at > 0 and not shown

    @staticmethod
    def _worth_showing(stream: _Stream, start: int, end: int, now: float) -> bool:
        return end > start and (start, end) != stream.shown and not 0 <= now - stream.shown_at < PROGRESS_S

    def _write(self, frames: list[Frame]) -> None:
        if not frames:
            return
        data = b"".join(msgspec.json.encode(frame) + b"\n" for frame in frames)
        try:
            written = os.write(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, self._index_size)
            raise
        if written != len(data):
            os.ftruncate(self._fd, self._index_size)
            raise OSError(28, "the index of the log cannot be written", str(self.index))
        self._index_size += len(data)
        self.sequence = frames[-1].first + frames[-1].count - 1

    def _frames(self, offset: int) -> Iterator[tuple[Frame, int]]:
        """The frames from an offset of the index on, each with the offset after it."""
        while data := os.pread(self._fd, _INDEX_WINDOW, offset):
            end = data.rfind(b"\n") + 1
            if end == 0:
                return
            for line in data[:end].splitlines(keepends=True):
                try:
                    frame = _frame_decoder.decode(line)
                except msgspec.DecodeError:
                    return
                offset += len(line)
                yield frame, offset

    def lines(self, offset: int, *, max_lines: int, max_bytes: int) -> tuple[int, list[Line], int]:
        """Whole frames from an offset of the index on, at least one: (number of the first line, lines, offset after).

        No lines: there are none yet.
        """
        found: list[Line] = []
        first = size = 0
        descriptors: dict[int, int] = {}
        try:
            for frame, end in self._frames(offset):
                cost = frame.end - frame.start + len(frame.text)
                if found and (len(found) + frame.count > max_lines or size + cost > max_bytes):
                    break
                first = first or frame.first
                found.extend(self._texts(frame, descriptors))
                size, offset = size + cost, end
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)
        return first, found, offset

    def seek(self, sequence: int) -> Position:
        """The place in the index of the frame that has line sequence+1: whole frames only, so it may begin before."""
        position = Position()
        for frame, end in self._frames(0):
            last = frame.first + frame.count - 1
            if last > sequence:
                break
            position = Position(end, last)
        return position

    def _texts(self, frame: Frame, descriptors: dict[int, int]) -> list[Line]:
        if frame.kind == Kind.SAID:
            return [Line(frame.time, frame.stream, frame.text)]
        raw = self._raw(frame, descriptors)
        if frame.kind == Kind.LINES:
            texts = split(raw)[: frame.count]
            # A file that was cut behind our back cannot give all of its lines any more; their numbers stay.
            texts += [(b"", 0)] * (frame.count - len(texts))
        else:
            texts = [(raw[:MAX_LINE_CHARACTERS], 1 if frame.kind == Kind.OPEN else 0)]
        lines = [Line(frame.time, frame.stream, text.decode("utf-8", "replace"), flags) for text, flags in texts]
        if frame.replaces:
            head = lines[0]
            lines[0] = Line(head.time, head.stream, head.text, head.flags | REPLACES)
        return lines

    def _raw(self, frame: Frame, descriptors: dict[int, int]) -> bytes:
        try:
            if frame.stream not in descriptors:
                path = self._streams[frame.stream].path
                descriptors[frame.stream] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(descriptors[frame.stream], frame.end - frame.start, frame.start)
        except (OSError, KeyError):
            return b""
