"""Random schedules of faults in virtual time, ended by the invariants. How it works: docs/mechanisms/simulation.md."""

from __future__ import annotations

import gc
import logging
import random
import weakref
from pathlib import Path

import pytest

from simulation.campaign import run_campaign
from simulation.schedule import simulate
from simulation.shown import MENDED
from simulation.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FIXED, FRESH = range(1, 151), 10
FOUND = {
    2744: "a shim was killed while its agent was stopped, which is left out of the schedules: see faults.py",
    4367: "a job that had only been prepared was started by the next agent with no lease for its shim to watch",
    5552: "a shim was killed while its agent was about to die, which is left out of the schedules as well",
    5691: "a job that had only been prepared was started by the next agent, its work being another's by then",
    85: "a machine that was cut off for longer than its lease began by an old list what had been given up meanwhile",
    705203: "a provisioner that had stood still called a machine lost whose words lay unread on the bus",
    706823: "the words of a machine lay with a provisioner that stood still; the other one called it lost",
    803529: "a shim was killed while its agent, started anew, could not reach the bus: nobody ended the job",
    341: "an old hello, delivered again after a newer one, was taken for the newest: its machine was given no job",
}


def test_some_hundred_schedules_end_right() -> None:
    fresh = [random.SystemRandom().randrange(1_000_000, 1 << 40) for _ in range(FRESH)]
    outcome = run_campaign([*FIXED, *FOUND, *fresh])
    assert not outcome.wrong, outcome.told()
    assert outcome.schedules == len(FIXED) + len(FOUND) + FRESH
    assert outcome.attempts > outcome.schedules, "hardly anything ran"


def test_a_seed_means_the_same_in_every_process() -> None:
    first, again = (run_campaign(range(40, 60), workers=workers) for workers in (1, 2))
    assert first.digests == again.digests
    assert len(set(first.digests.values())) == 20


@pytest.mark.parametrize("kind", ["here", "cloud"])
def test_nothing_is_left_of_a_world(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not in a table of the product, nor in one of the simulation: ten thousand would be too many."""
    caplog.set_level(logging.CRITICAL, "incl")  # what pytest captures it keeps
    seen: list[weakref.ref[World]] = []
    simulate(1, tmp_path, change=lambda world: seen.append(weakref.ref(world)), kind=kind)
    gc.collect()
    assert [ref() for ref in seen] == [None]


@pytest.mark.parametrize("what", MENDED)
def test_what_was_mended_stays_so(what: str, tmp_path: Path) -> None:
    assert not simulate(MENDED[what].seed, tmp_path, plan=MENDED[what]).violations
