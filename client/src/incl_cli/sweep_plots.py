"""incl sweep plot and export: the trials of a sweep as pictures in the terminal, and as a table in a file."""

from __future__ import annotations

import argparse
import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from incl_cli import sweep_pictures
from incl_cli.arguments import UsageProblem
from incl_cli.chart import Line, draw
from incl_cli.sweep_pictures import width_of
from incl_cli.sweep_views import all_trials
from incl_cli.text import Column, duration, number, table
from incl_shared.errors import ConflictError, NotFoundError
from incl_shared.events.sweeps import TrialState
from incl_shared.ids import short
from incl_shared.queries.hpo import GetSweep, SweepView, TrialView
from incl_shared.sweep import ParameterKind, env_text

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.text import Row

_ROWS = 60


async def plot(args: argparse.Namespace, session: Session) -> int:
    """incl sweep plot: a picture in the terminal, or in a file."""
    if args.height < 3:
        raise UsageProblem(f"--height needs at least 3, not {args.height}")
    names = [name.strip() for name in (args.parameters or "").split(",") if name.strip()]
    path = _picture(args.out) if args.out is not None else None
    platform, out = await session.platform(args.project), session.out
    view = await platform.ask(GetSweep(ref=args.sweep))
    trials = await all_trials(platform, view)
    if args.json:
        out.json([trial.model_dump(mode="json") for trial in trials])
        return 0
    if not any(trial.values for trial in trials) and args.kind != "timeline":
        raise NotFoundError(
            f"no trial of {view.row.name} has a value yet", hint=f"incl sweep show {short(view.row.id)}"
        )
    _check(view, names)
    if path is not None:
        from incl_cli import sweep_files

        sweep_files.write(path, args.kind, view, trials, names)
        out.note(f"{args.kind} of {len(trials)} trials in {path}")
        return 0
    for line in _drawn(args.kind, out, view, trials, args.height, names):
        out.line(line)
    return 0


def _picture(name: str) -> Path:
    """Where it goes, before anything is asked."""
    from incl_cli import sweep_files

    path = sweep_files.checked(name)
    sweep_files.need_matplotlib()
    return path


def _check(view: SweepView, names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in view.spec.parameters]
    if unknown:
        raise NotFoundError(
            f"sweep {view.row.name} has no parameter {unknown[0]}", hint=f"one of: {', '.join(view.spec.parameters)}"
        )


def _drawn(
    kind: str, out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str]
) -> list[str]:
    if kind == "history":
        return history(out, view, trials, height)
    if kind == "slice":
        return slices(out, view, trials, height, names)
    if kind == "timeline":
        return timeline(out, view, trials)
    return _TOGETHER[kind](out, view, trials, height, names)


def history(out: Output, view: SweepView, trials: Sequence[TrialView], height: int) -> list[str]:
    """Each value by its trial, and the best so far."""
    lines: list[str] = []
    for index, objective in enumerate(view.spec.objective):
        known = [trial for trial in trials if len(trial.values) > index]
        numbers = [float(trial.trial) for trial in known]
        values = [trial.values[index] for trial in known]
        better = max if objective.goal == "max" else min
        complete = [(trial.trial, trial.values[index]) for trial in known if trial.state is TrialState.COMPLETE]
        best = [better(value for _, value in complete[: place + 1]) for place in range(len(complete))]
        series = [
            Line("each trial", numbers, values, joined=False),
            Line("best so far", [float(trial) for trial, _ in complete], best),
        ]
        title = f"{view.row.name}: {objective.metric} ({objective.goal})"
        lines += draw(out, title, series, width=width_of(out), height=height, axis="trial")
    return lines


def slices(
    out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str] = ()
) -> list[str]:
    """The first objective by each parameter: a chart for a number, a table for choices."""
    metric = view.spec.objective[0].metric
    lines: list[str] = []
    for name, parameter in view.spec.parameters.items():
        known = [
            (trial.parameters[name], trial.values[0]) for trial in trials if trial.values and name in trial.parameters
        ]
        if not known or (names and name not in names):
            continue
        if lines:
            lines.append("")
        if parameter.type is ParameterKind.CATEGORICAL:
            lines += _choices(out, view, name, known)
            continue
        log = parameter.type is ParameterKind.LOGUNIFORM or parameter.log
        steps = [math.log10(float(value)) if log else float(value) for value, _ in known]
        series = [Line(name, steps, [value for _, value in known], joined=False)]
        axis = f"log10 {name}" if log else name
        lines += draw(out, f"{metric} by {name}", series, width=width_of(out), height=height, axis=axis)
    return lines


def _choices(out: Output, view: SweepView, name: str, known: Sequence[tuple[Any, float]]) -> list[str]:
    objective = view.spec.objective[0]
    better = max if objective.goal == "max" else min
    rows: list[Row] = []
    for choice in view.spec.parameters[name].choices:
        values = [value for given, value in known if given == choice and type(given) is type(choice)]
        if values:
            rows.append([env_text(choice), str(len(values)), number(better(values)), number(median(values))])
    columns = [Column(name), Column("trials", right=True), Column("best", right=True), Column("median", right=True)]
    return [out.paint(f"{objective.metric} by {name}", "bold"), *table(out, columns, rows)]


def timeline(out: Output, view: SweepView, trials: Sequence[TrialView]) -> list[str]:
    """When each trial was asked for, and when it ended."""
    if not trials:
        return ["no trials yet"]
    begin = min(trial.asked for trial in trials)
    end = max(trial.ended or trial.asked for trial in trials)
    width = width_of(out) - 24
    span = max(end - begin, 1e-9)
    lines = [out.paint(f"{view.row.name}: {len(trials)} trials in {duration(end - begin)}", "bold")]
    for trial in trials[-_ROWS:]:
        start = round((trial.asked - begin) / span * (width - 1))
        stop = max(start + 1, round(((trial.ended or end) - begin) / span * width))
        bar = " " * start + out.paint(
            "█" * (stop - start) if trial.ended else "▒" * (stop - start), _STYLES[trial.state]
        )
        lines.append(f"{trial.trial:>6} {trial.state.value:<15} {bar}")
    if len(trials) > _ROWS:
        lines.append(f"the last {_ROWS} of {len(trials)}")
    return lines


_STYLES = {
    TrialState.RUNNING: "cyan", TrialState.ENDED: "cyan", TrialState.COMPLETE: "green", TrialState.FAILED: "red",
    TrialState.METRIC_MISSING: "red", TrialState.PRUNED: "yellow", TrialState.STOPPED: "yellow",
}  # fmt: skip
_TOGETHER: dict[str, Callable[[Output, SweepView, Sequence[TrialView], int, Sequence[str]], list[str]]] = {
    "importance": sweep_pictures.importances,
    "parallel": sweep_pictures.parallel,
    "contour": sweep_pictures.contour,
    "rank": sweep_pictures.rank,
    "early": sweep_pictures.early,
}


async def export(args: argparse.Namespace, session: Session) -> int:
    """incl sweep export: the trials as CSV, a column for each parameter, objective and constraint."""
    platform, out = await session.platform(args.project), session.out
    view = await platform.ask(GetSweep(ref=args.sweep))
    trials = await all_trials(platform, view)
    text = csv_text(view, trials)
    if args.output is None:
        out.out.write(text)
        return 0
    _write(args.output, text)
    out.note(f"{len(trials)} trials in {args.output}")
    return 0


def _write(name: str, text: str) -> None:
    path = Path(name).expanduser()
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConflictError(
            f"cannot write {path}", cause=error.strerror or str(error), hint="name a file that you can write"
        ) from error


def csv_text(view: SweepView, trials: Sequence[TrialView]) -> str:
    """The table with its heading; what a trial has not is empty."""
    names, metrics, limits = list(view.spec.parameters), list(view.row.metrics), list(view.spec.constraints)
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\n")
    rows.writerow(["trial", "experiment", "state", *names, *metrics, *limits, "steps", "asked", "ended", "message"])
    for trial in trials:
        parameters = [env_text(trial.parameters[name]) if name in trial.parameters else "" for name in names]
        rows.writerow(
            [
                trial.trial, trial.experiment, trial.state.value, *parameters, *_padded(trial.values, len(metrics)),
                *_padded(trial.constraints, len(limits)), trial.steps, trial.asked, trial.ended or "", trial.message,
            ]
        )  # fmt: skip
    return written.getvalue()


def _padded(values: Sequence[float], count: int) -> list[str]:
    return [repr(value) for value in values] + [""] * (count - len(values))
