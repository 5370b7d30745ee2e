"""The simulation finds faults: some are put into the product on purpose, and a known seed, or a schedule made by hand,
shows each.

Half of them are what the product did before the simulation: so these are the regression tests of what it found.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from simulation.campaign import run_campaign
from simulation.mutations import FOUND_BY, mutated
from simulation.schedule import simulate
from simulation.shown import SHOWN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(("mutation", "seed"), FOUND_BY.items())
def test_a_mutation_is_found(mutation: str, seed: int) -> None:
    outcome = run_campaign([seed], mutation=mutation)
    assert outcome.wrong, f"{mutation!r} is not shown by seed {seed} any more: see campaign.py"
    assert not run_campaign([seed]).wrong


@pytest.mark.parametrize("mutation", SHOWN)
def test_a_mutation_is_found_by_a_schedule_made_by_hand(mutation: str, tmp_path: Path) -> None:
    for plan in SHOWN[mutation]:
        with mutated(mutation):
            found = simulate(plan.seed, tmp_path, plan=plan).violations
        if found:
            assert not simulate(plan.seed, tmp_path, plan=plan).violations
            return
    raise AssertionError(f"{mutation!r} is not shown any more")
