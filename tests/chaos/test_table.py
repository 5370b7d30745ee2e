"""The table: every victim is killed, restarted and frozen while an experiment stands at each phase of its life."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from incl_local.chaos.arena import Arena
from incl_local.chaos.phases import WITH_PROCESS
from incl_local.chaos.rounds import Blow, Round, allow_attempts
from incl_local.chaos.victims import Fault
from incl_shared.testing.invariants import assert_holds

RECOVERED_S = 10.0
FROZEN_S = 60.0
SERVICES = ("agent", "provisioner", "tracker", "registry", "gateway", "nats", "postgres", "platform")
KILLED = [Blow(victim, Fault.KILL) for victim in SERVICES]
KILLED += [Blow(victim, Fault.KILL, phases=WITH_PROCESS) for victim in ("shim", "job")]


RESTARTED = [Blow(victim, Fault.RESTART) for victim in SERVICES]
FROZEN = [Blow(victim, Fault.FREEZE, FROZEN_S) for victim in SERVICES]
FROZEN += [Blow(victim, Fault.FREEZE, FROZEN_S, phases=WITH_PROCESS) for victim in ("shim", "job")]


async def one(arena: Arena, folder: Path, blow: Blow) -> None:
    """Strike, and see that all is well."""
    outcome = await Round(arena.chaos, arena.gate, folder).run(blow)
    evidence = outcome.evidence
    counts = {name: len(getattr(evidence, name)) for name in ("facts", "ran", "logged", "stored")}
    print(json.dumps({"blow": str(blow), "recovery": outcome.recovery, **counts}))
    assert all(counts.values())
    if blow.victim == "agent" and blow.fault is Fault.FREEZE:
        evidence = allow_attempts(evidence, 2)
    assert_holds(evidence)
    late = {phase: seconds for phase, seconds in outcome.recovery.items() if seconds > RECOVERED_S}
    assert not late, f"{blow}: work went on only after {late}"


@pytest.mark.slow
@pytest.mark.parametrize("blow", KILLED, ids=str)
async def test_killed(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    await one(arena, tmp_path, blow)


@pytest.mark.slow
@pytest.mark.parametrize("blow", RESTARTED, ids=str)
async def test_restarted(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    await one(arena, tmp_path, blow)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("blow", FROZEN, ids=str)
async def test_frozen(arena: Arena, tmp_path: Path, blow: Blow) -> None:
    await one(arena, tmp_path, blow)
