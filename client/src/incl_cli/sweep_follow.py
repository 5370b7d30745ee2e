"""Following a sweep: what is asked every second, on a terminal drawn over and over, else told line by line."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from incl_shared.errors import NotFoundError, UnavailableError
from incl_shared.events.sweeps import SweepState
from incl_shared.ids import short
from incl_shared.queries.hpo import GetSweep, ListTrials, SweepView, TrialView

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.platform import Platform

OVER = frozenset({SweepState.FINISHED, SweepState.FAILED, SweepState.STOPPED})
DETACHED = 130
_EVERY_S = 0.5
_UNSEEN_S = 30.0
_PAGE = 500


async def follow(platform: Platform, identifier: str, out: Output, *, after: int = -1) -> int:
    """Follow to its end; the exit code. after: the version of a view that is known, and is not its end."""
    from incl_cli.sweep_views import print_view

    work = asyncio.ensure_future(_until_over(platform, identifier, out, after))
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGINT, work.cancel)
    try:
        view = await work
    except asyncio.CancelledError:
        out.note(f"\ndetached; the sweep goes on. Come back: incl sweep show -f {short(identifier)}")
        out.note(f"stop it: incl sweep stop {short(identifier)}", "dim")
        return DETACHED
    finally:
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)
    if out.as_json:
        out.json(view)
    else:
        print_view(out, view, running=False)
    return 0 if view.row.state is SweepState.FINISHED else 3


async def _until_over(platform: Platform, identifier: str, out: Output, after: int) -> SweepView:
    screen = _screen(out)
    with screen:
        async for view in views(platform, identifier, out, after):
            await screen.show(platform, view)
            if view.row.state in OVER:
                return view
    raise AssertionError("a sweep has an end")


async def views(platform: Platform, identifier: str, out: Output, after: int = -1) -> AsyncIterator[SweepView]:
    """A view whenever it has changed. A service that is away is waited for.

    Raises:
        NotFoundError: nobody knows the sweep, after a while.
    """
    seen, unseen, away = after, 0.0, False
    while True:
        try:
            view = await platform.ask(GetSweep(ref=identifier))
        except NotFoundError:
            unseen += _EVERY_S
            if unseen > _UNSEEN_S:
                raise
        except UnavailableError as error:
            if not away:
                out.note(f"{error.message}; waiting for it. The sweep goes on", "yellow")
            away = True
        else:
            if away:
                out.note("connected again", "dim")
                away = False
            if view.version != seen:
                seen = view.version
                yield view
        await asyncio.sleep(_EVERY_S)


def _screen(out: Output) -> Any:
    return _Redrawn(out) if out.interactive else _Lines(out)


class _Lines:
    """A line for each trial that ended."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._told: set[int] = set()
        self._best: int | None = None
        self._from = 0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def show(self, platform: Platform, view: SweepView) -> None:
        """Tell of what is new."""
        if self._out.as_json:
            return
        for trial in await self._ended(platform, view):
            best = view.row.best is not None and view.row.best.trial == trial.trial != self._best
            self._best = trial.trial if best else self._best
            self._out.note(_line(view, trial, best=best), "green" if best else "")

    async def _ended(self, platform: Platform, view: SweepView) -> list[TrialView]:
        """Those that ended since, in the order of their ends."""
        ended: list[TrialView] = []
        if sum(view.row.counts.values()) - len(view.running) - len(self._told) <= len(view.recent):
            ended = [trial for trial in view.recent if trial.trial not in self._told]
        else:
            cursor: int | None = 0
            while cursor is not None:
                page = await platform.ask(ListTrials(sweep=view.row.id, cursor=cursor, limit=_PAGE))
                ended += [one for one in page.trials if one.ended is not None and one.trial not in self._told]
                cursor = page.cursor
        self._told |= {trial.trial for trial in ended}
        return sorted(ended, key=lambda trial: (trial.ended or 0.0, trial.trial))


def _line(view: SweepView, trial: TrialView, *, best: bool) -> str:
    from incl_cli.sweep_views import parameters_text, values_text

    value = values_text(view, trial) or trial.message
    mark = "  best so far" if best else ""
    return f"trial {trial.trial:<4} {trial.state.value:<9} {value}  {parameters_text(trial)}{mark}"


class _Redrawn:
    """One picture that is drawn over."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._live: Any = None

    def __enter__(self) -> _Redrawn:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._out.err, no_color=not self._out.color_err, highlight=False)
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._live.__exit__(*problem)

    async def show(self, platform: Platform, view: SweepView) -> None:
        """Draw it."""
        from rich.text import Text

        from incl_cli.sweep_views import view_lines

        room = max(5, self._live.console.size.height - 2)
        self._live.update(Text.from_ansi("\n".join(view_lines(self._out, view)[:room])), refresh=True)
