"""What the pictures of a sweep are drawn from: where a value lies on its parameter's scale; trials by their rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from incl_cli.text import number
from incl_shared.errors import ConflictError
from incl_shared.events.sweeps import TrialState
from incl_shared.ids import short
from incl_shared.queries.hpo import SweepView, TrialView
from incl_shared.sweep import ParameterKind, SweepParameter, env_text

Value = bool | int | float | str


@dataclass(frozen=True)
class Scale:
    """A parameter as an axis from 0 to 1."""

    name: str
    parameter: SweepParameter

    @property
    def choices(self) -> tuple[Value, ...]:
        """Those of a categorical one; none: it is a number."""
        return tuple(self.parameter.choices) if self.parameter.type is ParameterKind.CATEGORICAL else ()

    @property
    def log(self) -> bool:
        """Whether factors count, not differences."""
        return self.parameter.type is ParameterKind.LOGUNIFORM or self.parameter.log

    def place(self, value: Value) -> float:
        """Where a value lies: of a choice the middle of its part. Values from another range are moved to the ends."""
        if self.choices:
            index = next((i for i, one in enumerate(self.choices) if one == value and type(one) is type(value)), 0)
            return (index + 0.5) / len(self.choices)
        low, high, at = (self._scaled(float(one)) for one in (self._low, self._high, value))
        return min(1.0, max(0.0, (at - low) / (high - low))) if high > low else 0.5

    def label(self, place: float) -> str:
        """The value there, for people."""
        if self.choices:
            return env_text(self.choices[min(len(self.choices) - 1, int(place * len(self.choices)))])
        low, high = self._scaled(self._low), self._scaled(self._high)
        at = low + place * (high - low)
        value = math.exp(at) if self.log else at
        return number(round(value) if self.parameter.type is ParameterKind.INT else float(f"{value:.4g}"))

    @property
    def _low(self) -> float:
        return float(self.parameter.low if self.parameter.low is not None else 0.0)

    @property
    def _high(self) -> float:
        return float(self.parameter.high if self.parameter.high is not None else 1.0)

    def _scaled(self, value: float) -> float:
        return math.log(max(value, 1e-300)) if self.log else value


def scales(view: SweepView) -> dict[str, Scale]:
    """One for each parameter."""
    return {name: Scale(name, parameter) for name, parameter in view.spec.parameters.items()}


@dataclass(frozen=True)
class Ranked:
    """Complete trials, the best first, by one objective. losses: so that less is better."""

    trials: tuple[TrialView, ...]
    losses: tuple[float, ...]
    values: tuple[float, ...]

    def quarter(self, place: int) -> int:
        """0: of the best quarter … 3: of the worst."""
        return min(3, place * 4 // max(1, len(self.trials)))


def ranked(view: SweepView, trials: Sequence[TrialView], objective: int = 0) -> Ranked:
    """Those that have a finite value."""
    sign = -1.0 if view.spec.objective[objective].goal == "max" else 1.0
    known = [
        (sign * trial.values[objective], trial)
        for trial in trials
        if trial.state is TrialState.COMPLETE
        and len(trial.values) > objective
        and math.isfinite(trial.values[objective])
    ]
    known.sort(key=lambda pair: (pair[0], pair[1].trial))
    return Ranked(
        tuple(trial for _, trial in known),
        tuple(loss for loss, _ in known),
        tuple(trial.values[objective] for _, trial in known),
    )


def pair_of(view: SweepView, found: Ranked, names: Sequence[str]) -> tuple[Scale, Scale]:
    """The two parameters of a picture: those that are named, or the two that matter most.

    Raises:
        ConflictError: there are no two such.
    """
    known = scales(view)
    if len(known) < 2 or (names and len(set(names)) != 2):
        raise ConflictError(
            f"this picture is of two parameters; {view.row.name} has {len(known)}, {len(set(names))} were named",
            hint=f"--parameters A,B, or: incl sweep plot {short(view.row.id)} --kind slice",
        )
    if not names:
        from incl_cli.sweep_importance import importance

        shares = importance(list(known.values()), found)
        together = sorted(known, key=lambda name: -shares.get(name, 0.0))
        names = next(
            ((together[a], b) for a in range(len(together)) for b in together[a + 1 :] if _both(found, together[a], b)),
            (together[0], together[1]),
        )
    return known[names[0]], known[names[1]]


def _both(found: Ranked, one: str, other: str) -> bool:
    return any(one in trial.parameters and other in trial.parameters for trial in found.trials)
