"""The pictures of a sweep as files, drawn by matplotlib (extra `plot`): PNG, SVG, or a page with the SVG in it."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem
from incl_cli.sweep_importance import LEAST, counted, importance
from incl_cli.sweep_pictures import complete, placed, surface, survival
from incl_cli.sweep_scales import Scale, pair_of, ranked, scales
from incl_shared.errors import ConflictError, UnsupportedError
from incl_shared.events.sweeps import TrialState
from incl_shared.sweep import env_text

if TYPE_CHECKING:
    from incl_shared.queries.hpo import SweepView, TrialView

ENDINGS = (".png", ".svg", ".html")
_COLORS = {
    TrialState.RUNNING: "tab:cyan", TrialState.ENDED: "tab:cyan", TrialState.COMPLETE: "tab:green",
    TrialState.FAILED: "tab:red", TrialState.METRIC_MISSING: "tab:red", TrialState.PRUNED: "tab:orange",
    TrialState.STOPPED: "tab:orange",
}  # fmt: skip
_QUARTERS = ("#08519c", "#6baed6", "#bdbdbd", "#dddddd")
_MESH = 60


def need_matplotlib() -> Any:
    """The library that draws.

    Raises:
        UnsupportedError: it is not installed; with the command that does.
    """
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedError(
            "a picture in a file needs the package matplotlib, which is not installed",
            hint="pip install 'incl[plot]', or leave --out away: it is drawn in the terminal",
        ) from None
    return Figure


def checked(name: str) -> Path:
    """The path of a picture.

    Raises:
        UsageProblem: another kind of file.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() not in ENDINGS:
        raise UsageProblem(f"--out ends with one of {', '.join(ENDINGS)}, not {path.suffix or path.name}")
    return path


def write(path: Path, kind: str, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    """Draw it into a file, which is there whole or not at all.

    Raises:
        ConflictError: the file cannot be written, or there is nothing such to draw.
    """
    import matplotlib as mpl

    figure = need_matplotlib()(layout="constrained")
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": view.row.id, "text.parse_math": False}):
        _DRAW[kind](figure, view, trials, names)
        content = _content(figure, path.suffix.lower(), f"{view.row.name}: {kind}")
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConflictError(
            f"cannot write {path}", cause=error.strerror or str(error), hint="name a file that you can write"
        ) from error


def _content(figure: Any, ending: str, title: str) -> bytes:
    written = io.BytesIO()
    if ending == ".png":
        figure.savefig(written, format="png", dpi=144)
        return written.getvalue()
    figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    drawn = written.getvalue()
    if ending == ".svg":
        return drawn
    svg = drawn.decode()
    body = svg[svg.index("<svg") :]
    head = f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title>'
    return f'{head}<body style="margin:2em;font-family:sans-serif">{body}</body>\n'.encode()


def _history(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    objectives = view.spec.objective
    figure.set_size_inches(8, 3.6 * len(objectives))
    for index, (axes, objective) in enumerate(zip(_stack(figure, len(objectives)), objectives, strict=True)):
        better = max if objective.goal == "max" else min
        for state in TrialState:
            known = [t for t in trials if t.state is state and len(t.values) > index]
            if known:
                values = [t.values[index] for t in known]
                axes.scatter([t.trial for t in known], values, s=14, color=_COLORS[state], label=state.value)
        done = sorted(ranked(view, trials, index).trials, key=lambda trial: trial.trial)
        best = [better(t.values[index] for t in done[: place + 1]) for place in range(len(done))]
        axes.step([t.trial for t in done], best, where="post", color="black", label="best so far")
        axes.set(xlabel="trial", ylabel=objective.metric, title=f"{view.row.name}: {objective.metric}")
        axes.legend(fontsize=8)


def _slice(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    found = complete(view, trials)
    known = [scale for name, scale in scales(view).items() if not names or name in names]
    figure.set_size_inches(8, 2.8 * ((len(known) + 1) // 2))
    for place, scale in enumerate(known):
        axes = figure.add_subplot((len(known) + 1) // 2, min(2, len(known)), place + 1)
        pairs = [(t, v) for t, v in zip(found.trials, found.values, strict=True) if scale.name in t.parameters]
        axes.scatter([scale.place(t.parameters[scale.name]) for t, _ in pairs], [v for _, v in pairs], s=14)
        _ticks(axes.xaxis, scale)
        axes.set(xlim=(-0.03, 1.03), ylabel=view.spec.objective[0].metric, xlabel=scale.name)


def _timeline(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    figure.set_size_inches(8, min(20.0, 1.5 + 0.12 * len(trials)))
    axes = figure.add_subplot()
    begin = min((t.asked for t in trials), default=0.0)
    end = max((t.ended or t.asked for t in trials), default=0.0)
    for state in TrialState:
        some = [t for t in trials if t.state is state]
        if some:
            widths = [(t.ended or end) - t.asked for t in some]
            starts = [t.asked - begin for t in some]
            axes.barh([t.trial for t in some], widths, left=starts, color=_COLORS[state], label=state.value)
    axes.set(xlabel="seconds", ylabel="trial", title=f"{view.row.name}: {len(trials)} trials")
    axes.invert_yaxis()
    if trials:
        axes.legend(fontsize=8)


def _importance(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    objectives = view.spec.objective
    figure.set_size_inches(8, len(objectives) * (1.2 + 0.35 * len(view.spec.parameters)))
    for index, (axes, objective) in enumerate(zip(_stack(figure, len(objectives)), objectives, strict=True)):
        found = complete(view, trials, LEAST, index)
        shares = sorted(importance(list(scales(view).values()), found).items(), key=lambda pair: pair[1])
        bars = axes.barh([name for name, _ in shares], [share * 100 for _, share in shares])
        axes.bar_label(bars, fmt="%.0f %%", padding=3, fontsize=8)
        said = f"PED-ANOVA: the best {counted(len(found.trials))} of {len(found.trials)} complete trials"
        axes.set(title=f"{view.row.name}: what matters for {objective.metric}", xlabel=f"share in % ({said})")
        axes.margins(x=0.12)


def _parallel(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    found = complete(view, trials)
    axes_of = [scale for name, scale in scales(view).items() if not names or name in names]
    figure.set_size_inches(max(8.0, 1.3 * len(axes_of)), 4.5)
    axes = figure.add_subplot()
    low, high = min(found.values), max(found.values)
    for place in reversed(range(len(found.trials))):
        point = found.trials[place].parameters
        row = [scale.place(point[scale.name]) if scale.name in point else float("nan") for scale in axes_of]
        row.append((found.values[place] - low) / (high - low) if high > low else 0.5)
        quarter = found.quarter(place)
        axes.plot(row, color=_QUARTERS[quarter], linewidth=1.4 if quarter == 0 else 0.7, marker=".", markersize=3)
    for index, scale in enumerate(axes_of):
        axes.axvline(index, color="black", linewidth=0.8)
        for at, label in _labels(scale):
            axes.annotate(label, (index, at), fontsize=7, xytext=(3, 0), textcoords="offset points", va="center")
    for at, value in ((0.0, low), (1.0, high)):
        axes.annotate(f"{value:.4g}", (len(axes_of), at), fontsize=7, xytext=(3, 0), textcoords="offset points")
    axes.axvline(len(axes_of), color="black", linewidth=0.8)
    axes.set_xticks(range(len(axes_of) + 1), [*(scale.name for scale in axes_of), view.spec.objective[0].metric])
    axes.set_yticks([])
    axes.set_title(f"{view.row.name}: {len(found.trials)} trials, the best quarter dark")


def _contour(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    found = complete(view, trials)
    across, up = pair_of(view, found, names)
    points = placed(found, across, up)
    axes = _square(figure, view, across, up)
    grid = surface([(x, y, loss) for x, y, loss, _ in points], _MESH, _MESH)
    sign = -1.0 if view.spec.objective[0].goal == "max" else 1.0
    rows = [[sign * value for value in row] for row in reversed(grid)]
    places = [(index + 0.5) / _MESH for index in range(_MESH)]
    colors = "viridis" if sign < 0 else "viridis_r"
    flat = max(map(max, rows)) == min(map(min, rows))
    drawn = axes.contourf(places, places, rows, levels=None if flat else 12, cmap=colors)
    figure.colorbar(drawn, ax=axes, label=view.spec.objective[0].metric)
    axes.scatter([x for x, *_ in points], [y for _, y, *_ in points], s=10, color="white", edgecolors="black")
    axes.scatter(points[0][0], points[0][1], s=120, marker="*", color="red", edgecolors="white", label="the best")
    axes.legend(fontsize=8)


def _rank(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    found = complete(view, trials)
    across, up = pair_of(view, found, names)
    points = list(reversed(placed(found, across, up)))
    axes = _square(figure, view, across, up)
    shares = [place / max(1, len(found.trials) - 1) for *_, place in points]
    drawn = axes.scatter(
        [x for x, *_ in points], [y for _, y, *_ in points], c=shares, cmap="viridis_r", vmin=0, vmax=1, s=28
    )
    bar = figure.colorbar(drawn, ax=axes, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["best", "middle", "worst"])
    bar.set_label(f"rank in {view.spec.objective[0].metric}")


def _early(figure: Any, view: SweepView, trials: Sequence[TrialView], names: Sequence[str]) -> None:
    figure.set_size_inches(8, 4)
    axes = figure.add_subplot()
    steps, alive, stopped = survival(view, trials)
    axes.plot(steps, alive, label="trials that came so far")
    if stopped:
        axes.scatter([x for x, _ in stopped], [y for _, y in stopped], s=14, color="tab:orange", label="stopped early")
    said = f"{len(stopped)} of {int(alive[0])} stopped early, {view.row.steps_saved} steps saved"
    axes.set(xlabel="step", ylabel="trials", title=f"{view.row.name}: {said}", ylim=(0, None))
    axes.legend(fontsize=8)


def _stack(figure: Any, count: int) -> list[Any]:
    return [figure.add_subplot(count, 1, index + 1) for index in range(count)]


def _square(figure: Any, view: SweepView, across: Scale, up: Scale) -> Any:
    figure.set_size_inches(7, 5.5)
    axes = figure.add_subplot()
    _ticks(axes.xaxis, across)
    _ticks(axes.yaxis, up)
    axes.set(xlabel=across.name, ylabel=up.name, title=view.row.name, xlim=(0, 1), ylim=(0, 1))
    return axes


def _ticks(axis: Any, scale: Scale) -> None:
    marks = _labels(scale)
    axis.set_ticks([at for at, _ in marks], [label for _, label in marks], fontsize=8)


def _labels(scale: Scale) -> list[tuple[float, str]]:
    if scale.choices:
        count = len(scale.choices)
        return [((index + 0.5) / count, env_text(choice)[:20]) for index, choice in enumerate(scale.choices)]
    return [(at / 4, scale.label(at / 4)) for at in range(5)]


_DRAW: dict[str, Callable[[Any, SweepView, Sequence[TrialView], Sequence[str]], None]] = {
    "history": _history,
    "slice": _slice,
    "timeline": _timeline,
    "importance": _importance,
    "parallel": _parallel,
    "contour": _contour,
    "rank": _rank,
    "early": _early,
}
