"""The clock of agent, provisioner and tracker is set by an hour, forward and back, while experiments run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.broken import Siege, small_arena
from incl_local.chaos.clocks import Clocks
from incl_local.chaos.victims import freeze_for
from incl_local.testing import wait
from incl_shared.events.experiments import NodeLost
from incl_shared.testing.invariants import assert_holds

HOUR = 3600
FAKED = ("agent", "provisioner", "tracker")
PHASES = ("queued", "unpacking", "running", "checkpointing", "uploading", "ending")


@dataclass(frozen=True)
class Place:
    arena: Arena
    clocks: Clocks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("broken clock")
    clocks = Clocks(folder / "clock of some", FAKED)
    with small_arena(folder, clocks.environment) as arena:
        yield Place(arena, clocks)


@pytest.mark.parametrize(("first", "then"), [(0, HOUR), (HOUR, 0)], ids=["forward", "back"])
async def test_the_clock_is_set_by_an_hour(place: Place, tmp_path: Path, first: int, then: int) -> None:
    place.clocks.set_by(first)

    def jump(siege: Siege) -> None:
        before = siege.steps()
        place.clocks.set_by(then)
        freeze_for(6.0)
        wait(lambda: siege.steps() > before + 20, 20, "the job to go on")

    try:
        outcome = await Siege(place.arena, tmp_path, jump).endure(f"the clock goes from {first} to {then}", PHASES)
    finally:
        place.clocks.set_by(0)
    print(json.dumps({"clock": [first, then], "recovery": outcome.recovery}))
    assert_holds(outcome.evidence)
    assert max(outcome.recovery.values()) < 10.0, outcome.recovery
    assert not [fact for fact in outcome.evidence.facts if isinstance(fact.event, NodeLost)]
    moved = [fact for fact in outcome.evidence.facts if abs(fact.time - time.time()) > HOUR / 2]
    assert moved, "the clock was set, and nobody saw it"
    for held in outcome.evidence.submitted:
        shown = place.arena.chaos.home.incl("show", held.experiment, "--json")
        assert shown.code == 0, shown.err
        assert not backwards(shown.json), f"{held.experiment}: {backwards(shown.json)}"


def backwards(view: dict[str, Any]) -> list[str]:
    """What ends before it begins."""
    spans = [(stage["name"], stage["start"], stage["end"]) for stage in view["stages"]]
    row = view["row"]
    spans += [("waiting", row["created"], row["started"]), ("all of it", row["started"], row["ended"])]
    return [name for name, start, end in spans if start is not None and end is not None and end < start]
