"""incl sweep resume: go on with a sweep, with more of its budget; its file may not have changed otherwise."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem
from incl_shared.errors import ConflictError
from incl_shared.events.sweeps import SweepResumeRequested, SweepState
from incl_shared.ids import new_id, short
from incl_shared.queries.hpo import GetSweep
from incl_shared.sweep import MOST_MONEY, MOST_PARALLEL, MOST_TRIALS, money_text

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_shared.queries.hpo import SweepView
    from incl_shared.sweep import SweepSpec

_MAY_CHANGE = ("budget", "parallel", "project")
_SHOWN = 10


async def resume(args: argparse.Namespace, session: Session) -> int:
    """Ask for it, and follow."""
    _check(args)
    platform, out = await session.platform(args.project), session.out
    view = await platform.ask(GetSweep(ref=args.sweep))
    row = view.row
    trials, parallel, money = args.trials, args.parallel, args.money
    if args.file is not None:
        spec = _same(args.file, view)
        trials = trials if trials is not None else spec.budget.trials
        parallel = parallel if parallel is not None else spec.parallel
        money = money if money is not None else spec.budget.money
    if row.state is SweepState.STOPPING:
        raise ConflictError(f"sweep {row.name} stops just now", hint=f"incl sweep show -f {short(row.id)}, then again")
    _check_budget(view, trials, args.hours, money)
    event = SweepResumeRequested(sweep=row.id, trials=trials, hours=args.hours, money=money, parallel=parallel)
    await platform.publish(event, identifier=new_id())
    if args.detach:
        if args.json:
            out.json({"id": row.id, "state": "running"})
        else:
            out.note(f"{short(row.id)} {row.name}: goes on. See: incl sweep show -f {short(row.id)}")
        return 0
    from incl_cli.sweep_follow import follow

    return await follow(platform, row.id, out, after=view.version)


def _check(args: argparse.Namespace) -> None:
    for name, most in (("trials", MOST_TRIALS), ("parallel", MOST_PARALLEL)):
        value = getattr(args, name)
        if value is not None and not 1 <= value <= most:
            raise UsageProblem(f"--{name} cannot be {value}", hint=f"from 1 to {most}")
    if args.money is not None and not 0 < args.money <= MOST_MONEY:
        raise UsageProblem(f"--money cannot be {args.money:g}", hint="more than 0")
    if args.hours is not None and not 0 < args.hours <= 8784:
        raise UsageProblem(f"--hours cannot be {args.hours:g}", hint="more than 0, and at most 8784 (a year)")


def _check_budget(view: SweepView, trials: int | None, hours: float | None, money: float | None) -> None:
    """Whether there is anything left to try.

    Raises:
        ConflictError: there is not.
    """
    row, budget = view.row, view.spec.budget
    most = trials if trials is not None else budget.trials
    if most is not None and most <= row.trials:
        raise ConflictError(
            f"sweep {row.name} has had {row.trials} trials already, of {most}",
            hint=f"incl sweep resume {short(row.id)} --trials {row.trials * 2}",
        )
    if money is not None and view.spec.experiment.instance is None:
        raise ConflictError(f"sweep {row.name} runs on machines that cost nothing here", hint="leave --money out")
    limit = money if money is not None else budget.money
    if limit is not None and row.spent is not None and limit <= row.spent:
        raise ConflictError(
            f"sweep {row.name} has cost {money_text(row.spent)} {row.currency} already, of {limit:g}",
            hint=f"incl sweep resume {short(row.id)} --money {row.spent * 2:.3g}",
        )
    if row.ended is not None and budget.hours is not None and hours is None and row.message.startswith("its "):
        raise ConflictError(
            f"the {budget.hours:g} hours of sweep {row.name} are over",
            hint=f"incl sweep resume {short(row.id)} --hours {budget.hours:g}",
        )


def _same(file: str, view: SweepView) -> SweepSpec:
    """The sweep of a file that says the same as the sweep that is there, but for its budget.

    Raises:
        ConflictError: it says something else; with each difference.
    """
    from incl_shared.specfile import Override
    from incl_shared.sweepfile import load_sweep, validate_sweep

    path = Path(file).expanduser()
    document = load_sweep(path)
    there = view.spec
    label = "the sweep that is there"
    changes = [Override(("project",), there.project, label), Override(("experiment", "project"), there.project, label)]
    if "name" not in document.values:
        changes.append(Override(("name",), there.name, label))
    spec = validate_sweep(document, changes)
    found = list(_differences(there.model_dump(mode="json"), spec.model_dump(mode="json"), ""))
    found = [line for line in found if line.partition(":")[0].partition(".")[0] not in _MAY_CHANGE]
    if found:
        more = [f"… and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        raise ConflictError(
            f"{path.name} is not the file of sweep {view.row.name} any more",
            cause="\n".join([*found[:_SHOWN], *more]),
            hint="a changed search is another one: incl sweep run "
            f"{path.name} --warm-start {short(view.row.id)} learns from this one first",
        )
    return spec


def _differences(there: Any, here: Any, path: str) -> Iterator[str]:
    """'parameters.LR.high: 0.1 in the sweep, 0.2 in the file'."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in [*there, *(key for key in here if key not in there)]:
            yield from _differences(there.get(key), here.get(key), f"{path}.{key}" if path else str(key))
    elif there != here:
        yield f"{path}: {_text(there)} in the sweep, {_text(here)} in the file"


def _text(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]
