"""How many more trials the money of a sweep is enough for. Pure; amounts in the currency of the price list."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from incl_hpo.domain.trial import OVER, Trial


@dataclass(frozen=True, slots=True)
class Spending:
    """spent: by all trials so far. committed: what those that run will have cost. each: what one costs, on average."""

    spent: float
    committed: float
    each: float
    running: int

    def room(self, money: float) -> int | None:
        """How many trials may begin; none: as many as are wanted, as no trial has shown what it costs."""
        left = money - self.committed
        if left <= 0:
            return 0
        return int(left / self.each + 1e-9) if self.each > 0 else None

    def exhausted(self, money: float) -> bool:
        """Whether no further trial will ever begin: nothing runs, and the rest is less than a trial costs."""
        return self.running == 0 and self.room(money) == 0


def spending(trials: Collection[Trial]) -> Spending:
    """What trials have cost. One that runs counts as the average of those that are over, or as what it cost already."""
    over = [trial.cost for trial in trials if trial.state in OVER and trial.cost is not None]
    running = [trial.cost or 0.0 for trial in trials if trial.state not in OVER]
    each = sum(over) / len(over) if over else 0.0
    committed = sum(over) + sum(max(cost, each) for cost in running)
    return Spending(sum(over) + sum(running), committed, each, len(running))
