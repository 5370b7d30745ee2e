"""incl metrics."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incl_cli.output import Output
    from incl_cli.platform import Platform
    from incl_cli.running import Session
    from incl_shared.queries.tracker import Curve, ExperimentView

EXAMPLES = """  incl metrics                          charts of the newest experiment
  incl metrics 3f9k2x7q loss val_acc
  incl metrics 3f9k2x7q 8d2mz0aa --metric loss --log
  incl metrics @last --list loss        every metric with 'loss' in its name
  incl metrics @last loss --points > loss.csv
  incl metrics @last loss val_acc -o metrics.arrow"""
FORMATS = ("csv", "json", "arrow")
_ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".arrow": "arrow", ".feather": "arrow"}
_CHARTS = 6
_PIXELS = 2000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("words", nargs="*", metavar="EXPERIMENT | METRIC", help="an experiment (@last), then metrics")
    parser.add_argument(
        "-m", "--metric", action="append", metavar="NAME", help="then all words are experiments, overlaid"
    )
    parser.add_argument("--list", action="store_true", help="names and values instead; words and -m: parts of names")
    parser.add_argument("--points", action="store_true", help="every point instead of a chart, as CSV on stdout")
    parser.add_argument("--format", choices=FORMATS, help="of the points: csv, json (an object a line) or arrow")
    parser.add_argument("-o", "--output", metavar="FILE", help="the points into a file; its ending tells the format")
    parser.add_argument("--rank", type=int, metavar="N", help="as this node logged it (0, or the lowest that did)")
    parser.add_argument("--attempt", type=int, metavar="N", help="all points of this attempt, those run again too")
    parser.add_argument("--from", dest="from_step", type=int, metavar="STEP", help="first step")
    parser.add_argument("--to", dest="to_step", type=int, metavar="STEP", help="last step")
    parser.add_argument("--log", action="store_true", help="logarithmic values")
    parser.add_argument("--height", type=int, default=12, metavar="ROWS", help="of each chart (12)")
    parser.add_argument("--pixels", type=int, default=_PIXELS, metavar="N", help="points of a curve with --json (2000)")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Draw, list, or write points."""
    _check(args)
    from incl_cli.look import find_all

    if _raw(args) and _format(args) == "arrow":
        from incl_cli.points import need_arrow

        need_arrow()
    platform = await session.platform(args.project)
    references, names = _words(args)
    views = await find_all(platform, references)
    if args.list:
        return await _list(session.out, platform, views, names)
    if _raw(args):
        return await _points(args, session.out, platform, views, names)
    return await _charts(args, session.out, platform, views, names)


def _check(args: argparse.Namespace) -> None:
    if not 3 <= args.height <= 100:
        raise UsageProblem("--height must be from 3 to 100")
    if not 2 <= args.pixels <= 5000:
        raise UsageProblem("--pixels must be from 2 to 5000")
    if args.rank is not None and args.rank < 0:
        raise UsageProblem("--rank must not be negative")
    if args.attempt is not None and args.attempt < 1:
        raise UsageProblem("--attempt must be 1 or more")
    if args.from_step is not None and args.to_step is not None and args.from_step > args.to_step:
        raise UsageProblem("--from is after --to", hint=f"--from {args.to_step} --to {args.from_step}")
    if args.attempt is not None and not _raw(args):
        raise UsageProblem("a chart has all attempts together", hint="with --points, --attempt N has those of one")
    if args.list and _raw(args):
        raise UsageProblem("--list has no points", hint="leave --list or --points out")
    if args.format and args.json and args.format != "json":
        raise UsageProblem(f"--json and --format {args.format} exclude each other")


def _raw(args: argparse.Namespace) -> bool:
    return bool(args.points or args.format or args.output)


def _format(args: argparse.Namespace) -> str:
    if args.format or args.json:
        return args.format or "json"
    if args.output is None:
        return "csv"
    ending = Path(args.output).suffix.lower()
    if ending not in _ENDINGS:
        raise UsageProblem(f"the ending of {args.output!r} tells no format", hint=f"--format {'|'.join(FORMATS)}")
    return _ENDINGS[ending]


def _words(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    if args.metric:
        return args.words or ["@last"], list(args.metric)
    return args.words[:1] or ["@last"], args.words[1:]


async def _list(out: Output, platform: Platform, views: Sequence[ExperimentView], parts: list[str]) -> int:
    from incl_cli.look import metrics_of
    from incl_cli.summary import metric_lines
    from incl_shared.ids import short

    found = []
    for view in views:
        named = {metric.name: metric for part in parts or [""] for metric in await metrics_of(platform, view, part)}
        found.append((view, [named[name] for name in sorted(named)] if len(parts) > 1 else list(named.values())))
    if out.as_json:
        out.json(
            [{"experiment": view.row.id, **metric.model_dump(mode="json")} for view, all_ in found for metric in all_]
        )
        return 0
    for view, metrics in found:
        if len(views) > 1:
            out.line(out.paint(f"{short(view.row.id)} {view.row.name}", "bold"))
        for line in metric_lines(out, metrics):
            out.line(line)
        if not metrics:
            out.note(
                f"{view.row.name} has no such metric" if parts else f"{view.row.name} has logged no metrics", "dim"
            )
    return 0


async def _points(
    args: argparse.Namespace, out: Output, platform: Platform, views: Sequence[ExperimentView], names: list[str]
) -> int:
    from incl_cli.look import known_metrics
    from incl_cli.points import Wanted, export
    from incl_cli.text import plural

    chosen = await known_metrics(platform, views, names, every=True)
    pairs = tuple((view.row.id, name) for view in views for name in chosen[view.row.id])
    wanted = Wanted(pairs, args.rank, args.attempt, args.from_step, args.to_step)
    target = Path(args.output) if args.output else None
    count = await export(platform, wanted, _format(args), out.out, target)
    if target is not None:
        metrics = len({name for _, name in pairs})
        out.note(f"{plural(count, 'point')} of {plural(metrics, 'metric')} in {target}")
    elif not count:
        out.note(f"no points{_chosen(args)}", "dim")
    return 0


async def _charts(
    args: argparse.Namespace, out: Output, platform: Platform, views: Sequence[ExperimentView], names: list[str]
) -> int:
    from incl_cli.look import known_metrics

    chosen = await known_metrics(platform, views, names, every=args.json)
    wanted = names or chosen[views[0].row.id]
    if not wanted:
        out.note(f"{views[0].row.name} has logged no metrics yet", "dim")
        if args.json:
            out.json([])
        return 0
    pixels = args.pixels if args.json else max(20, min(out.width, 200) * 2)
    curves = await _curves(args, platform, views, wanted if args.json else wanted[:_CHARTS], pixels)
    if args.json:
        out.json([_plain(curve) for curve in curves])
    else:
        _draw(out, args, views, wanted, curves)
    return 0


async def _curves(
    args: argparse.Namespace, platform: Platform, views: Sequence[ExperimentView], names: Sequence[str], pixels: int
) -> list[Curve]:
    from incl_shared.queries.tracker import GetChart

    found: list[Curve] = []
    for first in range(0, len(names), 100):
        query = GetChart(
            experiments=tuple(view.row.id for view in views),
            metrics=tuple(names[first : first + 100]),
            rank=args.rank,
            pixels=pixels,
            low=args.from_step,
            high=args.to_step,
        )
        while True:
            answer = await platform.ask(query)
            found += answer.curves
            if answer.cursor is None:
                break
            query = query.model_copy(update={"cursor": answer.cursor})
    return found


def _plain(curve: Curve) -> dict[str, Any]:
    """A curve with times since the epoch."""
    fields = curve.model_dump(mode="json")
    fields["times"] = [round(curve.start + after, 3) for after in curve.times]
    del fields["start"]
    return fields


def _draw(
    out: Output,
    args: argparse.Namespace,
    views: Sequence[ExperimentView],
    names: Sequence[str],
    curves: Sequence[Curve],
) -> None:
    from incl_cli.chart import Line, draw
    from incl_cli.text import plural
    from incl_shared.ids import short

    titles = {view.row.id: f"{short(view.row.id)} {view.row.name}" for view in views}
    width = min(out.width, 120)
    for index, name in enumerate(names[:_CHARTS]):
        mine = [curve for curve in curves if curve.metric == name]
        lines = [Line(titles[one.experiment], one.steps, [float(value) for value in one.values]) for one in mine]
        if index:
            out.line()
        facts = _facts(views[0], name) if args.rank is None else f"rank {args.rank}"
        title = name if len(lines) > 1 else f"{name}  {facts}".rstrip()
        if not any(one.steps for one in mine):
            out.line(out.paint(title, "bold"))
            out.line(f"  no points{_chosen(args)}")
            continue
        for line in draw(out, title, lines, width=width, height=args.height, log=args.log, first=args.from_step):
            out.line(line)
    first = views[0]
    left = max(len(names), first.metric_count if not (args.metric or args.words[1:]) else 0) - min(len(names), _CHARTS)
    if left > 0:
        out.note(f"… and {plural(left, 'more metric')}: incl metrics {short(first.row.id)} --list", "dim")


def _chosen(args: argparse.Namespace) -> str:
    """Which points were asked for, in words: ' of rank 3 from step 5'."""
    parts = (
        ("of rank", args.rank),
        ("of attempt", args.attempt),
        ("from step", args.from_step),
        ("to step", args.to_step),
    )
    return "".join(f" {words} {value}" for words, value in parts if value is not None)


def _facts(view: ExperimentView, name: str) -> str:
    from incl_cli.text import number

    metric = next((metric for metric in view.metrics if metric.name == name), None)
    if metric is None:
        return ""
    best = f", best {number(metric.best)} at step {metric.best_step}" if metric.best is not None else ""
    return f"last {number(metric.last)} at step {metric.last_step}{best}"
