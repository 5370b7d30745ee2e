"""Random schedules in which machines are made in a cloud; mutations, of which some are what the product did before."""

from __future__ import annotations

import random

import pytest

from simulation.campaign import run_campaign
from simulation.cloud_mutations import CLOUD_FOUND_BY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FIXED, FRESH = range(1, 41), 3


def test_nothing_is_left_in_the_cloud_whatever_goes_wrong() -> None:
    fresh = [random.SystemRandom().randrange(1_000_000, 1 << 40) for _ in range(FRESH)]
    outcome = run_campaign([*FIXED, *fresh], kind="cloud")
    assert not outcome.wrong, outcome.told()
    assert outcome.schedules == len(FIXED) + FRESH
    assert outcome.attempts > outcome.schedules, "hardly anything ran"


def test_a_seed_means_the_same_in_every_process() -> None:
    first, again = (run_campaign(range(40, 50), workers=workers, kind="cloud") for workers in (1, 2))
    assert first.digests == again.digests
    assert len(set(first.digests.values())) == 10


@pytest.mark.parametrize(("mutation", "seed"), CLOUD_FOUND_BY.items())
def test_a_mutation_is_found(mutation: str, seed: int) -> None:
    outcome = run_campaign([seed], mutation=mutation, kind="cloud")
    assert outcome.wrong, f"{mutation!r} is not shown by seed {seed} any more: see campaign.py"
    assert not run_campaign([seed], kind="cloud").wrong
