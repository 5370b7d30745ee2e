"""incl show."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.text import Row
    from incl_shared.queries.tracker import AttemptView, ExperimentView, MetricSummary

EXAMPLES = """  incl show @last
  incl show 3f9k2x7q --json
  incl show my-experiment --spec > again.yaml"""
_FILES = 15
_METRICS = 30


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="?", default="@last", help="id, the end of one, name, @last (default)")
    parser.add_argument("--spec", action="store_true", help="the experiment file that makes it again, as YAML")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Show."""
    from incl_cli.look import find

    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    if args.spec:
        _print_spec(session.out, view)
    elif args.json:
        session.out.json(view)
    else:
        _print(session.out, view)
    return 0


def _print_spec(out: Output, view: ExperimentView) -> None:
    from incl_shared.errors import NotFoundError

    if view.spec is None:
        raise NotFoundError("this run was made outside the platform: it has no experiment file")
    if out.as_json:
        out.json(view.spec.model_dump(mode="json", exclude_defaults=True))
        return
    from incl_shared.specfile import spec_text

    out.line(spec_text(view.spec).rstrip())


def _print(out: Output, view: ExperimentView) -> None:
    from incl_cli.look import is_own
    from incl_cli.summary import counts
    from incl_cli.text import wrapped
    from incl_cli.waterfall import waterfall

    _head(out, view)
    if view.stages:
        _section(out, "Stages", waterfall(out, view.stages))
    if len(view.attempts) > 1 or any(attempt.message for attempt in view.attempts):
        _section(out, "Attempts", [line for attempt in view.attempts for line in _attempt(out, attempt)])
    own = [metric for metric in view.metrics if is_own(metric.name)]
    _section(out, "Alerts", _alerts(out, view))
    _section(out, "Metrics", _metrics(out, view, own))
    if len(own) < len(view.metrics):
        machine = [metric.name for metric in view.metrics if not is_own(metric.name)]
        for line in wrapped("  sampled on the machine: ", machine, ", ", out.width):
            out.line(out.paint(line, "dim"))
    _section(out, "Config", _pairs(out, view.config))
    if view.spec is not None:
        _section(out, "Environment", _pairs(out, view.spec.env))
    _section(out, "Files", _files(out, view))
    out.line()
    out.line(counts(view))


def _head(out: Output, view: ExperimentView) -> None:
    from incl_cli.look import state_cell
    from incl_cli.text import age, moment

    row = view.row
    cell = state_cell(row.state.value, row.reason.value if row.reason else None)
    out.line(f"{out.paint(row.name, 'bold')}  {out.paint(cell.text, cell.style)}")
    if row.waiting and row.state.value == "queued":
        out.line(f"  {out.paint(f'waits: {row.waiting}', 'yellow')}")
    if view.message and row.state.value not in ("finished", "running"):
        out.line(f"  {out.paint(view.message, 'red' if row.state.value == 'failed' else '')}")
    if view.hint:
        out.line(f"  {out.paint(f'hint: {view.hint}', 'cyan')}")
    pairs = {
        "id": row.id,
        "project": f"{row.project}, by {row.user}",
        "created": f"{moment(row.created)} ({age(row.created)})",
        "command": _command(view),
        "runs on": _needs(view),
        "image": ", ".join(view.attempts[-1].images) if view.attempts else "",
        "git": _git(view),
        "python": view.provenance.python,
        "code": _code(view),
        "again of": view.provenance.rerun_of or "",
        "tags": ", ".join(row.tags),
        "notes": view.spec.notes if view.spec else "",
        "trash": "" if view.trashed is None else f"since {moment(view.trashed)}; incl restore brings it back",
        "archive": ""
        if view.archived is None
        else f"since {moment(view.archived)}; incl restore brings points and lines back",
    }
    for line in _pairs(out, {name: text for name, text in pairs.items() if text}):
        out.line(line)


def _command(view: ExperimentView) -> str:
    import shlex

    if view.spec is None:
        return view.provenance.command_line
    words = view.spec.command
    return words[2] if words[:2] == ["sh", "-c"] and len(words) == 3 else shlex.join(words)


def _needs(view: ExperimentView) -> str:
    from incl_cli.text import number, plural, size

    if view.spec is None:
        return "outside the platform"
    spec, needs = view.spec, view.spec.resources
    parts = [plural(spec.nodes, "node"), f"{number(needs.cpu)} cpu"]
    parts += [size(needs.memory)] if needs.memory else []
    parts += [plural(needs.gpu, "gpu")] if needs.gpu else []
    parts += [spec.instance] if spec.instance else []
    parts += [f"image {spec.image}"] if spec.image else []
    last = view.attempts[-1] if view.attempts else None
    if last is not None and last.machines is not None:
        made = last.machines
        return ", ".join(parts) + f"  on {made.machine}{' spot' if made.spot else ''} in {made.zone}"
    nodes = sorted({place.node for place in last.placements}) if last is not None else []
    return ", ".join(parts) + (f"  on {', '.join(nodes[:4])}" if nodes else "")


def _git(view: ExperimentView) -> str:
    origin = view.provenance
    if not origin.git_commit:
        return ""
    branch = f" on {origin.git_branch}" if origin.git_branch else ""
    changed = " with changes that are not committed" if origin.git_dirty else ""
    return f"{origin.git_commit[:12]}{branch}{changed}"


def _code(view: ExperimentView) -> str:
    from incl_cli.text import plural, size

    return f"{plural(view.code.files, 'file')}, {size(view.code.size)}, {view.code.sha256[:12]}" if view.code else ""


def _attempt(out: Output, attempt: AttemptView) -> list[str]:
    from incl_cli.text import duration

    reason = attempt.reason.value if attempt.reason else attempt.state.value
    took = duration(attempt.ended - attempt.started) if attempt.ended and attempt.started else ""
    style = "" if reason == "completed" else "yellow"
    lines = [f"  #{attempt.attempt} {out.paint(reason, style)}  {took}  {attempt.message}".rstrip()]
    for rank in attempt.ranks:
        if rank.exit_code or rank.signal or (rank.message and rank.message != attempt.message):
            how = f"signal {rank.signal}" if rank.signal else f"exit code {rank.exit_code}"
            if rank.exit_code is None and not rank.signal:
                how = ""  # its machine is gone: nobody saw it end
            what = how if rank.message in ("", how, attempt.message) else f"{how}  {rank.message}".lstrip()
            lines.append(f"     rank {rank.rank} on {rank.node}: {what}")
    return lines


def _metrics(out: Output, view: ExperimentView, own: Sequence[MetricSummary]) -> list[str]:
    from incl_cli.summary import metric_lines
    from incl_shared.ids import short

    lines = metric_lines(out, own[:_METRICS])
    machine = len(view.metrics) - len(own)
    more = max(len(own), view.metric_count - machine) - _METRICS
    if more > 0:
        lines.append(out.paint(f"  … and {more:,} more: incl metrics {short(view.row.id)} --list", "dim"))
    return lines


def _alerts(out: Output, view: ExperimentView) -> list[str]:
    from incl_cli.look import ALERT_STYLES, alert_text
    from incl_cli.text import moment

    many = len({alert.rank for alert in view.alerts}) > 1
    return [
        f"  {out.paint(moment(alert.time), 'dim')}  "
        f"{out.paint(alert_text(alert, ranks=many), ALERT_STYLES[alert.level])}"
        for alert in view.alerts
    ]


def _pairs(out: Output, pairs: dict[str, str]) -> list[str]:
    from incl_cli.text import Cell, Column, table

    rows: list[Row] = [(Cell(name, "dim"), " ".join(text.split("\n"))) for name, text in pairs.items()]
    return table(out, [Column(""), Column("", flexible=True, least=20)], rows, indent="  ") if rows else []


def _files(out: Output, view: ExperimentView) -> list[str]:
    from incl_cli.summary import kept as kept_of
    from incl_cli.text import Cell, Column, size, table

    kept = kept_of(view)
    many = len({(item.attempt, item.rank) for item in kept}) > 1
    rows: list[Row] = [
        (
            item.path,
            Cell(size(item.size), "dim"),
            Cell(item.kind, "dim"),
            Cell(f"attempt {item.attempt}, rank {item.rank}" if many else "", "dim"),
            Cell(f"step {item.step}" if item.step is not None else "", "dim"),
        )
        for item in kept[:_FILES]
    ]
    columns = [Column("", flexible=True, least=20), Column("", right=True), Column(""), Column(""), Column("")]
    lines = table(out, columns, rows, indent="  ") if rows else []
    more = max(len(kept), view.artifacts_total) - _FILES
    hint = f"incl media {view.row.id[-8:]}" if any(item.kind == "media" for item in kept) else ""
    return lines + ([f"  … and {more:,} more{f': {hint}' if hint else ''}"] if more > 0 else [])


def _section(out: Output, title: str, lines: list[str]) -> None:
    if lines:
        out.line()
        out.line(out.paint(title, "bold"))
        for line in lines:
            out.line(line)
