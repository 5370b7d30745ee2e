"""Screens for following: plain lines, a terminal with a live footer, JSON lines, and silence.

The experiment's own lines go to stdout, everything said about it to stderr.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from incl_cli.look import ALERT_STYLES, STAGE_STYLES, alert_text, is_own, telling
from incl_cli.output import Output, paint
from incl_cli.text import duration, harmless, number

if TYPE_CHECKING:
    from rich.live import Live as RichLive
    from rich.text import Text

    from incl_cli.follow import Screen
    from incl_shared.queries.tracker import AlertView, ExperimentView, LogLine, Stage

_RANK_STYLES = ("cyan", "magenta", "yellow", "blue", "green", "red")
_EVERY_S = 10.0
_SHOWN_METRICS = 4
_ENDED = {"finished": "✓", "failed": "✗", "stopped": "■"}


def make_screen(out: Output) -> Screen:
    """The best screen that the output allows."""
    return LiveScreen(out) if out.interactive else PlainScreen(out)


class PlainScreen:
    """Lines as they come, for pipes, files and CI."""

    _begins: tuple[str, ...] = ("running", "machine")
    """Stages whose beginning is told."""

    def __init__(self, out: Output, *, timestamps: bool = False) -> None:
        self.out = out
        self._timestamps = timestamps
        self._told: set[tuple[int, str, str]] = set()
        self._alerts: Counter[AlertView] = Counter()
        self._nodes = 1
        self._names: tuple[str, ...] = ()
        self._values: dict[str, Any] = {}
        self._last_values = time.monotonic()
        self._current: ExperimentView | None = None

    def prepare(self, view: ExperimentView) -> None:
        """Know the experiment as it is now, and tell only what changes from here on."""
        self._nodes = view.row.nodes
        self._told |= {(stage.attempt, stage.name, "end") for stage in view.stages if stage.end is not None}
        self._new_alerts(view)

    def view(self, view: ExperimentView) -> None:
        """Tell of stages that began or ended, and of why it waits."""
        self._current = view
        self._nodes = view.row.nodes
        if view.spec is not None:
            self._names = tuple(view.spec.metrics)
        for summary in view.metrics:
            self._values.setdefault(summary.name, [summary.last_step, summary.last])
        many = len(view.attempts) > 1
        for stage in view.stages:
            self._stage(stage, many=many)
        waiting = view.row.waiting if view.row.state.value == "queued" else ""
        if waiting:
            self._once((view.row.attempts, "waiting", waiting), f"waiting: {waiting}", "yellow")
        self.alerts(view)

    def alerts(self, view: ExperimentView) -> None:
        """Tell of alerts, each once."""
        for alert in self._new_alerts(view):
            self.note(f"! {alert_text(alert, ranks=self._nodes > 1)}", ALERT_STYLES[alert.level])

    def _new_alerts(self, view: ExperimentView) -> list[AlertView]:
        """Those not told yet. Equal ones are as many as a view has of them, as nothing else tells them apart."""
        there = Counter(view.alerts)
        new = list((there - self._alerts).elements())
        self._alerts |= there
        return sorted(new, key=lambda alert: alert.time)

    def _stage(self, stage: Stage, *, many: bool) -> None:
        where = f" (attempt {stage.attempt})" if many and stage.attempt else ""
        note = f"  {stage.note}" if stage.note else ""
        if stage.end is not None:
            took = duration(stage.end - stage.start)
            self._once((stage.attempt, stage.name, "end"), f"✓ {stage.name:<10} {took:>7}{where}{note}", "dim")
        elif stage.name in self._begins:
            self._once((stage.attempt, stage.name, "start"), f"· {stage.name}{where}{note}", STAGE_STYLES[stage.name])

    def _once(self, key: tuple[int, str, str], text: str, style: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self.note(text, style)

    def lines(self, lines: Sequence[LogLine]) -> None:
        """The experiment's lines."""
        for line in lines:
            self.write(self.format(line))
        self.out.out.flush()

    def format(self, line: LogLine) -> str:
        """A line with its rank where there are several; harmless on a terminal, as it is elsewhere."""
        terminal = self.out.out.isatty()
        text = harmless(line.text, colors=self.out.color) if terminal else line.text
        if line.stream == "sys":
            text = self.out.paint(f"[incl] {text}", "dim")
        if self._nodes > 1:
            text = f"{self.out.paint(f'[{line.rank}]', _RANK_STYLES[line.rank % len(_RANK_STYLES)])} {text}"
        if self._timestamps:
            clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(line.time))
            text = f"{self.out.paint(f'{clock}.{int(line.time % 1 * 1000):03d}', 'dim')} {text}"
        return text

    def write(self, text: str) -> None:
        """One line of data."""
        self.out.out.write(text + "\n")

    def values(self, values: dict[str, Any], points: int) -> None:
        """Newest values; told now and then."""
        self._values.update(values)
        if time.monotonic() - self._last_values > _EVERY_S:
            self._last_values = time.monotonic()
            self.note(self.metrics_text(), "dim")

    def metrics_text(self) -> str:
        """'step 120  loss 0.31  val_acc 0.94': declared metrics, or else the first few, a loss before others."""
        names = [name for name in self._names if name in self._values]
        if not names:
            names = heapq.nsmallest(_SHOWN_METRICS, filter(is_own, self._values), key=telling)
        if not names:
            return ""
        step = max(int(self._values[name][0]) for name in names)
        shown = "  ".join(f"{name} {number(_as_float(self._values[name][1]))}" for name in names[:_SHOWN_METRICS])
        return f"step {step}  {shown}"

    def note(self, text: str, style: str = "") -> None:
        """A line on stderr."""
        self.out.note(text, style)

    def tick(self) -> None:
        """Nothing to redraw."""

    def close(self) -> None:
        """Nothing to put away."""
        self.out.out.flush()


def _as_float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float | str) else None


class LiveScreen(PlainScreen):
    """A terminal: lines scroll, and below them stand the stage, its time and the newest metrics."""

    _begins = ()

    def __init__(self, out: Output, *, timestamps: bool = False) -> None:
        super().__init__(out, timestamps=timestamps)
        self._live: RichLive | None = None
        self._began = time.time()

    def _open(self) -> RichLive:
        from rich.console import Console
        from rich.live import Live

        if self._live is None:
            console = Console(
                file=self.out.out, no_color=not self.out.color, highlight=False, markup=False, emoji=False
            )
            self._live = Live(
                console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        return self._live

    def write(self, text: str) -> None:
        """A line above the footer."""
        self._open().console.out(text, highlight=False)

    def lines(self, lines: Sequence[LogLine]) -> None:
        """All at once: the footer is redrawn once."""
        self.write("\n".join(self.format(line) for line in lines))

    def note(self, text: str, style: str = "") -> None:
        """A line above the footer."""
        self.write(paint(text, style if self.out.color else ""))

    def values(self, values: dict[str, Any], points: int) -> None:
        """They stand in the footer."""
        self._values.update(values)

    def tick(self) -> None:
        """Redraw the footer."""
        live = self._open()
        live.update(self.footer(time.time()), refresh=True)

    def footer(self, now: float) -> Text:
        """Stage and elapsed time, metrics, and how to leave."""
        from rich.text import Text

        name, since = self._doing()
        spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(now * 10) % 10]
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{spinner} ", "bold")
        text.append(name, f"bold {STAGE_STYLES.get(name, 'cyan')}")
        text.append(f" {duration(now - since)}")
        if self._current is not None and self._current.row.state.value == "queued" and self._current.row.waiting:
            text.append(f"  {self._current.row.waiting}", "yellow")
        metrics = self.metrics_text()
        if metrics:
            text.append(f"  │  {metrics}")
        text.append("  │  Ctrl-C detaches", "dim")
        return text

    def _doing(self) -> tuple[str, float]:
        view = self._current
        if view is None:
            return "submitted", self._began
        if view.row.state.value in _ENDED:
            return "settling", view.row.ended or self._began
        going = [stage for stage in view.stages if stage.end is None]
        if going:
            return going[-1].name, going[-1].start
        return view.row.state.value, max((stage.end or 0.0 for stage in view.stages), default=self._began)

    def close(self) -> None:
        """Take the footer away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        super().close()


class LogScreen(PlainScreen):
    """For `incl logs`: the lines and nothing else, as text or as one JSON object each."""

    def __init__(self, out: Output, *, timestamps: bool = False, as_json: bool = False) -> None:
        super().__init__(out, timestamps=timestamps)
        self._as_json = as_json
        self._begun: tuple[int, int, str] | None = None

    def view(self, view: ExperimentView) -> None:
        """Only its alerts are told."""
        self._nodes = view.row.nodes
        self.alerts(view)

    def lines(self, lines: Sequence[LogLine]) -> None:
        """The lines; a very long one, which comes in parts, is one line again."""
        for line in lines:
            if self._as_json:
                self.out.json_line(line)
            else:
                self._piece(line)
        self.out.out.flush()

    def _piece(self, line: LogLine) -> None:
        source = (line.attempt, line.rank, line.stream)
        if self._begun is not None and self._begun != source:
            self.write("")
        text = line.text if self._begun == source and not self.out.out.isatty() else self.format(line)
        self._begun = source if line.part and not self.out.out.isatty() else None
        self.out.out.write(text if self._begun else f"{text}\n")

    def values(self, values: dict[str, Any], points: int) -> None:
        """Not shown."""


class QuietScreen(PlainScreen):
    """For --json: only notes, on stderr."""

    def view(self, view: ExperimentView) -> None:
        """Not shown."""

    def lines(self, lines: Sequence[LogLine]) -> None:
        """Not shown."""

    def values(self, values: dict[str, Any], points: int) -> None:
        """Not shown."""


class EventScreen(QuietScreen):
    """For --json --follow: one JSON object a line for each thing that happens."""

    def view(self, view: ExperimentView) -> None:
        """{"event": "state", …}."""
        row = view.row
        self.out.json_line(
            {
                "event": "state",
                "id": row.id,
                "state": row.state.value,
                "waiting": row.waiting,
                "attempts": row.attempts,
                "stages": [stage.model_dump(mode="json") for stage in view.stages],
            }
        )
        for alert in self._new_alerts(view):
            self.out.json_line({"event": "alert", **alert.model_dump(mode="json")})

    def lines(self, lines: Sequence[LogLine]) -> None:
        """{"event": "log", …} for each line."""
        for line in lines:
            self.out.json_line({"event": "log", **line.model_dump(mode="json")})

    def values(self, values: dict[str, Any], points: int) -> None:
        """{"event": "metrics", "values": {name: [step, value]}}."""
        self.out.json_line({"event": "metrics", "values": values, "points": points})
