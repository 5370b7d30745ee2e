"""The table: every victim is killed, restarted and frozen while experiments stand at each phase of their life.

`make chaos` goes through all of it (about half an hour). Otherwise half of the victims are killed, the other half on
the next day, and two blows are drawn by seeds of the day; INCL_CHAOS_SEEDS=7,8 plays these.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.phases import WITH_PROCESS
from incl_local.chaos.rounds import Blow, Round, allow_attempts
from incl_local.chaos.seeds import draw
from incl_local.chaos.victims import Fault
from incl_shared.testing.invariants import assert_holds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ALL = os.environ.get("INCL_CHAOS") == "all"
RECOVERED_S = 10.0 if ALL else 30.0
"""The goal, and what is let pass beside all other tests."""
FROZEN_S = 60.0
NODE_LEASE_S = 30.0
SERVICES = ("agent", "provisioner", "tracker", "registry", "gateway", "nats", "postgres", "platform")
OF_A_JOB = ("shim", "job")
KILLED = [Blow(victim, Fault.KILL) for victim in SERVICES]
KILLED += [Blow(victim, Fault.KILL, phases=WITH_PROCESS) for victim in OF_A_JOB]
RESTARTED = [Blow(victim, Fault.RESTART) for victim in SERVICES]
FROZEN = [Blow(victim, Fault.FREEZE, FROZEN_S) for victim in SERVICES]
FROZEN += [Blow(victim, Fault.FREEZE, FROZEN_S, phases=WITH_PROCESS) for victim in OF_A_JOB]
TODAY = datetime.datetime.now(datetime.UTC).date().toordinal()
whole_table = pytest.mark.skipif(not ALL, reason="a part of the whole table: make chaos")


def seeds() -> list[int]:
    """Those asked for, else two of this day."""
    if given := os.environ.get("INCL_CHAOS_SEEDS"):
        return [int(seed) for seed in given.split(",")]
    return [TODAY * 2, TODAY * 2 + 1]


async def one(arena: Arena, folder: Path, blow: Blow) -> None:
    """Strike, and see that all is well."""
    outcome = await Round(arena.chaos, arena.gate, folder).run(blow)
    evidence = outcome.evidence
    counts = {name: len(getattr(evidence, name)) for name in ("facts", "ran", "logged", "stored", "told")}
    print(json.dumps({"blow": str(blow), "recovery": outcome.recovery, **counts}))
    assert all(counts.values()), counts
    if blow.victim == "agent" and blow.seconds > NODE_LEASE_S:
        evidence = allow_attempts(evidence, 2)
    assert_holds(evidence)
    late = {phase: seconds for phase, seconds in outcome.recovery.items() if seconds > RECOVERED_S}
    assert not late, f"{blow}: work went on only after {late}"


@pytest.mark.parametrize("blow", KILLED if ALL else KILLED[TODAY % 2 :: 2], ids=str)
async def test_killed(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    await one(arena, tmp_path, blow)


@pytest.mark.parametrize("seed", seeds())
async def test_drawn_by_a_seed(arena: Arena, tmp_path: Path, seed: int) -> None:
    await one(arena, tmp_path, draw(seed))


@whole_table
@pytest.mark.parametrize("blow", RESTARTED, ids=str)
async def test_restarted(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    await one(arena, tmp_path, blow)


@whole_table
@pytest.mark.parametrize("blow", FROZEN, ids=str)
async def test_frozen(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    await one(arena, tmp_path, blow)
