"""Raw points of metrics as CSV, JSON lines or Arrow: page by page, so that memory stays flat however many there are."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TextIO

from incl_shared.errors import InvalidInput, UnsupportedError
from incl_shared.queries.tracker import GetPoints, Points

if TYPE_CHECKING:
    from incl_cli.platform import Platform

Pair = tuple[str, str]
"""(experiment, metric)."""


@dataclass(frozen=True)
class Wanted:
    """Which points, in the order of the pairs."""

    pairs: Sequence[Pair]
    rank: int | None = None
    attempt: int | None = None
    from_step: int | None = None
    to_step: int | None = None


class Sink(Protocol):
    """Where pages go."""

    def write(self, page: Points) -> None:
        """Take a page."""

    def close(self) -> None:
        """Nothing more comes."""


def need_arrow() -> Any:
    """The library that writes Arrow.

    Raises:
        UnsupportedError: it is not installed; with the command that does.
    """
    try:
        import pyarrow as arrow
        import pyarrow.ipc
    except ImportError:
        raise UnsupportedError(
            "Arrow needs the package pyarrow, which is not installed", hint="pip install 'incl[arrow]', or --format csv"
        ) from None
    return arrow


async def export(platform: Platform, wanted: Wanted, kind: str, stdout: TextIO, target: Path | None) -> int:
    """Write all points to a file, which is there whole or not at all, or to stdout. Returns how many they are.

    Raises:
        InvalidInput: Arrow on a terminal, or a file that cannot be written.
        UnsupportedError: Arrow without pyarrow.
    """
    if target is None:
        if kind == "arrow" and (stdout.isatty() or not hasattr(stdout, "buffer")):
            raise InvalidInput("Arrow is nothing for a terminal", hint="-o FILE.arrow, or a pipe")
        return await _write(platform, wanted, _sink(wanted, kind, stdout.buffer if kind == "arrow" else stdout))
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        stream = part.open("wb") if kind == "arrow" else part.open("w", encoding="utf-8", newline="")
        with stream:
            count = await _write(platform, wanted, _sink(wanted, kind, stream, is_file=True))
        part.replace(target)
    except OSError as error:
        raise InvalidInput(
            f"cannot write {target}",
            cause=error.strerror or str(error),
            hint="-o FILE in a folder that exists, can be written, and has room",
        ) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return count


async def _write(platform: Platform, wanted: Wanted, sink: Sink) -> int:
    count = 0
    async for page in pages(platform, wanted):
        sink.write(page)
        count += len(page.steps)
    sink.close()
    return count


async def pages(platform: Platform, wanted: Wanted) -> AsyncIterator[Points]:
    """The pages of every pair, one pair after the other."""
    for experiment, metric in wanted.pairs:
        cursor: str | None = None
        while True:
            page = await platform.ask(
                GetPoints(
                    experiment=experiment,
                    metric=metric,
                    rank=wanted.rank,
                    attempt=wanted.attempt,
                    from_step=wanted.from_step,
                    to_step=wanted.to_step,
                    cursor=cursor,
                )
            )
            yield page
            cursor = page.cursor
            if cursor is None:
                break


def _sink(wanted: Wanted, kind: str, stream: Any, *, is_file: bool = False) -> Sink:
    if kind == "arrow":
        return ArrowSink(stream, wanted, is_file=is_file)
    return CsvSink(stream, wanted) if kind == "csv" else JsonSink(stream, wanted)


class CsvSink:
    """A line a point below a line of names. NaN and infinities by name; all other numbers bit for bit."""

    def __init__(self, stream: TextIO, wanted: Wanted) -> None:
        self._stream = stream
        self._attempt = [] if wanted.attempt is None else [wanted.attempt]
        attempt = ["attempt"] if self._attempt else []
        stream.write(",".join(["experiment", "metric", "rank", *attempt, "step", "time", "value"]) + "\n")

    def write(self, page: Points) -> None:
        """Its points as lines."""
        head = io.StringIO()
        csv.writer(head, lineterminator="").writerow([page.experiment, page.metric, page.rank, *self._attempt])
        begin = head.getvalue()
        rows = zip(page.steps, map(named, page.times), page.values, strict=True)
        self._stream.write("".join([f"{begin},{step},{when},{value}\n" for step, when, value in rows]))

    def close(self) -> None:
        """Nothing is left to write."""


class JsonSink:
    """An object a line. NaN and infinities are strings."""

    def __init__(self, stream: TextIO, wanted: Wanted) -> None:
        self._stream = stream
        self._attempt = {} if wanted.attempt is None else {"attempt": wanted.attempt}

    def write(self, page: Points) -> None:
        """Its points as lines."""
        head = {"experiment": page.experiment, "metric": page.metric, "rank": page.rank, **self._attempt}
        begin = json.dumps(head, ensure_ascii=False)[:-1]
        for step, when, value in zip(page.steps, page.times, page.values, strict=True):
            end = json.dumps({"step": step, "time": named(when), "value": value})
            self._stream.write(f"{begin}, {end[1:]}\n")

    def close(self) -> None:
        """Nothing is left to write."""


class ArrowSink:
    """Record batches: a file that can be mapped into memory, or a stream for a pipe."""

    def __init__(self, stream: BinaryIO, wanted: Wanted, *, is_file: bool) -> None:
        arrow = self._arrow = need_arrow()
        self._attempt = wanted.attempt
        self._names = [list(dict.fromkeys(pair[place] for pair in wanted.pairs)) for place in (0, 1)]
        words = arrow.dictionary(arrow.int32(), arrow.utf8())
        kinds = {"experiment": words, "metric": words, "rank": arrow.int32()}
        kinds |= {} if wanted.attempt is None else {"attempt": arrow.int32()}
        kinds |= {"step": arrow.int64(), "time": arrow.float64(), "value": arrow.float64()}
        self._schema = arrow.schema(list(kinds.items()))
        make = arrow.ipc.new_file if is_file else arrow.ipc.new_stream
        self._writer = make(stream, self._schema)

    def write(self, page: Points) -> None:
        """Its points as a batch."""
        arrow, count = self._arrow, len(page.steps)
        columns = [self._word(place, word, count) for place, word in enumerate((page.experiment, page.metric))]
        numbers = [page.rank] if self._attempt is None else [page.rank, self._attempt]
        columns += [arrow.repeat(arrow.scalar(number, arrow.int32()), count) for number in numbers]
        columns.append(arrow.array(page.steps, arrow.int64()))
        columns += [arrow.array(list(map(float, part)), arrow.float64()) for part in (page.times, page.values)]
        self._writer.write_batch(arrow.record_batch(columns, schema=self._schema))

    def close(self) -> None:
        """The end mark."""
        self._writer.close()

    def _word(self, place: int, word: str, count: int) -> Any:
        arrow, words = self._arrow, self._names[place]
        index = arrow.repeat(arrow.scalar(words.index(word), arrow.int32()), count)
        return arrow.DictionaryArray.from_arrays(index, arrow.array(words, arrow.utf8()))


def named(number: float) -> float | str:
    """A number as JSON can carry it."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
