"""What a process that computes proposals is asked. Pure; the form is `incl_hpo.worker`'s."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from incl_hpo.domain.learning import Learned, Told
from incl_hpo.domain.trial import Trial, signed
from incl_shared.events import TrialState
from incl_shared.queries.hpo import CheckAlgorithm
from incl_shared.sweep import SweepSpec


def question(
    spec: SweepSpec,
    trials: Collection[Trial],
    learned: Learned,
    earlier: Sequence[Told],
    count: int,
    seconds: float,
) -> bytes:
    """The text that asks for so many points. learned: of these trials. earlier: what other sweeps have taught."""
    asked: dict[str, Any] = {
        "parameters": {name: one.model_dump(mode="json") for name, one in spec.parameters.items()},
        "algorithm": spec.algorithm.name,
        "seed": spec.seed,
        "count": count,
        "seconds": seconds,
    }
    if not spec.algorithm.of_optuna:
        head = json.dumps({**asked, "pending": learned.pending()})
        history = ", ".join(filter(None, (json.dumps(earlier)[1:-1], learned.history())))
        return f'{head[:-1]}, "history": [{history}]}}'.encode()
    ordered = sorted(trials, key=lambda trial: trial.number)
    told = {
        **asked,
        "options": spec.algorithm.options,
        "objectives": len(spec.objective),
        "constraints": len(spec.constraints),
        "earlier": [_earlier(*one) for one in earlier],
        "trials": [_tried(spec, trial) for trial in ordered],
    }
    return json.dumps(told).encode()


def probe(query: CheckAlgorithm) -> dict[str, Any]:
    """Whether a sampler of Optuna can be asked at all."""
    return {
        "parameters": {name: one.model_dump(mode="json") for name, one in query.parameters.items()},
        "algorithm": query.algorithm.name,
        "options": query.algorithm.options,
        "objectives": query.objectives,
        "constraints": query.constraints,
        "seed": 0,
        "count": 1,
        "seconds": 0,
        "probe": True,
        "trials": [],
    }


def _earlier(point: dict[str, Any], values: Sequence[float], constraints: Sequence[float]) -> dict[str, Any]:
    state = "complete" if values and all(map(math.isfinite, values)) else "failed"
    return {"point": point, "state": state, "values": values, "constraints": constraints}


def _tried(spec: SweepSpec, trial: Trial) -> dict[str, Any]:
    """As Optuna has it: one that was stopped before its end is pruned, where it has a single objective's value."""
    one: dict[str, Any] = {"point": trial.parameters, "memo": trial.memo}
    finite = bool(trial.values) and all(map(math.isfinite, trial.values))
    match trial.state:
        case TrialState.RUNNING | TrialState.ENDED:
            return {**one, "state": "running"}
        case TrialState.COMPLETE:
            told = {"values": signed(spec, trial.values), "constraints": trial.constraints}
            return {**one, "state": "complete", **told}
        case TrialState.PRUNED | TrialState.STOPPED if finite and len(spec.objective) == 1:
            return {**one, "state": "pruned", "values": signed(spec, trial.values), "steps": trial.steps}
        case _:
            return {**one, "state": "failed"}
