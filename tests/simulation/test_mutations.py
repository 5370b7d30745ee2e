"""The simulation finds faults: some are put into the product on purpose, and each is found within so many seeds."""

from __future__ import annotations

import pytest

from simulation.many import run_many
from simulation.mutations import MUTATIONS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHIN = 150


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_is_found(mutation: str) -> None:
    outcome = run_many(range(1, WITHIN + 1), mutation=mutation, most_wrong=1)
    assert outcome.wrong, f"{mutation!r} was not found within {WITHIN} seeds"
