"""The last words of a followed experiment, and their JSON form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from incl_cli.look import STATE_STYLES, is_own
from incl_cli.output import Output, paint
from incl_cli.text import Cell, Column, duration, number, plural, size, table, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from incl_cli.text import Row
    from incl_shared.queries.tracker import ArtifactView, ExperimentView, MetricSummary

_MOST_METRICS, _MOST_FILES = 12, 6
KEPT = ("output", "checkpoint", "media")


def as_json(view: ExperimentView) -> dict[str, Any]:
    """The stable fields of an experiment that ended: see docs/cli.md."""
    row = view.row
    codes = [rank.exit_code for rank in view.attempts[-1].ranks if rank.exit_code] if view.attempts else []
    return {
        "id": row.id,
        "name": row.name,
        "project": row.project,
        "state": row.state.value,
        "reason": row.reason.value if row.reason else None,
        "exit_code": codes[0] if codes else (0 if row.state.value == "finished" else None),
        "message": view.message,
        "hint": view.hint,
        "attempts": row.attempts,
        "duration_s": took(view),
        "metrics": {metric.name: metric.last for metric in view.metrics},
        "best": {metric.name: metric.best for metric in view.metrics if metric.best is not None},
        "points": view.points,
        "lines": view.lines,
        "gaps": view.gaps,
        "alerts": [alert.model_dump(mode="json") for alert in view.alerts],
        "settled": view.settled,
        "outputs": [
            {"path": item.path, "kind": item.kind, "size": item.size, "sha256": item.sha256}
            for item in view.artifacts
            if item.kind in KEPT
        ],
    }


def kept(view: ExperimentView) -> list[ArtifactView]:
    """The files of a person's interest: outputs, then checkpoints with the newest first, then media as they come."""
    files = [item for item in view.artifacts if item.kind in KEPT]
    return sorted(files, key=_place)


def _place(item: ArtifactView) -> tuple[int, int, int]:
    place = KEPT.index(item.kind)
    if item.kind != "checkpoint":
        return place, 0, 0
    return place, -item.attempt, 1 if item.step is None else -item.step


def took(view: ExperimentView) -> float | None:
    """Seconds from the start of the first process to the end, or none."""
    row = view.row
    return max(0.0, row.ended - row.started) if row.started is not None and row.ended is not None else None


def print_summary(out: Output, view: ExperimentView) -> None:
    """State, metrics, counts, outputs and the next commands; on stderr."""
    from incl_shared.ids import short

    state = view.row.state.value
    ran = took(view)
    head = paint(state, f"bold {STATE_STYLES.get(state, '')}".strip() if out.color_err else "")
    out.err.write(f"\n{head} {view.row.name}" + (f" in {duration(ran)}\n" if ran is not None else "\n"))
    if view.message and state != "finished":
        out.note(f"  {view.message}", "red" if state == "failed" else "")
    if view.hint and state != "finished":
        out.note(f"  hint: {view.hint}", "cyan")
    own = [metric for metric in view.metrics if is_own(metric.name)]
    for line in metric_lines(_Err(out), own[:_MOST_METRICS]):
        out.note(line)
    machine = len(view.metrics) - len(own)
    more = max(len(own), view.metric_count - machine) - _MOST_METRICS
    if more > 0:
        out.note(f"  … and {more:,} more: incl metrics {short(view.row.id)} --list", "dim")
    out.note(counts(view))
    files = kept(view)
    ranks = len({item.rank for item in files}) > 1
    rows: list[Row] = [
        [
            item.path,
            Cell(size(item.size), "dim"),
            Cell(item.kind if item.kind != "output" else "", "dim"),
            Cell(f"rank {item.rank}" if ranks else "", "dim"),
        ]
        for item in files[:_MOST_FILES]
    ]
    columns = [Column("", flexible=True, least=20), Column("", right=True), Column(""), Column("")]
    for line in table(_Err(out), columns, rows, indent="  ") if rows else ():
        out.note(line)
    if len(files) > _MOST_FILES:
        out.note(f"  … and {max(len(files), view.artifacts_total) - _MOST_FILES:,} more", "dim")
    name = short(view.row.id)
    following = [f"incl show {name}"]
    following += [f"incl metrics {name}"] if own else []
    following += [f"incl media {name}"] if any(item.kind == "media" for item in files) else []
    following += [f"incl download {name}"] if files else []
    following += [f"incl logs {name} --tail 50"] if state == "failed" and view.lines else []
    for line in wrapped("next: ", following, " · ", _Err(out).width):
        out.note(line, "dim")


def counts(view: ExperimentView) -> str:
    """'412 points, 0 gaps, 38 lines, 1 alert, 3 outputs (1.2 MB)'."""
    files = [item for item in view.artifacts if item.kind in KEPT]
    stored = "" if view.settled or not view.attempts else " (still storing)"
    kept = f", {plural(len(files), 'output')} ({size(sum(item.size for item in files))})" if files else ""
    if view.artifacts_total > len(view.artifacts):  # the view lists the first ones alone
        kept = f", {plural(view.artifacts_total, 'output')}"
    alerts = f", {plural(len(view.alerts), 'alert')}" if view.alerts else ""
    counted = f"{plural(view.points, 'point')}, {plural(view.gaps, 'gap')}, {plural(view.lines, 'line')}"
    return f"{counted}{alerts}{kept}{stored}"


def metric_lines(out: Output, metrics: Sequence[MetricSummary]) -> list[str]:
    """A table of metrics."""
    rows = [
        [
            Cell(metric.name, "bold"),
            number(metric.last),
            number(metric.best) if metric.best is not None else "",
            str(metric.best_step) if metric.best_step is not None else "",
            metric.goal or "",
            number(metric.minimum),
            number(metric.maximum),
            f"{metric.points:,}",
        ]
        for metric in metrics
    ]
    columns = [
        Column("metric", flexible=True, least=12),
        Column("last", right=True),
        Column("best", right=True),
        Column("at step", right=True),
        Column("goal"),
        Column("min", right=True),
        Column("max", right=True),
        Column("points", right=True),
    ]
    return table(out, columns, rows, indent="  ") if rows else []


class _Err(Output):
    """The same output, seen from stderr: its width and its colours."""

    def __init__(self, out: Output) -> None:
        super().__init__(out.err, out.err, color=out.color_err)
