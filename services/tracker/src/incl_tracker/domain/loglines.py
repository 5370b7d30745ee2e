"""Lines of output in blobs and pages. A cursor is the number of lines of the experiment that lie before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
import zstandard

from incl_shared.queries.tracker import LogLine
from incl_shared.telemetry.wire import Line

PART = 1
HEAD_BYTES = 18
"""Of a blob: what tells how big it is."""
STREAMS: tuple[Literal["out", "err", "sys"], ...] = ("out", "err", "sys")
_decoder = msgspec.msgpack.Decoder(list[Line])
_encoder = msgspec.msgpack.Encoder()


def pack(lines: list[Line]) -> bytes:
    """Lines as a blob."""
    return zstandard.ZstdCompressor(level=3).compress(_encoder.encode(lines))


def unpack(blob: bytes) -> list[Line]:
    """Lines of a blob."""
    return read_lines(decompressed(blob))


def decompressed(blob: bytes) -> bytes:
    """The bytes of a blob: msgpack, with the texts in it as they are."""
    return zstandard.ZstdDecompressor().decompress(blob)


def size_of_blob(head: bytes) -> int:
    """How many bytes a blob is when unpacked, by its first HEAD_BYTES."""
    return max(0, zstandard.frame_content_size(head))


def read_lines(plain: bytes) -> list[Line]:
    """Lines of these bytes."""
    return _decoder.decode(plain)


def shown(line: Line, attempt: int, rank: int) -> LogLine:
    """A line as it is answered."""
    stream = STREAMS[line.stream] if 0 <= line.stream < len(STREAMS) else "sys"
    text = line.text.encode("utf-8", "replace").decode()
    return LogLine(attempt=attempt, rank=rank, stream=stream, time=line.time, text=text, part=bool(line.flags & PART))


def joined(lines: Iterable[LogLine]) -> Iterator[LogLine]:
    """Parts of one long line that follow one another become one; only the last of a page can be a part still."""
    held: list[LogLine] = []
    for line in lines:
        if held and (held[-1].attempt, held[-1].rank, held[-1].stream) != (line.attempt, line.rank, line.stream):
            yield _one(held)
            held = []
        held.append(line)
        if not line.part:
            yield _one(held)
            held = []
    if held:
        yield _one(held)


def size_of(line: LogLine) -> int:
    """About how many bytes a line takes in a message."""
    return len(line.text.encode()) + line.text.count('"') + line.text.count("\\") + 5 * _controls(line.text) + 90


def _controls(text: str) -> int:
    return 0 if text.isprintable() else sum(1 for c in text if c < " ")


def _one(parts: list[LogLine]) -> LogLine:
    if len(parts) == 1:
        return parts[0]
    return parts[0].model_copy(update={"text": "".join(p.text for p in parts), "part": parts[-1].part})
