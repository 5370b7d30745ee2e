"""What the sampler is told of the trials so far."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from incl_hpo.domain.trial import Trial, signed
from incl_shared.events import TrialState
from incl_shared.sweep import SweepSpec

Told = tuple[dict[str, Any], tuple[float, ...], tuple[float, ...]]
"""(parameters, values so that less is better, constraints) of a trial."""


@dataclass(frozen=True, slots=True)
class Known:
    """history: what is learned from, by number. pending: points that are kept away from, and taught nothing yet."""

    history: tuple[Told, ...]
    pending: tuple[dict[str, Any], ...]


def known(spec: SweepSpec, trials: Iterable[Trial]) -> Known:
    """Complete trials by their values; failed ones, and those without the objective, as failures.

    One that was pruned, or that a person stopped, counts as what it had logged, but as no better than the middling
    complete trial. One that stopped before it logged anything, or whose machines were lost too often, says nothing of
    its parameters: it is kept away from, as those that run are.
    """
    ordered = sorted(trials, key=lambda trial: trial.number)
    complete = [signed(spec, trial.values) for trial in ordered if trial.state is TrialState.COMPLETE]
    middling = _middling(complete)
    history: list[Told] = []
    pending: list[dict[str, Any]] = []
    for trial in ordered:
        told = _told(spec, trial, middling)
        if told is None:
            pending.append(trial.parameters)
        else:
            history.append(told)
    return Known(tuple(history), tuple(pending))


def _told(spec: SweepSpec, trial: Trial, middling: Sequence[float]) -> Told | None:
    match trial.state:
        case TrialState.COMPLETE:
            return trial.parameters, signed(spec, trial.values), trial.constraints
        case TrialState.FAILED if trial.finish is not None and trial.finish.blameless:
            return None
        case TrialState.FAILED | TrialState.METRIC_MISSING:
            return trial.parameters, (), ()
        case TrialState.STOPPED | TrialState.PRUNED if trial.values and all(map(math.isfinite, trial.values)):
            own = signed(spec, trial.values)
            worse = tuple(max(a, float(b)) for a, b in zip(own, middling, strict=True)) if len(middling) else own
            return trial.parameters, worse, trial.constraints
        case _:
            return None


class Learned:
    """What is known of a growing sweep, as the text of a question: only what changed is put into words again.

    The same as `known` says of all trials, which with 10,000 of them held the service up for 0.4 s a question.
    """

    def __init__(self, spec: SweepSpec) -> None:
        self._spec = spec
        self._texts: dict[int, str] = {}
        self._complete: dict[int, tuple[float, ...]] = {}
        self._early: dict[int, tuple[Trial, str]] = {}
        """Those that ended early, whose values follow from the middling one, and the text of their points."""
        self._pending: dict[int, dict[str, Any]] = {}
        self._stale = False

    def note(self, trial: Trial) -> None:
        """A trial is new, or another one than before."""
        number = trial.number
        self._stale |= number in self._complete or number in self._early
        for kept in (self._texts, self._complete, self._early, self._pending):
            kept.pop(number, None)
        told = _told(self._spec, trial, ())
        if told is None:
            self._pending[number] = dict(trial.parameters)
        elif trial.state in (TrialState.STOPPED, TrialState.PRUNED):
            self._early[number] = (trial, json.dumps(trial.parameters))
            self._stale = True
        else:
            self._texts[number] = json.dumps(told)
            if trial.state is TrialState.COMPLETE:
                self._complete[number] = told[1]
                self._stale = True

    def pending(self) -> list[dict[str, Any]]:
        """See `Known`."""
        return [self._pending[number] for number in sorted(self._pending)]

    def history(self) -> str:
        """What a JSON list of `Known.history` has between its brackets."""
        if self._stale and self._early:
            middling = _middling(list(self._complete.values()))
            for number, (trial, point) in self._early.items():
                told = _told(self._spec, trial, middling)
                assert told is not None
                self._texts[number] = f"[{point}, {json.dumps(told[1])}, {json.dumps(told[2])}]"
        self._stale = False
        return ", ".join(self._texts[number] for number in sorted(self._texts))


def _middling(complete: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(np.median(np.asarray(complete), axis=0)) if complete else ()


def front(spec: SweepSpec, trials: Iterable[Trial]) -> list[Trial]:
    """The trials that keep the constraints and that no other one is at least as good as in all, and better in one."""
    good = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETE and not any(value > 0 for value in trial.constraints)
    ]
    good.sort(key=lambda trial: (signed(spec, trial.values), trial.number))
    table = np.asarray([signed(spec, trial.values) for trial in good])
    kept: list[int] = []
    for row in range(len(good)):
        beaten = (table[kept] <= table[row]).all(axis=1) & (table[kept] < table[row]).any(axis=1)
        if not beaten.any():
            kept.append(row)
    return [good[row] for row in kept]
