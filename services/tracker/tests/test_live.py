"""Live messages: coalesced, small, and with cursors that show what is missing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from incl_shared.errors import UnavailableError
from incl_shared.events import ExperimentQueued
from incl_shared.ids import new_id
from incl_shared.queries.tracker import ExperimentView, GetExperiment, Live
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import Origin, live, stored
from incl_shared.telemetry.wire import Line
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.wait import until
from incl_tracker.live import MOST_VALUES, LiveHub

E = new_id()


class Wire:
    """Where a hub publishes to; can be down."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.down = False
        self.view: ExperimentView | None = None
        self.views_read = 0

    async def publish(self, subject: str, payload: bytes) -> None:
        if self.down:
            raise UnavailableError("the bus is away")
        self.sent.append((subject, payload))

    async def read_view(self, experiment: str) -> ExperimentView | None:
        self.views_read += 1
        return self.view

    def messages(self, kind: str) -> list[Live]:
        found = [Live.model_validate_json(p) for s, p in self.sent if s.startswith("incl.live.")]
        return [m for m in found if m.kind == kind]


def hub(wire: Wire, clock: FakeClock) -> LiveHub:
    return LiveHub(wire.publish, wire.read_view, clock, interval_s=0.1)


def out(*texts: str) -> list[tuple[int, int, Line]]:
    return [(1, 0, Line(0.0, 0, text)) for text in texts]


@pytest.fixture
async def view(lite: Any) -> ExperimentView:
    spec = ExperimentSpec(command=["x"], notes="n" * 100_000, env={f"V{n}": "x" * 1000 for n in range(100)})
    await lite.event(ExperimentQueued(experiment=E, user="ann", spec=spec), 1)
    answer: ExperimentView = await lite.ask(GetExperiment(ref=E))
    return answer


async def test_the_first_is_told_at_once_and_the_rest_together(fake_clock: FakeClock) -> None:
    wire = Wire()
    told = hub(wire, fake_clock)
    told.start()
    told.lines("p", E, 0, out("a"))
    told.points("p", E, {"acc": (1, 0.5)}, 3)
    await until(lambda: len(wire.sent) == 2)
    for n in range(1, 6):
        told.lines("p", E, n, out(str(n)))
        told.points("p", E, {"acc": (n, n / 10), "nan": (1, math.nan)}, 2)
    told.stored(Origin("p", E, 1, 0), "logs", "t", 6)
    await until(lambda: len(wire.sent) == 3)
    assert wire.sent[2] == (stored("p", E, 1, 0), b'{"logs/t": 6}'), "a watermark does not wait for the interval"
    fake_clock.advance(0.11)
    told.stored(Origin("p", E, 1, 0), "logs", "t", 5)
    told.stored(Origin("p", E, 1, 0), "logs", "t", 7)
    await until(lambda: len(wire.messages("metrics")) == 2)
    await told.stop()
    assert [(m.after, m.cursor, [line.text for line in m.lines]) for m in wire.messages("logs")] == [
        (0, 1, ["a"]),
        (1, 6, ["1", "2", "3", "4", "5"]),
    ]
    assert [(m.values, m.points) for m in wire.messages("metrics")] == [
        ({"acc": [1, 0.5]}, 3),
        ({"acc": [5, 0.5], "nan": [1, "NaN"]}, 10),
    ]
    assert json.loads(wire.sent[3][1]) == {"logs/t": 7}


async def test_of_endless_metrics_some_are_told(fake_clock: FakeClock) -> None:
    wire = Wire()
    told = hub(wire, fake_clock)
    told.points("p", E, {f"m{n}": (1, 0.0) for n in range(2 * MOST_VALUES)}, 2 * MOST_VALUES)
    told.points("p", E, {f"m{n}": (2, 1.0) for n in range(2 * MOST_VALUES)}, 2 * MOST_VALUES)
    told.start()
    await told.stop()
    messages = wire.messages("metrics")
    assert sum(len(message.values) for message in messages) == MOST_VALUES
    assert messages[0].values["m0"] == [2, 1.0], "the newest of each"
    assert sum(message.points for message in messages) == 4 * MOST_VALUES, "all are counted"


async def test_a_change_waits_for_nothing(fake_clock: FakeClock, view: ExperimentView) -> None:
    wire = Wire()
    wire.view = view
    told = hub(wire, fake_clock)
    told.start()
    for count in range(1, 4):
        told.changed("p", E)
        told.changed("p", E)
        await until(lambda: len(wire.messages("state")) == count)  # noqa: B023
    await told.stop()
    assert wire.views_read == 3
    assert all(s == live("p", E) and len(p) < 200_000 for s, p in wire.sent), "a big view leaves parts out"
    shown = wire.messages("state")[0].view
    assert shown is not None
    assert shown.row == view.row
    assert shown.spec is None


async def test_many_lines_become_several_messages_that_join(fake_clock: FakeClock) -> None:
    wire = Wire()
    told = hub(wire, fake_clock)
    told.lines("p", E, 5, [(1, 0, Line(0.0, 0, "\x1b" * 30_000)) for _ in range(10)])
    told.start()
    await until(lambda: sum(len(m.lines) for m in wire.messages("logs")) == 10)
    await told.stop()
    messages = wire.messages("logs")
    assert all(len(payload) < 200_000 for _, payload in wire.sent)
    assert messages[0].after == 5
    assert messages[-1].cursor == 15
    assert [m.cursor for m in messages[:-1]] == [m.after for m in messages[1:]]


async def test_a_bus_that_is_away_ends_nothing(fake_clock: FakeClock) -> None:
    wire = Wire()
    wire.down = True
    told = hub(wire, fake_clock)
    told.start()
    told.lines("p", E, 0, out("lost"))
    told.changed("p", E)
    await until(lambda: wire.views_read == 1)
    wire.down = False
    fake_clock.advance(1.0)
    told.lines("p", E, 1, out("seen"))
    await until(lambda: wire.messages("logs"))
    await told.stop()
    assert [(m.after, m.cursor) for m in wire.messages("logs")] == [(1, 2)], "the cursor shows what is missing"


async def test_lines_that_nobody_fetches_are_not_kept_for_ever(fake_clock: FakeClock) -> None:
    wire = Wire()
    told = hub(wire, fake_clock)
    for n in range(100):
        told.lines("p", E, n, out("x" * 60_000))
    told.start()
    await until(lambda: wire.messages("logs") and wire.messages("logs")[-1].cursor == 100)
    await told.stop()
    assert wire.messages("logs")[0].after > 0
    assert sum(len(payload) for _, payload in wire.sent) < 3_000_000
