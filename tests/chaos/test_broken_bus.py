"""The bus is away for longer than any limit: jobs go on, nobody spins, all come back alone, nothing is lost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.broken import BusAway, Siege, small_arena
from incl_local.chaos.victims import freeze_for
from incl_shared.testing.invariants import assert_holds

LONG = pytest.mark.skipif(os.environ.get("INCL_CHAOS") != "all", reason="five minutes: make chaos")
SPINNING = 0.3
"""Cores. A loop that spins uses a whole one; what measures itself and tries to connect uses a few hundredths."""


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with small_arena(tmp_path_factory.mktemp("broken bus")) as made:
        yield made


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(40.0, id="longer than a node's lease"),
        pytest.param(300.0, id="five minutes", marks=[pytest.mark.slow, pytest.mark.timeout(600), LONG]),
    ],
)
async def test_the_bus_is_away(arena: Arena, tmp_path: Path, seconds: float) -> None:
    seen: dict[str, dict[str, float]] = {}

    def away(siege: Siege) -> None:
        before = siege.steps()
        began = time.monotonic()
        with BusAway(arena.chaos) as bus:
            answer = arena.chaos.home.incl("ls")
            assert answer.code != 0 and "hint:" in answer.err and time.monotonic() - began < 10, answer.err
            freeze_for(seconds)
            after = siege.steps()
        seen["cpu"] = bus.cpu
        assert after - before > seconds * 4, "the job did not go on meanwhile"

    outcome = await Siege(arena, tmp_path, away).endure(f"the bus is away for {seconds:g} s")
    print(json.dumps({"away_s": seconds, "cpu": seen["cpu"], "recovery": outcome.recovery}))
    assert_holds(outcome.evidence)
    assert max(seen["cpu"].values()) < SPINNING, seen["cpu"]
    assert max(outcome.recovery.values()) < 10.0, outcome.recovery
