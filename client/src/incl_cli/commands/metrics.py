"""incl metrics."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, common, did_you_mean

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_shared.queries.tracker import ExperimentView, Series

EXAMPLES = """  incl metrics                          every metric of the newest experiment
  incl metrics 3f9k2x7q loss val_acc
  incl metrics 3f9k2x7q 8d2mz0aa --metric loss --log
  incl metrics @last loss --csv > loss.csv"""
_CHARTS = 6


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("words", nargs="*", metavar="EXPERIMENT | METRIC", help="an experiment (@last), then metrics")
    parser.add_argument(
        "-m", "--metric", action="append", metavar="NAME", help="then all words are experiments, overlaid"
    )
    parser.add_argument("--rank", type=int, metavar="N", help="as this node logged it (0, or the lowest that did)")
    parser.add_argument("--from", dest="from_step", type=int, metavar="STEP", help="first step")
    parser.add_argument("--to", dest="to_step", type=int, metavar="STEP", help="last step")
    parser.add_argument("--log", action="store_true", help="logarithmic values")
    parser.add_argument("--height", type=int, default=12, metavar="ROWS", help="of each chart (12)")
    parser.add_argument(
        "--points", type=int, default=0, metavar="N", help="with --json or --csv: at most about 4 N points"
    )
    parser.add_argument("--csv", action="store_true", help="experiment,metric,rank,step,time,value on stdout")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Draw, or print."""
    _check(args)
    from incl_cli.look import find_all
    from incl_shared.queries.tracker import GetSeries

    platform = await session.platform(args.project)
    references, names = _words(args)
    views = await find_all(platform, references)
    names = known(views, names)
    out = session.out
    if not names:
        out.note(f"{views[0].row.name} has logged no metrics yet", "dim")
        if args.json:
            out.json([])
        return 0
    raw = args.json or args.csv
    pixels = min(5000, args.points or 5000) if raw else max(20, min(out.width, 200) * 2)
    answer = await platform.ask(
        GetSeries(
            experiments=tuple(view.row.id for view in views),
            metrics=tuple(names),
            rank=args.rank,
            pixels=pixels,
            from_step=args.from_step,
            to_step=args.to_step,
        )
    )
    if args.json:
        out.json([series.model_dump(mode="json") for series in answer.series])
    elif args.csv:
        _csv(out, answer.series)
    else:
        _draw(out, args, views, names, answer.series)
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 3 <= args.height <= 100:
        raise UsageProblem("--height must be from 3 to 100")
    if not 0 <= args.points <= 5000:
        raise UsageProblem("--points must be from 1 to 5000")
    if args.rank is not None and args.rank < 0:
        raise UsageProblem("--rank must not be negative")
    if args.csv and args.json:
        raise UsageProblem("--csv and --json exclude each other")


def _words(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    if args.metric:
        return args.words or ["@last"], list(args.metric)
    return args.words[:1] or ["@last"], args.words[1:]


def known(views: list[ExperimentView], wanted: list[str]) -> list[str]:
    """The metrics to show: those wanted, or all of the first experiment.

    Raises:
        NotFoundError: nobody logged one of them; with the names that there are.
    """
    from incl_cli.look import is_own
    from incl_shared.errors import NotFoundError

    have = [metric.name for view in views for metric in view.metrics]
    if not wanted:
        every = [metric.name for metric in views[0].metrics]
        return [name for name in every if is_own(name)] or every
    for name in wanted:
        if name not in have:
            names = ", ".join(sorted(set(have))[:20]) or "none yet"
            raise NotFoundError(
                f"there is no metric {name[:80]!r}",
                cause=f"logged are: {names}",
                hint=did_you_mean(name, have) or f"incl metrics {views[0].row.id[-8:]} shows them all",
            )
    return wanted


def _csv(out: Output, series: Any) -> None:
    import csv

    writer = csv.writer(out.out, lineterminator="\n")
    writer.writerow(["experiment", "metric", "rank", "step", "time", "value"])
    for one in series:
        for step, when, value in zip(one.steps, one.times, one.values, strict=True):
            writer.writerow([one.experiment, one.metric, one.rank, step, f"{when:.3f}", value])


def _draw(out: Output, args: argparse.Namespace, views: list[ExperimentView], names: list[str], series: Any) -> None:
    from incl_cli.chart import Line, draw
    from incl_shared.ids import short

    titles = {view.row.id: f"{short(view.row.id)} {view.row.name}" for view in views}
    width = min(out.width, 120)
    for index, name in enumerate(names[:_CHARTS]):
        mine: list[Series] = [one for one in series if one.metric == name]
        lines = [Line(titles[one.experiment], one.steps, [float(value) for value in one.values]) for one in mine]
        if index:
            out.line()
        title = name if len(lines) > 1 else f"{name}  {_facts(views[0], name)}".rstrip()
        for line in draw(out, title, lines, width=width, height=args.height, log=args.log):
            out.line(line)
    if len(names) > _CHARTS:
        out.note(f"… and {len(names) - _CHARTS} more: {', '.join(names[_CHARTS:][:20])}", "dim")


def _facts(view: ExperimentView, name: str) -> str:
    from incl_cli.text import number

    metric = next((metric for metric in view.metrics if metric.name == name), None)
    if metric is None:
        return ""
    best = f", best {number(metric.best)} at step {metric.best_step}" if metric.best is not None else ""
    return f"last {number(metric.last)} at step {metric.last_step}{best}"
