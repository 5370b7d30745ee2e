"""Following an experiment: live messages over what was asked first, without a gap and without a double.

Subscribe first, then ask, then take from the live messages only what is newer: lines carry the cursor before and after
them; whoever has another one asks for what is between. A question every few seconds is the safety net, so that a lost
live message only delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from incl_shared.errors import InclError, NotFoundError, UnavailableError
from incl_shared.queries.tracker import ExperimentView, GetExperiment, GetLogs, Live, LogLine
from incl_shared.states import FINAL_STATES

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.platform import Platform

Stream = Literal["out", "err", "sys"]
DETACHED = 130
_UNSEEN_S, _ENDING_S, _STEADY_S = 0.2, 0.4, 3.0
_SILENT_S = 5.0
"""After so long without a word of the tracker, ask the provisioner whether the submission arrived."""
_AGAIN_S = 10.0
"""Between two submissions of an experiment that nobody knows: the bus may have lost it before it was taken."""
_SETTLE_S = 60.0
_BACKLOG = 2000
_PAGE = 5000


class Screen(Protocol):
    """What a follower shows its news on."""

    def view(self, view: ExperimentView) -> None:
        """The experiment changed."""

    def lines(self, lines: Sequence[LogLine]) -> None:
        """New lines, in order, each once."""

    def values(self, values: dict[str, Any], points: int) -> None:
        """Metric -> [step, value]; points: how many in all."""

    def note(self, text: str) -> None:
        """Something about the following itself."""

    def tick(self) -> None:
        """Time passed."""

    def close(self) -> None:
        """Nothing more comes."""


@dataclass(frozen=True)
class Wanted:
    """Which lines are wanted. since, until: seconds since the epoch."""

    rank: int | None = None
    attempt: int | None = None
    search: str = ""
    stream: Stream | None = None
    since: float | None = None
    until: float | None = None

    def has(self, line: LogLine) -> bool:
        """Whether a line is one of them."""
        return (
            self.rank in (None, line.rank)
            and self.attempt in (None, line.attempt)
            and self.stream in (None, line.stream)
            and (self.since is None or line.time >= self.since)
            and (self.until is None or line.time < self.until)
            and (not self.search or self.search.casefold() in line.text.casefold())
        )

    def question(self, experiment: str, *, after: int = 0, tail: int | None = None) -> GetLogs:
        """A page of them."""
        return GetLogs(
            experiment=experiment,
            after=after,
            tail=tail,
            rank=self.rank,
            attempt=self.attempt,
            stream=self.stream,
            since=self.since,
            until=self.until,
            search=self.search,
            limit=_PAGE,
        )


class Follower:
    """One experiment, followed until it is over and all it said is stored."""

    def __init__(
        self,
        platform: Platform,
        experiment: str,
        screen: Screen,
        wanted: Wanted | None = None,
        again: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """again: submits it once more, with the same id."""
        self._again = again
        self._next_again = time.monotonic() + _SILENT_S
        self._platform = platform
        self._experiment = experiment
        self._screen = screen
        self._wanted = wanted or Wanted()
        self._heard: asyncio.Queue[bytes] = asyncio.Queue(_BACKLOG)
        self.cursor = 0
        self.current: ExperimentView | None = None
        self._away = False
        self._over_since: float | None = None
        self._told_silence = False

    async def run(self, *, tail: int | None = None) -> ExperimentView:
        """Follow to the end; the last view. tail: begin with so many lines, rather than with all.

        Raises:
            NotFoundError: it is in no way known after a while.
        """
        unwatch = await self._platform.watch(self._experiment, self._receive)
        try:
            await self._begin(tail)
            refreshed = time.monotonic()
            while (view := self._done()) is None:
                pause = self._pause()
                payload = None
                with contextlib.suppress(TimeoutError):
                    payload = await asyncio.wait_for(self._heard.get(), pause)
                if payload is not None:
                    await self._hear(payload)
                if payload is None or time.monotonic() - refreshed > _STEADY_S:
                    await self._refresh()
                    refreshed = time.monotonic()
            await self._guarded(self._catch_up())
            return view
        finally:
            with contextlib.suppress(InclError, ConnectionError):
                await unwatch()

    def _receive(self, payload: bytes) -> None:
        if self._heard.full():
            self._heard.get_nowait()
        self._heard.put_nowait(payload)

    def _pause(self) -> float:
        if self.current is None:
            return _UNSEEN_S
        return _ENDING_S if self.current.row.state in FINAL_STATES else _STEADY_S

    def _done(self) -> ExperimentView | None:
        view = self.current
        if view is None or view.row.state not in FINAL_STATES:
            return None
        if view.settled or not view.attempts:
            return view
        self._over_since = self._over_since or time.monotonic()
        if time.monotonic() - self._over_since > _SETTLE_S:
            self._screen.note("not everything it logged is stored yet; see incl show later")
            return view
        return None

    async def _begin(self, tail: int | None) -> None:
        if tail is not None:
            page = await self._platform.ask(self._question(tail=tail))
            self._show(page.lines)
            self.cursor = page.cursor
        await self._refresh()

    async def _refresh(self) -> None:
        await self._guarded(self._ask_view())
        if self.current is not None:
            await self._guarded(self._catch_up())

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except UnavailableError as error:
            if not self._away:
                self._screen.note(f"{error.message}; waiting for it. The experiment goes on")
            self._away = True
            await asyncio.sleep(0.5)
        else:
            self._back()

    def _back(self) -> None:
        if self._away:
            self._away = False
            self._screen.note("connected again")

    async def _ask_view(self) -> None:
        try:
            self._take(await self._platform.ask(GetExperiment(ref=self._experiment)))
        except NotFoundError:
            if self.current is None and time.monotonic() > self._next_again:
                self._next_again = time.monotonic() + _AGAIN_S
                await self._where_is_it()

    async def _where_is_it(self) -> None:
        from incl_shared.queries.provisioner import GetExecution

        execution = await self._platform.ask(GetExecution(experiment=self._experiment))
        told, self._told_silence = self._told_silence, True
        if execution.known and not told:
            self._screen.note("the provisioner has it; the tracker does not answer for it yet")
        elif not execution.known and not told:
            self._screen.note("submitted and stored in the bus; the provisioner has not taken it yet (incl doctor)")
        if not execution.known and self._again is not None:
            await self._again()

    def _take(self, view: ExperimentView) -> None:
        if self.current is None or view.version > self.current.version or (view.settled and not self.current.settled):
            self.current = view
            self._screen.view(view)

    async def _hear(self, payload: bytes) -> None:
        try:
            live = Live.model_validate_json(payload)
        except ValueError:
            return
        self._back()
        if live.view is not None:
            self._take(live.view)
        if live.values:
            self._screen.values(live.values, live.points)
        if live.kind != "logs" or live.cursor <= self.cursor:
            return
        if live.after == self.cursor:
            self._show(live.lines)
            self.cursor = live.cursor
        else:
            await self._guarded(self._catch_up())

    async def _catch_up(self) -> None:
        while True:
            page = await self._platform.ask(self._question(after=self.cursor))
            if page.cursor < self.cursor:
                return
            self._show(page.lines)
            self.cursor = page.cursor
            if not page.more:
                return

    def _question(self, *, after: int = 0, tail: int | None = None) -> GetLogs:
        return self._wanted.question(self._experiment, after=after, tail=tail)

    def _show(self, lines: Sequence[LogLine]) -> None:
        kept = [line for line in lines if self._wanted.has(line)]
        if kept:
            self._screen.lines(kept)


async def watch(follower: Follower, screen: Screen, *, tail: int | None = None) -> ExperimentView | None:
    """Run a follower until its end, or until Ctrl-C (none)."""
    work = asyncio.ensure_future(follower.run(tail=tail))
    ticking = asyncio.ensure_future(_tick(screen))
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
        loop.add_signal_handler(signal.SIGINT, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return None
    finally:
        ticking.cancel()
        with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)
        screen.close()


async def _tick(screen: Screen) -> None:
    while True:
        await asyncio.sleep(0.1)
        screen.tick()


async def follow_to_end(
    platform: Platform,
    experiment: str,
    out: Output,
    *,
    events: bool = False,
    again: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """What `incl run` shows after submitting; the exit code. again: see `Follower`."""
    from incl_cli.look import outcome
    from incl_cli.screens import EventScreen, QuietScreen, make_screen
    from incl_cli.summary import as_json, print_summary
    from incl_shared.ids import short

    screen = EventScreen(out) if events else QuietScreen(out) if out.as_json else make_screen(out)
    view = await watch(Follower(platform, experiment, screen, again=again), screen)
    if view is None:
        out.note(f"\ndetached; the experiment goes on. Come back: incl logs -f {short(experiment)}")
        out.note(f"stop it: incl stop {short(experiment)}", "dim")
        return DETACHED
    if out.as_json:
        out.json({"event": "end", **as_json(view)} if events else as_json(view))
    else:
        print_summary(out, view)
    return outcome(view.row.state.value)
