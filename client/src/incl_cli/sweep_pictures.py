"""Pictures of a sweep's trials in the terminal that show parameters together: what matters, where the good ones lie.

They can be read without colours: what is best is joined by lines, darker, or a star.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from incl_cli.chart import Canvas, Line, draw
from incl_cli.sweep_importance import LEAST, counted, importance
from incl_cli.sweep_scales import Ranked, Scale, pair_of, ranked, scales
from incl_cli.text import fit, number, plural
from incl_shared.errors import ConflictError, NotFoundError
from incl_shared.events.sweeps import TrialState
from incl_shared.ids import short

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_shared.queries.hpo import SweepView, TrialView

WIDE = 100
_AXIS = 12
_SHADES = "░▒▓█"
_STYLES = ("green", "cyan", "blue", "magenta")
_SAMPLE = 400


def width_of(out: Output) -> int:
    """Of a picture."""
    return min(out.width, WIDE)


def complete(view: SweepView, trials: Sequence[TrialView], least: int = 1, objective: int = 0) -> Ranked:
    """The trials with a value.

    Raises:
        NotFoundError: there are too few.
    """
    found = ranked(view, trials, objective)
    if len(found.trials) < least:
        raise NotFoundError(
            f"this picture needs {plural(least, 'complete trial')}, {view.row.name} has {len(found.trials)}",
            hint=f"incl sweep show {short(view.row.id)}",
        )
    return found


def importances(
    out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str]
) -> list[str]:
    """A bar for each parameter and objective."""
    lines: list[str] = []
    for index, objective in enumerate(view.spec.objective):
        found = complete(view, trials, LEAST, index)
        shares = importance(list(scales(view).values()), found)
        best = counted(len(found.trials))
        title = f"{view.row.name}: what matters for {objective.metric}"
        lines += [*([""] if lines else []), out.paint(title, "bold")]
        left = min(24, max(map(len, shares)))
        room = max(10, width_of(out) - left - 10)
        for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
            bar = "█" * max(1, round(share * room))
            lines.append(f" {fit(name, left):<{left}}  {out.paint(bar, 'cyan')} {share * 100:.0f} %")
        missing = [name for name in view.spec.parameters if name not in shares]
        if missing:
            lines.append(f" too few trials have {', '.join(missing)}")
        lines.append(f" PED-ANOVA: the best {best} of {len(found.trials)} complete trials beside all of them")
    return lines


def parallel(out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str]) -> list[str]:
    """An axis for each parameter and the objective: the best quarter as lines, the others as dots."""
    found = complete(view, trials)
    known = scales(view)
    wanted = [known[name] for name in names if name in known] or list(known.values())
    panel = max(1, width_of(out) // _AXIS - 1)
    lines = [out.paint(f"{view.row.name}: the best quarter of {len(found.trials)} trials as lines", "bold")]
    for begin in range(0, len(wanted), panel):
        lines += [*([""] if begin else []), *_panel(out, view, found, wanted[begin : begin + panel], height)]
    return lines


def _panel(out: Output, view: SweepView, found: Ranked, axes: Sequence[Scale], height: int) -> list[str]:
    objective = view.spec.objective[0]
    columns = min(width_of(out), _AXIS * 2 * (len(axes) + 1))
    canvas = Canvas(columns, height)
    ends = [(axis.label(0.0), axis.label(1.0), axis.name) for axis in axes]
    low, high = min(found.values), max(found.values)
    ends.append((number(low), number(high), objective.metric))
    wide = columns * 2 - 1 - _AXIS * 2
    across = [_AXIS + round(index / max(1, len(ends) - 1) * wide) for index in range(len(ends))]
    tall = height * 4 - 1
    for place in reversed(range(len(found.trials))):
        trial = found.trials[place]
        row = [axis.place(trial.parameters[axis.name]) if axis.name in trial.parameters else None for axis in axes]
        row.append((found.values[place] - low) / (high - low) if high > low else 0.5)
        dots = [None if at is None else round((1 - at) * tall) for at in row]
        quarter = found.quarter(place)
        for index, y in enumerate(dots):
            if y is None:
                continue
            canvas.dot(across[index], y, quarter)
            before = dots[index - 1] if index else None
            if quarter == 0 and before is not None:
                canvas.line(across[index - 1], before, across[index], y, 0)
    body = [canvas.row(index, out, _STYLES) for index in range(height)]
    return [
        _under(columns, across, [top for _, top, _ in ends]), *body,
        _under(columns, across, [bottom for bottom, _, _ in ends]),
        out.paint(_under(columns, across, [name for _, _, name in ends]), "bold"),
    ]  # fmt: skip


def _under(columns: int, across: Sequence[int], words: Sequence[str]) -> str:
    """Words, each in the middle of its axis."""
    text = [" "] * columns
    for at, word in zip(across, words, strict=True):
        shown = fit(word, _AXIS - 1)
        begin = max(0, min(columns - len(shown), at // 2 - len(shown) // 2))
        text[begin : begin + len(shown)] = shown
    return "".join(text).rstrip()


def contour(out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str]) -> list[str]:
    """The objective over two parameters, the darker the better; each trial a dot, the best one a star."""
    found = complete(view, trials)
    across, up = pair_of(view, found, names)
    points = placed(found, across, up)
    columns = _columns(out, up)
    grid = surface([(x, y, loss) for x, y, loss, _ in points], columns, height)
    levels = sorted(value for row in grid for value in row)
    cells = [[_SHADES[3 - _quarter(value, levels)] for value in row] for row in grid]
    for x, y, _, place in reversed(points):
        cells[_cell(1 - y, height)][_cell(x, columns)] = "*" if place == points[0][3] else "o"
    title = f"{view.row.name}: {view.spec.objective[0].metric} by {across.name} and {up.name}"
    legend = f"{_SHADES[3]} the best quarter … {_SHADES[0]} the worst   o trial   * the best"
    return _framed(out, title, cells, across, up, legend)


def rank(out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str]) -> list[str]:
    """Each trial over two parameters, the darker the better its rank."""
    found = complete(view, trials)
    across, up = pair_of(view, found, names)
    columns = _columns(out, up)
    cells = [[" "] * columns for _ in range(height)]
    for x, y, _, place in reversed(placed(found, across, up)):
        cells[_cell(1 - y, height)][_cell(x, columns)] = _SHADES[3 - found.quarter(place)] if place else "*"
    title = f"{view.row.name}: trials by their rank in {view.spec.objective[0].metric}"
    legend = f"{_SHADES[3]} the best quarter … {_SHADES[0]} the worst   * the best"
    return _framed(out, title, cells, across, up, legend)


def placed(found: Ranked, across: Scale, up: Scale) -> list[tuple[float, float, float, int]]:
    """(x, y, loss, place by rank) of the trials that have both parameters, the best first.

    Raises:
        ConflictError: none has.
    """
    points = [
        (across.place(trial.parameters[across.name]), up.place(trial.parameters[up.name]), loss, place)
        for place, (trial, loss) in enumerate(zip(found.trials, found.losses, strict=True))
        if across.name in trial.parameters and up.name in trial.parameters
    ]
    if not points:
        raise ConflictError(f"no trial has both {across.name} and {up.name}", hint="name others: --parameters A,B")
    return points


def surface(points: Sequence[tuple[float, float, float]], columns: int, rows: int) -> list[list[float]]:
    """rows x columns values, the first row the highest y: means of the trials, each weighed by 1 / distance^4."""
    step = max(1, math.ceil(len(points) / _SAMPLE))
    some = points[::step]
    grid: list[list[float]] = []
    for row in range(rows):
        y = 1 - (row + 0.5) / rows
        line: list[float] = []
        for column in range(columns):
            x = (column + 0.5) / columns
            weights = [1 / ((x - a) ** 2 + (y - b) ** 2 + 1e-4) ** 2 for a, b, _ in some]
            line.append(sum(w * point[2] for w, point in zip(weights, some, strict=True)) / sum(weights))
        grid.append(line)
    return grid


def early(out: Output, view: SweepView, trials: Sequence[TrialView], height: int, names: Sequence[str]) -> list[str]:
    """How many trials came how far, and where those were that were stopped early."""
    steps, alive, stopped = survival(view, trials)
    series = [Line("trials that came so far", steps, alive)]
    if stopped:
        series.append(Line("stopped early", [x for x, _ in stopped], [y for _, y in stopped], joined=False))
    lines = draw(out, f"{view.row.name}: trials by step", series, width=width_of(out), height=height, axis="step")
    saved, all_steps = view.row.steps_saved, view.row.steps
    share = f", {saved / (saved + all_steps) * 100:.0f} %" if saved else ""
    return [*lines, f" {len(stopped)} of {int(alive[0])} trials stopped early; {saved} steps saved{share}"]


def survival(
    view: SweepView, trials: Sequence[TrialView]
) -> tuple[list[float], list[float], list[tuple[float, float]]]:
    """(steps, how many trials came at least so far, (step, of how many) of each that was stopped early).

    Raises:
        NotFoundError: no trial that is over has logged a step.
    """
    over = sorted((trial for trial in trials if trial.ended is not None and trial.steps > 0), key=lambda t: t.steps)
    if not over:
        raise NotFoundError(
            f"no trial of {view.row.name} that is over has logged steps", hint="incl.log({…}, step=epoch) in the script"
        )
    steps, alive = [0.0], [float(len(over))]
    stopped: list[tuple[float, float]] = []
    for place, trial in enumerate(over):
        left = float(len(over) - place)
        steps += [float(trial.steps), float(trial.steps)]
        alive += [left, left - 1]
        if trial.state is TrialState.PRUNED:
            stopped.append((float(trial.steps), left))
    return steps, alive, stopped


def _quarter(value: float, levels: Sequence[float]) -> int:
    below = sum(1 for quarter in (1, 2, 3) if value > levels[len(levels) * quarter // 4])
    return below if levels[0] < levels[-1] else 0


def _cell(place: float, count: int) -> int:
    return min(count - 1, max(0, int(place * count)))


def _columns(out: Output, up: Scale) -> int:
    return max(10, width_of(out) - _left(up) - 3)


def _left(up: Scale) -> int:
    return min(_AXIS, max(len(label) for label in _labels(up)))


def _labels(scale: Scale) -> list[str]:
    count = len(scale.choices)
    places = [(index + 0.5) / count for index in range(count)] if count else [0.0, 0.5, 1.0]
    return [scale.label(place) for place in places]


def _framed(
    out: Output, title: str, cells: Sequence[Sequence[str]], across: Scale, up: Scale, legend: str
) -> list[str]:
    height, columns, left = len(cells), len(cells[0]), _left(up)
    count = len(up.choices)
    places = [(index + 0.5) / count for index in range(count)] if count else [0.0, 0.5, 1.0]
    marks = {_cell(1 - place, height): up.label(place) for place in places}
    text = [out.paint(title, "bold")]
    for index, row in enumerate(cells):
        mark = fit(marks.get(index, ""), left)
        text.append(f" {mark:>{left}} {'┤' if mark else '│'}{''.join(row)}".rstrip())
    text.append(f" {'':>{left}} └{'─' * columns}")
    labels = _labels(across)
    shown = " | ".join(labels) if across.choices else f"{labels[0]} … {labels[-1]}"
    text.append(f" {'':>{left}}  {fit(f'{across.name}: {shown}', columns)}")
    text.append(f" {'':>{left}}  {fit(f'up: {up.name}', columns)}")
    text.append(f" {'':>{left}}  {fit(legend, columns)}")
    return text
