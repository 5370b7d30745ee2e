"""Telling of what was just stored: live messages, coalesced, and watermarks back to the shippers.

Nothing here is promised: whoever misses a message sees by its cursor or version that it must ask.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from incl_shared import subjects
from incl_shared.clock import Clock
from incl_shared.errors import InclError
from incl_shared.queries.tracker import ExperimentView, Live, LogLine
from incl_shared.subjects import Origin
from incl_shared.tasks import end_all
from incl_shared.telemetry.wire import Line
from incl_tracker import counters
from incl_tracker.domain.loglines import joined, shown, size_of
from incl_tracker.domain.numbers import number_or_name

_log = logging.getLogger("incl.tracker")
MESSAGE_BYTES = 180_000
MAX_WAITING_BYTES = 2_000_000
REMEMBERED = 10_000
MOST_VALUES = 5_000
"""Metrics of an experiment whose newest values are told at a time; whoever wants further ones asks."""

_SHORTER: tuple[dict[str, Any], ...] = (
    {"artifacts": ()},
    {"spec": None},
    {"config": {}},
    {"metrics": ()},
    {"alerts": ()},
    {"attempts": ()},
)
"""What a view that is too big for a message leaves out, one after the other; who needs it asks."""

Publish = Callable[[str, bytes], Awaitable[None]]
ReadView = Callable[[str], Awaitable[ExperimentView | None]]


@dataclass(slots=True)
class _Pending:
    """What an experiment's audience has not been told yet."""

    project: str
    due: float
    changed: bool = False
    after: int = 0
    lines: list[LogLine] = field(default_factory=list)
    bytes: int = 0
    values: dict[str, tuple[int, float]] = field(default_factory=dict)
    points: int = 0


class LiveHub:
    """Collects in the event loop what the handlers stored, and publishes it."""

    def __init__(self, publish: Publish, read_view: ReadView, clock: Clock, interval_s: float) -> None:
        self._publish = publish
        self._read_view = read_view
        self._clock = clock
        self._interval_s = interval_s
        self._pending: dict[str, _Pending] = {}
        self._marks: dict[str, dict[str, int]] = {}
        self._told: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to publish."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="tracker-live")

    async def stop(self) -> None:
        """Publish what is left, and end."""
        if self._task is not None:
            await end_all([self._task])
            self._task = None
            await self._flush(everything=True)

    def changed(self, project: str, experiment: str) -> None:
        """Something that a view shows: told at once."""
        pending = self._of(project, experiment)
        pending.changed = True
        pending.due = self._clock.monotonic()
        self._wake.set()

    def lines(self, project: str, experiment: str, after: int, lines: list[tuple[int, int, Line]]) -> None:
        """Lines after the cursor `after`."""
        pending = self._of(project, experiment)
        if not pending.lines or pending.after + len(pending.lines) != after or pending.bytes > MAX_WAITING_BYTES:
            pending.lines, pending.bytes, pending.after = [], 0, after
        pending.lines += [shown(line, attempt, rank) for attempt, rank, line in lines]
        pending.bytes += sum(len(line.text) for _, _, line in lines)
        self._wake.set()

    def points(self, project: str, experiment: str, newest: dict[str, tuple[int, float]], count: int) -> None:
        """Points: the newest of each metric."""
        pending = self._of(project, experiment)
        values = pending.values
        for name, point in newest.items():
            known = values.get(name)
            if known[0] <= point[0] if known is not None else len(values) < MOST_VALUES:
                values[name] = point
        pending.points += count
        self._wake.set()

    def stored(self, origin: Origin, stream: str, writer: str, watermark: int) -> None:
        """A writer's records are stored up to here: its shipper may forget them."""
        subject = subjects.stored(origin.project, origin.experiment, origin.attempt, origin.rank)
        marks = self._marks.setdefault(subject, {})
        key = f"{stream}/{writer}"
        marks[key] = max(watermark, marks.get(key, 0))
        self._wake.set()

    def _of(self, project: str, experiment: str) -> _Pending:
        pending = self._pending.get(experiment)
        if pending is None:
            due = max(self._clock.monotonic(), self._told.get(experiment, 0.0) + self._interval_s)
            pending = self._pending[experiment] = _Pending(project, due)
        return pending

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._flush()
            except Exception:  # noqa: BLE001 - the edge of the loop: the next message is another one's
                counters.LIVE_FAILED.inc()
                _log.exception("a live message could not be made")
            if self._pending:
                soonest = min(pending.due for pending in self._pending.values())
                delay = max(0.0, soonest - self._clock.monotonic())
                asyncio.get_running_loop().call_later(delay, self._wake.set)

    async def _flush(self, *, everything: bool = False) -> None:
        marks, self._marks = self._marks, {}
        for subject, values in marks.items():
            await self._send(subject, json.dumps(values).encode(), "stored")
        now = self._clock.monotonic()
        ready = [name for name, pending in self._pending.items() if everything or pending.due <= now]
        for experiment in ready:
            pending = self._pending.pop(experiment)
            self._told[experiment] = now
            for message in _telemetry(experiment, pending):
                await self._tell(pending.project, message)
            if pending.changed:
                await self._state(pending.project, experiment)
        if len(self._told) > REMEMBERED:
            self._told = {e: told for e, told in self._told.items() if told + self._interval_s > now}

    async def _state(self, project: str, experiment: str) -> None:
        view = await self._read_view(experiment)
        if view is None:
            return
        message = Live(kind="state", experiment=experiment, view=view)
        for shorter in _SHORTER:
            if len(message.model_dump_json()) < MESSAGE_BYTES or message.view is None:
                break
            message = message.model_copy(update={"view": message.view.model_copy(update=shorter)})
        await self._tell(project, message)

    async def _tell(self, project: str, message: Live) -> None:
        subject = subjects.live(project, message.experiment)
        await self._send(subject, message.model_dump_json().encode(), message.kind)

    async def _send(self, subject: str, payload: bytes, kind: str) -> None:
        try:
            await self._publish(subject, payload)
            counters.LIVE.labels(kind).inc()
        except InclError as error:
            counters.LIVE_FAILED.inc()
            _log.info("live message not sent: %s", error.message)


def _telemetry(experiment: str, pending: _Pending) -> Iterator[Live]:
    cursor = pending.after
    for piece in _pieces(pending.lines):
        after, cursor = cursor, cursor + len(piece)
        lines = tuple(joined(piece))
        yield Live(kind="logs", experiment=experiment, after=after, cursor=cursor, lines=lines)
    names = list(pending.values)
    for begin in range(0, len(names), 1000):
        values = {n: [pending.values[n][0], number_or_name(pending.values[n][1])] for n in names[begin : begin + 1000]}
        yield Live(kind="metrics", experiment=experiment, values=values, points=pending.points if not begin else 0)
    if pending.points and not names:
        yield Live(kind="metrics", experiment=experiment, points=pending.points)


def _pieces(lines: list[LogLine]) -> Iterator[list[LogLine]]:
    piece: list[LogLine] = []
    size = 0
    for line in lines:
        size += size_of(line)
        if piece and size > MESSAGE_BYTES:
            yield piece
            piece, size = [], size_of(line)
        piece.append(line)
    if piece:
        yield piece
