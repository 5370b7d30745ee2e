"""incl sweep ls|show|trials|best|stop: what is asked, and how it is shown."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, did_you_mean
from incl_cli.text import Cell, Column, Row, age, duration, number, plural, table
from incl_shared.errors import ConflictError, NotFoundError
from incl_shared.events.sweeps import SweepState, SweepStopRequested, TrialState
from incl_shared.ids import new_id, short
from incl_shared.queries.hpo import GetSweep, ListSweeps, ListTrials, SweepRow, SweepView, TrialView
from incl_shared.sweep import env_text, money_text

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session

_PAGE = 500
_BAR = 30
_STYLES = {
    "running": "cyan", "stopping": "yellow", "finished": "green", "failed": "red", "stopped": "yellow",
    "pruned": "yellow", "complete": "green", "ended": "cyan", "metric_missing": "red",
}  # fmt: skip


async def list_sweeps(args: argparse.Namespace, session: Session) -> int:
    """incl sweep ls."""
    if args.limit < 1:
        raise UsageProblem(f"--limit needs at least 1, not {args.limit}")
    platform = await session.platform(args.project)
    rows: list[SweepRow] = []
    cursor: str | None = None
    while len(rows) < args.limit:
        query = ListSweeps(running=args.running, limit=min(200, args.limit - len(rows)), cursor=cursor)
        page = await platform.ask(query)
        rows += page.rows
        cursor = page.cursor
        if cursor is None:
            break
    if args.json:
        session.out.json([row.model_dump(mode="json") for row in rows])
    elif not rows:
        session.out.note("no sweeps: incl sweep run sweep.yaml", "dim")
    else:
        _print_rows(session.out, rows)
    return 0


def _print_rows(out: Output, rows: Sequence[SweepRow]) -> None:
    now = time.time()
    columns = [
        Column("id"), Column("name", flexible=True), Column("state"), Column("trials", right=True),
        Column("best", right=True, flexible=True), Column("took", right=True), Column("created"),
        Column("", flexible=True, least=0),
    ]  # fmt: skip
    cells: list[Row] = [
        [
            Cell(short(row.id), "bold"),
            row.name,
            Cell(row.state.value, _STYLES.get(row.state.value, "")),
            f"{_over(row)}/{row.budget}",
            f"{row.metrics[0]} {number(row.best.values[0])}" if row.best is not None else "",
            duration((row.ended or now) - row.created),
            Cell(age(row.created, now), "dim"),
            Cell(row.message, "dim"),
        ]
        for row in rows
    ]
    for line in table(out, columns, cells):
        out.line(line)


def _over(row: SweepRow) -> int:
    return sum(count for state, count in row.counts.items() if state not in (TrialState.RUNNING, TrialState.ENDED))


async def show(args: argparse.Namespace, session: Session) -> int:
    """incl sweep show."""
    platform = await session.platform(args.project)
    view = await platform.ask(GetSweep(ref=args.sweep))
    if args.follow:
        from incl_cli.sweep_follow import follow

        return await follow(platform, view.row.id, session.out)
    if args.json:
        session.out.json(view)
    else:
        print_view(session.out, view)
    return 0


def print_view(out: Output, view: SweepView, *, running: bool = True) -> None:
    """A sweep for people."""
    for line in view_lines(out, view, running=running):
        out.line(line)


def view_lines(out: Output, view: SweepView, *, running: bool = True) -> list[str]:
    """The same, as lines: how far it is, the best, what runs, what ended last."""
    row = view.row
    took = duration((row.ended or time.time()) - row.created)
    state = out.paint(row.state.value, _STYLES.get(row.state.value, ""))
    done = min(_BAR, round(_BAR * _share(view)))
    bar = "█" * done + "░" * (_BAR - done)
    counts = ", ".join(f"{count} {name.value.replace('_', ' ')}" for name, count in sorted(row.counts.items()))
    lines = [
        f"{out.paint(row.name, 'bold')}  {state}  {row.algorithm}  {took}   {out.paint(short(row.id), 'dim')}",
        f"{out.paint(bar, 'green')} {_of(view)}" + (f"   {counts}" if counts else ""),
    ]
    if row.steps_saved:
        share = row.steps_saved / (row.steps_saved + row.steps)
        lines.append(f"stopped early: {row.steps_saved:,} steps saved ({share:.0%}), {row.steps:,} were run")
    if row.spent is not None and row.money is not None:
        lines.append(f"spent: {money_text(row.spent)} of {row.money:g} {row.currency}".rstrip())
    if row.message:
        lines.append(out.paint(row.message, "red" if row.state is SweepState.FAILED else "dim"))
    if row.hint:
        lines.append(out.paint(f"hint: {row.hint}", "cyan"))
    if view.best:
        title = "best" if len(view.best) == 1 else "best: none of these is beaten in all objectives"
        lines += ["", title, *trial_lines(out, view, view.best)]
    if running and view.running:
        lines += ["", "running", *trial_lines(out, view, view.running[:10])]
    if view.recent and running:
        lines += ["", "ended last", *trial_lines(out, view, view.recent)]
    return lines


def _of(view: SweepView) -> str:
    limited = view.spec.budget.trials is not None
    return f"{_over(view.row)}/{view.row.budget} trials" if limited else plural(_over(view.row), "trial")


def _share(view: SweepView) -> float:
    """How much of the budget is used, from 0 to 1: of trials, or else of money."""
    row = view.row
    if view.spec.budget.trials is None and row.money:
        return (row.spent or 0.0) / row.money
    return _over(row) / max(1, row.budget)


def trial_lines(out: Output, view: SweepView, trials: Sequence[TrialView]) -> list[str]:
    """A table of trials."""
    names = list(view.spec.parameters)
    columns = [
        Column("trial", right=True), Column("id"), Column("state"),
        *(Column(name, right=True) for name in view.row.metrics),
        *(Column(name, right=True, flexible=True, least=5) for name in names),
        Column("", flexible=True, least=0),
    ]  # fmt: skip
    cells: list[Row] = [
        [
            str(trial.trial),
            Cell(short(trial.experiment), "bold"),
            Cell(trial.state.value, _STYLES.get(trial.state.value, "")),
            *(number(value) for value in trial.values or ()),
            *("" for _ in view.row.metrics[len(trial.values) :]),
            *(_parameter(trial, name) for name in names),
            Cell(trial.message, "dim"),
        ]
        for trial in trials
    ]
    return table(out, columns, cells)


def _parameter(trial: TrialView, name: str) -> str:
    value = trial.parameters.get(name)
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else env_text(value)


def parameters_text(trial: TrialView) -> str:
    """'LR 0.001  OPT adam'."""
    return "  ".join(f"{name} {_parameter(trial, name)}" for name in trial.parameters)


def values_text(view: SweepView, trial: TrialView) -> str:
    """'val_loss 0.31'."""
    return "  ".join(f"{name} {number(value)}" for name, value in zip(view.row.metrics, trial.values, strict=False))


async def trials(args: argparse.Namespace, session: Session) -> int:
    """incl sweep trials."""
    state = _state(args.state)
    if args.limit is not None and args.limit < 1:
        raise UsageProblem(f"--limit needs at least 1, not {args.limit}")
    platform = await session.platform(args.project)
    view = await platform.ask(GetSweep(ref=args.sweep))
    found = await all_trials(platform, view, sort=args.sort, state=state, limit=args.limit)
    if args.json:
        session.out.json([trial.model_dump(mode="json") for trial in found])
    elif not found:
        session.out.note("no trials" + (f" are {args.state}" if state else " yet"), "dim")
    else:
        for line in trial_lines(session.out, view, found):
            session.out.line(line)
    return 0


async def all_trials(
    platform: Any, view: SweepView, *, sort: str = "number", state: TrialState | None = None, limit: int | None = None
) -> list[TrialView]:
    """Page by page."""
    found: list[TrialView] = []
    cursor: int | None = 0
    while cursor is not None and (limit is None or len(found) < limit):
        size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        query = ListTrials.model_validate(
            {"sweep": view.row.id, "sort": sort, "state": state, "cursor": cursor, "limit": size}
        )
        page = await platform.ask(query)
        found += page.trials
        cursor = page.cursor
    return found


def _state(given: str | None) -> TrialState | None:
    if given is None:
        return None
    known = [state.value for state in TrialState]
    if given not in known:
        raise UsageProblem(
            f"--state cannot be {given[:40]!r}", hint=did_you_mean(given, known) or f"one of {', '.join(known)}"
        )
    return TrialState(given)


async def best(args: argparse.Namespace, session: Session) -> int:
    """incl sweep best: a sweep without any trial that has a value is 'not found' (exit 4)."""
    platform, out = await session.platform(args.project), session.out
    view = await platform.ask(GetSweep(ref=args.sweep))
    if not view.best:
        raise NotFoundError(
            f"no trial of {view.row.name} has a value that keeps the constraints"
            + ("" if view.row.ended else " so far"),
            hint=f"incl sweep trials {short(view.row.id)}",
        )
    if args.json:
        out.json([trial.model_dump(mode="json") for trial in view.best])
    elif args.env:
        for name, value in view.best[0].parameters.items():
            out.line(f"{name}={env_text(value)}")
    else:
        for line in trial_lines(out, view, view.best):
            out.line(line)
        out.note(f"again: incl rerun {short(view.best[0].experiment)}", "dim")
    return 0


async def stop(args: argparse.Namespace, session: Session) -> int:
    """incl sweep stop. One that is over already is a conflict (exit 5)."""
    platform, out = await session.platform(args.project), session.out
    view = await platform.ask(GetSweep(ref=args.sweep))
    row = view.row
    if row.ended is not None:
        raise ConflictError(
            f"sweep {row.name} is {row.state.value} already; there is nothing to stop",
            hint=f"incl sweep show {short(row.id)}",
        )
    await platform.publish(SweepStopRequested(sweep=row.id, reason=args.reason[:1000]), identifier=new_id())
    running = sum(row.counts.get(state, 0) for state in (TrialState.RUNNING, TrialState.ENDED))
    left = f"{plural(running, 'trial')} that {'is' if running == 1 else 'are'} not over"
    out.note(f"{short(row.id)} {row.name}: asked to stop, with {left}")
    if args.wait:
        from incl_cli.sweep_follow import OVER, views

        async for view in views(platform, row.id, out):
            if view.row.state in OVER:
                break
        if not args.json:
            out.note(f"{short(row.id)} {row.name}: {view.row.state.value}")
    if args.json:
        out.json({"id": row.id, "state": view.row.state.value})
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace, Session], Coroutine[Any, Any, int]]] = {
    "ls": list_sweeps,
    "show": show,
    "trials": trials,
    "best": best,
    "stop": stop,
}
