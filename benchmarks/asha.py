"""Early stopping on real learning curves: epochs until the sampler with ASHA has the regret of full training.

Three problems, every combination of a grid trained for 27 epochs by scikit-learn on data that ships with it, the error
on the held-out 40 % after each (computed once, minutes; kept in .bench/cache): a neural network and a linear model by
stochastic gradients on digits, boosted trees on breast cancer (an epoch is three trees). Searches run in virtual time
with 8 asynchronous workers, an epoch lasting 1: the platform's own sampler, what it is told of stopped trials, and the
rungs and the rule of `early_stopping: {name: asha, min: 3}`; `default` is the same without `min`, where nothing is
stopped before the first trial has come to its end (216 epochs with 8 workers). Regret: the error of the best trial that
was trained to its end, over the table's best, where 1 is the median combination; means over seeds. Less than 0.05
counts as that, as in the tables of `search`: a table's exact best is found by chance.

`epochs`: those by which ASHA has the regret that full training has after 60 trials (1,620 epochs), the epochs of trials
that run then counted, at most 1,620 (ASHA is given 972); `share`: of these. `regret_third`: of both after a third of
the epochs, nothing rounded up. The target is of the geometric mean of the shares; the worst is told beside it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support.figures import short

EPOCHS, WORKERS, TRIALS, SEEDS = 27, 8, 60, 5
BUDGET = TRIALS * EPOCHS
FLOOR = 0.05
RULES: dict[str, Any] = {"none": "none", "default": "asha", "asha": {"name": "asha", "min": 3}}
TARGET = 1 / 3
CACHE = Path(__file__).resolve().parent.parent / ".bench" / "cache" / "asha-curves.npz"
GRIDS: dict[str, dict[str, list[Any]]] = {
    "network": {
        "LR": [10 ** (power / 4) for power in range(-14, 3)],
        "HIDDEN": [4, 16, 64],
        "ALPHA": [1e-4, 1.0],
        "BATCH": [64, 256],
    },
    "linear": {
        "LR": [10 ** (power / 2) for power in range(-10, 3)],
        "ALPHA": [10.0**power for power in range(-7, 1)],
        "LOSS": ["hinge", "log_loss", "modified_huber"],
    },
    "trees": {
        "LR": [10 ** (power / 4) for power in range(-10, 2)],
        "DEPTH": [1, 2, 3, 5, 8],
        "SUBSAMPLE": [0.2, 0.5, 0.8, 1.0],
    },
}


def bench() -> dict[str, Any]:
    """One run."""
    curves = _curves()
    ours: dict[str, Any] = {name: _problem(name, curves[name]) for name in GRIDS}
    shares = [one["share"] for one in ours.values()]
    mean = float(np.exp(np.mean(np.log(shares))))
    return {
        "name": "asha",
        "unit": "share of the epochs of full training",
        "ours": {"share": short(mean, 3), "worst_share": short(max(shares), 3), **ours},
        "peers": {},
        "ratio": round(mean / TARGET, 3),
        "target": {"share": round(TARGET, 3)},
        "ok": mean <= TARGET,
    }


def _problem(name: str, curves: NDArray[np.float64]) -> dict[str, Any]:
    final = curves[:, -1]
    best, middle = float(final.min()), float(np.median(final))
    found: dict[str, NDArray[np.float64]] = {}
    stopped = 0.0
    for kind in RULES:
        runs = [_Search(name, curves, kind, seed).run() for seed in range(SEEDS)]
        found[kind] = np.mean([(run.best - best) / (middle - best) for run in runs], axis=0)
        stopped = float(np.mean([run.stopped / run.asked for run in runs]))
    goal = max(float(found["none"][-1]), FLOOR)
    epochs = {kind: _first(found[kind] <= goal) for kind in RULES}
    third = BUDGET // 3 - 1
    return {
        "epochs": epochs["asha"],
        "share": short(epochs["asha"] / BUDGET, 3),
        "default": {"epochs": epochs["default"], "share": short(epochs["default"] / BUDGET, 3)},
        "regret": short(float(found["none"][-1]), 3),
        "regret_third": {kind: short(float(found[kind][third]), 3) for kind in RULES},
        "stopped": short(stopped, 3),
    }


def _first(reached: NDArray[np.bool_]) -> int:
    found = np.flatnonzero(reached)
    return int(found[0]) + 1 if len(found) else BUDGET


@dataclass
class _Found:
    best: NDArray[np.float64]
    """(BUDGET,) the error of the best complete trial after so many epochs."""
    asked: int
    stopped: int


class _Search:
    """One search in virtual time."""

    def __init__(self, name: str, curves: NDArray[np.float64], kind: str, seed: int) -> None:
        from incl_hpo.domain.space import space_of
        from incl_hpo.search import sampler
        from incl_shared.sweep import SweepSpec

        grid = GRIDS[name]
        self._spec = SweepSpec.model_validate(
            {
                "experiment": {"command": "true"}, "objective": {"metric": "error", "goal": "min"},
                "parameters": {key: _parameter(values) for key, values in grid.items()},
                "budget": {"trials": 10_000}, "parallel": WORKERS, "early_stopping": RULES[kind], "seed": seed,
            }
        )  # fmt: skip
        self._space, self._sampler = space_of(self._spec.parameters), sampler("tpe")
        self._curve = {key: curves[place] for place, key in enumerate(itertools.product(*grid.values()))}
        self._budget = BUDGET if kind == "none" else BUDGET * 3 // 5
        self._grid = grid
        self._trials: list[Any] = []
        self._rungs: dict[int, list[float | None]] = {}
        self._longest = 0

    def run(self) -> _Found:
        """Until so many epochs are spent."""
        best, spent, least = np.full(BUDGET, np.nan), 0, float("nan")
        queue = [(1, place, self._ask()) for place in range(WORKERS)]  # (time, order, trial)
        order, epochs = WORKERS, dict.fromkeys(range(WORKERS), 0)
        while queue and spent < self._budget:
            now, _, number = heapq.heappop(queue)
            epochs[number] += 1
            value = float(self._of(number)[epochs[number] - 1])
            goes_on = self._goes_on(number, epochs[number], value)
            if epochs[number] == EPOCHS:
                least = float(np.nanmin([least, value]))
            following = number if goes_on else self._ask()
            if following >= 0:
                epochs.setdefault(following, 0)
                heapq.heappush(queue, (now + 1, order, following))
            best[spent] = least
            order, spent = order + 1, spent + 1
        best[spent:] = least
        best[np.isnan(best)] = max(float(curve[-1]) for curve in self._curve.values())
        return _Found(best, len(self._trials), sum(trial.pruned for trial in self._trials))

    def _ask(self) -> int:
        """The number of the next trial; -1: every combination was tried."""
        from incl_hpo.domain.learning import known
        from incl_hpo.domain.trial import Trial
        from incl_hpo.search import Observation, SpaceExhaustedError
        from incl_shared.events import TrialState

        told = known(self._spec, self._trials)
        history = [Observation(*one) for one in told.history]
        try:
            point: Any = self._sampler.ask(self._space, history, told.pending, self._spec.seed)
        except SpaceExhaustedError:
            return -1
        number = len(self._trials)
        self._trials.append(Trial(number, str(number), TrialState.RUNNING, point))
        return number

    def _of(self, number: int) -> NDArray[np.float64]:
        point: Any = self._trials[number].parameters
        place = tuple(_value(values, point[key]) for key, values in self._grid.items())
        curve: NDArray[np.float64] = self._curve[place]
        return curve

    def _goes_on(self, number: int, epoch: int, value: float) -> bool:
        """After an epoch: at its end it is complete, at a rung it is judged."""
        from incl_hpo.domain.pruning import goes_on, next_rung, rungs_of
        from incl_shared.events import TrialState

        trial = self._trials[number]
        if epoch == EPOCHS:
            self._trials[number] = replace(trial, state=TrialState.COMPLETE, values=(value,))
            self._longest = self._longest or EPOCHS
            return False
        stopping = self._spec.early_stopping
        rung = next_rung(rungs_of(stopping, self._longest), trial.rung) if self._spec.stops_early else None
        while rung is not None and epoch >= rung:
            at = float(self._of(number)[rung - 1])
            others = self._rungs.setdefault(rung, [])
            kept = goes_on(stopping, at, others)
            others.append(at)
            trial = self._trials[number] = replace(trial, rung=rung)
            if not kept:
                self._trials[number] = replace(trial, state=TrialState.PRUNED, values=(value,), pruned=True)
                return False
            rung = next_rung(rungs_of(stopping, self._longest), rung)
        return True


def _parameter(values: list[Any]) -> dict[str, Any]:
    """Numbers by their place in the grid, which is even in the scale that they are searched on."""
    if isinstance(values[0], str):
        return {"type": "categorical", "choices": values}
    return {"type": "int", "low": 0, "high": len(values) - 1}


def _value(values: list[Any], asked: Any) -> Any:
    return asked if isinstance(values[0], str) else values[int(asked)]


# --- the curves


def _curves() -> dict[str, NDArray[np.float64]]:
    """(combinations, EPOCHS) errors of each problem, from the cache or trained now."""
    if CACHE.exists():
        with np.load(CACHE) as kept:
            if set(kept) == set(GRIDS):
                return {name: kept[name] for name in GRIDS}
    trained = {name: np.array([_TRAIN[name](point) for point in _points(name)]) for name in GRIDS}
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    beside = CACHE.with_suffix(".part.npz")
    save: Any = np.savez_compressed
    save(beside, **trained)
    beside.replace(CACHE)
    return trained


def _points(name: str) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*GRIDS[name].values()):
        yield dict(zip(GRIDS[name], values, strict=True))


def _split(load: Callable[..., Any]) -> Any:
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    x, y = load(return_X_y=True)
    seen, held, seen_y, held_y = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    scaler = StandardScaler().fit(seen)
    return scaler.transform(seen), scaler.transform(held), seen_y, held_y


def _by_epochs(model: Any) -> list[float]:
    """Errors after each epoch over digits; one that diverges keeps the error of a guess."""
    from sklearn.datasets import load_digits

    x, held, y, held_y = _split(load_digits)
    rng, errors = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        order = rng.permutation(len(x))
        try:
            model.partial_fit(x[order], y[order], classes=np.unique(y))
            errors.append(1 - float(model.score(held, held_y)))
        except ValueError:
            errors.append(0.9)
    return errors


def _network(point: Mapping[str, Any]) -> list[float]:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier(
        (point["HIDDEN"],), solver="sgd", learning_rate_init=point["LR"], alpha=point["ALPHA"],
        batch_size=point["BATCH"], random_state=0,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        return _by_epochs(model)


def _linear(point: Mapping[str, Any]) -> list[float]:
    from sklearn.linear_model import SGDClassifier

    model = SGDClassifier(
        loss=point["LOSS"], learning_rate="constant", eta0=point["LR"], alpha=point["ALPHA"], random_state=0
    )
    with np.errstate(all="ignore"):
        return _by_epochs(model)


def _trees(point: Mapping[str, Any]) -> list[float]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.metrics import log_loss

    x, held, y, held_y = _split(load_breast_cancer)
    model = GradientBoostingClassifier(
        learning_rate=point["LR"], n_estimators=3 * EPOCHS, max_depth=point["DEPTH"], subsample=point["SUBSAMPLE"],
        random_state=0,
    ).fit(x, y)  # fmt: skip
    staged = list(model.staged_predict_proba(held))
    return [float(min(1.0, log_loss(held_y, staged[3 * epoch + 2]))) for epoch in range(EPOCHS)]


_TRAIN: dict[str, Callable[[Mapping[str, Any]], list[float]]] = {
    "network": _network,
    "linear": _linear,
    "trees": _trees,
}
