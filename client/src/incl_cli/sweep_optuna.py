"""incl sweep export --optuna: a sweep as a study of Optuna, for its dashboard, its plots, or its samplers.

Trials that are over become trials of the study: complete ones with their values, pruned and stopped ones with what they
logged, the others as failed. Each has its parameters with their distributions, its constraints, the points of the
objective as intermediate values (where there is one objective), and `trial`, `experiment` … as user attributes.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from incl_cli.sweep_views import all_trials
from incl_cli.text import plural
from incl_shared.errors import ConflictError, InclError, InvalidInput, NotFoundError, UnsupportedError
from incl_shared.events.sweeps import TrialState
from incl_shared.ids import short
from incl_shared.queries.hpo import GetSweep, SweepView, TrialView
from incl_shared.queries.tracker import GetPoints
from incl_shared.sweep import ParameterKind, Scalar, SweepParameter

if TYPE_CHECKING:
    from incl_cli.platform import Platform
    from incl_cli.running import Session

_AT_ONCE = 8
_MOST = 20_000
"""Intermediate values of a trial; what comes after them is left out, and it is said."""
_OPEN = (TrialState.RUNNING, TrialState.ENDED)
Curves = Mapping[int, Mapping[int, float]]


async def export(args: argparse.Namespace, session: Session) -> int:
    """Read all of it, then write the study: all of it, or nothing."""
    optuna = _optuna()
    platform, out = await session.platform(args.project), session.out
    view = await platform.ask(GetSweep(ref=args.sweep))
    name = args.study or view.row.name
    found = await all_trials(platform, view)
    over = [trial for trial in found if trial.state not in _OPEN]
    if not over:
        raise NotFoundError(f"no trial of {view.row.name} is over yet", hint=f"incl sweep show {short(view.row.id)}")
    curves = await _curves(platform, view, over)
    await asyncio.to_thread(_write, optuna, args.optuna, name, view, over, curves)
    if cut := sum(len(curve) >= _MOST for curve in curves.values()):
        out.note(f"warning: of {cut} trials only the first {_MOST:,} points were taken", "yellow")
    if len(over) < len(found):
        out.note(f"left out, as not over yet: {plural(len(found) - len(over), 'trial')}", "yellow")
    if args.json:
        out.json({"study": name, "trials": len(over)})
    else:
        out.note(f"{plural(len(over), 'trial')} in study {name!r}")
    return 0


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            "Optuna is not installed here",
            cause=str(error),
            hint=f"{sys.executable} -m pip install 'optuna>=5,<6'; incl sweep export writes CSV without it",
        ) from error
    return optuna


async def _curves(platform: Platform, view: SweepView, trials: Sequence[TrialView]) -> dict[int, dict[int, float]]:
    """What each trial logged of the objective, by step; nothing where there are several objectives."""
    if len(view.spec.objective) > 1:
        return {}
    free = asyncio.Semaphore(_AT_ONCE)

    async def one(trial: TrialView) -> tuple[int, dict[int, float]]:
        async with free:
            return trial.trial, await _curve(platform, trial.experiment, view.spec.objective[0].metric)

    return dict(await asyncio.gather(*(one(trial) for trial in trials)))


async def _curve(platform: Platform, experiment: str, metric: str) -> dict[int, float]:
    found: dict[int, float] = {}
    cursor: str | None = None
    while len(found) < _MOST:
        try:
            page = await platform.ask(GetPoints(experiment=experiment, metric=metric, cursor=cursor))
        except (NotFoundError, InvalidInput):
            break  # it never logged it, or was deleted
        found.update((step, float(value)) for step, value in zip(page.steps, page.values, strict=True))
        cursor = page.cursor
        if cursor is None:
            break
    return dict(sorted(found.items())[:_MOST])


def _write(optuna: Any, storage: str, name: str, view: SweepView, trials: Sequence[TrialView], curves: Curves) -> None:
    with _quiet(optuna), _told(optuna, storage, name):
        opened = _storage(optuna, storage)
        directions = ["maximize" if one.goal == "max" else "minimize" for one in view.spec.objective]
        study = optuna.create_study(storage=opened, study_name=name, directions=directions)
        try:
            study.set_metric_names([one.metric for one in view.spec.objective])
            for key in ("id", "name", "project", "user", "algorithm"):
                study.set_user_attr(f"incl.{key}", getattr(view.row, key))
            known = {key: _Known(optuna, one) for key, one in view.spec.parameters.items()}
            study.add_trials([_trial(optuna, view, known, trial, curves.get(trial.trial, {})) for trial in trials])
        except BaseException:
            optuna.delete_study(study_name=name, storage=opened)
            raise


def _storage(optuna: Any, text: str) -> Any:
    """A URL of a database as it is; journal:///FILE, or a path: a journal."""
    if "://" in text and not text.startswith("journal://"):
        return text
    from optuna.storages.journal import JournalFileBackend

    return optuna.storages.JournalStorage(JournalFileBackend(text.removeprefix("journal://")))


@contextmanager
def _told(optuna: Any, storage: str, name: str) -> Iterator[None]:
    """What Optuna and its database complain of, in our words."""
    from sqlalchemy.exc import SQLAlchemyError

    place = storage.rpartition("@")[2]  # without a password
    try:
        yield
    except InclError:
        raise
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ConflictError(
            f"there is already a study {name!r} in {place}", hint="--study NAME gives it another name"
        ) from error
    except (OSError, SQLAlchemyError, ImportError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].replace(storage, place)
        raise ConflictError(
            f"cannot write a study to {place}", cause=said, hint="sqlite:///study.db, or a path for Optuna's journal"
        ) from error


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna tells of everything that it does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Known:
    """A parameter's distribution, and its values in it."""

    def __init__(self, optuna: Any, one: SweepParameter) -> None:
        of = optuna.distributions
        self._texts = False
        if one.type is ParameterKind.CATEGORICAL:
            self._texts = len(set(one.choices)) < len(one.choices)  # 1, 1.0 and true are one value to Optuna
            self.distribution = of.CategoricalDistribution([self.value(choice) for choice in one.choices])
            return
        low, high = one.low or 0, one.high or 0
        if one.type is ParameterKind.INT:
            step = int(one.step or 1)
            top = int(low) + (int(high) - int(low)) // step * step
            self.distribution = of.IntDistribution(int(low), top, log=one.log, step=step)
        elif one.step is not None:
            self.distribution = of.FloatDistribution(float(low), float(high), step=float(one.step))
        else:
            log = one.type is ParameterKind.LOGUNIFORM
            self.distribution = of.FloatDistribution(float(low), float(high), log=log)

    def value(self, value: Scalar) -> Any:
        """As Optuna has it."""
        if self._texts:
            return repr(value)
        if isinstance(value, float):
            return min(max(value, self.distribution.low), self.distribution.high) if self._numeric() else value
        return value

    def _numeric(self) -> bool:
        return hasattr(getattr(self, "distribution", None), "low")


def _trial(
    optuna: Any, view: SweepView, known: Mapping[str, _Known], trial: TrialView, curve: Mapping[int, float]
) -> Any:
    states = optuna.trial.TrialState
    finite = bool(trial.values) and all(map(math.isfinite, trial.values))
    state = states.FAIL
    if trial.state is TrialState.COMPLETE:
        state = states.COMPLETE
    elif trial.state in (TrialState.PRUNED, TrialState.STOPPED) and (curve or finite):
        state = states.PRUNED
    single = len(view.spec.objective) == 1
    kept = state is states.COMPLETE or (state is states.PRUNED and finite and single)
    limits = dict(zip(view.spec.constraints, trial.constraints, strict=False))
    made = optuna.trial.create_trial(
        state=state,
        values=list(trial.values) if kept else None,
        params={name: known[name].value(value) for name, value in trial.parameters.items()},
        distributions={name: known[name].distribution for name in trial.parameters},
        intermediate_values=dict(curve) or None,
        constraints=limits or None,
        user_attrs={
            "trial": trial.trial, "experiment": trial.experiment, "state": trial.state.value, "steps": trial.steps,
            "attempts": trial.attempts, "message": trial.message,
            **({} if trial.cost is None else {"cost": trial.cost}),
        },
    )  # fmt: skip
    made.datetime_start = datetime.fromtimestamp(trial.asked)  # noqa: DTZ006 - Optuna's times are local and naive
    made.datetime_complete = datetime.fromtimestamp(trial.ended or trial.asked)  # noqa: DTZ006
    return made
