"""Virtual time: an event loop whose clock jumps to the next timer, and hosts that can be stopped between any two steps.

Nothing here waits, opens a socket or starts a thread, so that thousands of seconds pass in some thousandths of one, and
the same seed gives the same run. Code under it needs no change: `patched()` lends it the clocks, the random numbers
and the threads of the loop.

A host is what dies at once: a process, or a machine. Each task and callback belongs to the host in whose context it
was made. A host that is killed runs no further step: no `finally`, no cancellation, as with SIGKILL. One that is paused
runs what came meanwhile once it goes on, as with SIGSTOP.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import importlib
import itertools
import os
import random
import time
import traceback
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar, cast
from unittest import mock

T = TypeVar("T")
EPOCH = 1_800_000_000.0
"""The wall clock's time at the beginning, in seconds."""
BOOT = 10_000.0
"""The monotonic clock's time at the beginning, in seconds."""

_copied, _push = contextvars.copy_context, heapq.heappush

HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("incl_virtual_host", default=None)


class Stalled(Exception):  # noqa: N818
    """Nothing is left to do, and no time will bring anything: a deadlock."""


class Host:
    """What runs, pauses and dies together. wall: seconds that its wall clock is wrong by.

    disk_s: gives the seconds that the next piece of work in a thread takes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.wall = 0.0
        self.dead = False
        self.paused = False
        self.steps = 0
        self.fuse: int | None = None
        """The number of the step before which it dies."""
        self.on_fuse: Callable[[], None] = lambda: None
        self.disk_s: Callable[[], float] = float
        self.tasks: list[asyncio.Task[Any]] = []
        self.context = contextvars.copy_context()
        self.context.run(HOST.set, self)
        self._held: list[_Handle] = []

    def run(self, work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> asyncio.Task[T]:
        """Have the host do something."""
        return loop.create_task(work, context=self.context)

    def kill(self) -> None:
        """No further step."""
        self.dead = True
        self._held.clear()

    def pause(self) -> None:
        """No further step for now."""
        self.paused = True

    def hold(self, handle: _Handle) -> None:
        """A step that comes while it is paused."""
        self._held.append(handle)

    def resume(self, ready: deque[_Handle]) -> None:
        """Go on, with what came meanwhile."""
        self.paused = False
        held, self._held = self._held, []
        ready.extend(held)


class _Future(asyncio.Future[Any]):
    """Sets of futures are iterated in the order in which they were first put into one, and not of their addresses."""

    _number = 0

    def __hash__(self) -> int:
        if not self._number:
            self._number = cast("VirtualLoop", self.get_loop()).number()
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Task(asyncio.Task[Any]):
    _number = 0
    __hash__ = _Future.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class _Handle:
    """A callback to come; of asyncio's Handle and TimerHandle what is used."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context, when: float = 0.0
    ) -> None:
        self._callback, self._args, self._context, self._when = callback, args, context, when
        self._cancelled = False

    def cancel(self) -> None:
        """Do not call it."""
        self._cancelled = True
        self._callback, self._args = _nothing, ()

    def cancelled(self) -> bool:
        """Whether it is not called any more."""
        return self._cancelled

    def when(self) -> float:
        """Of one with a time: when."""
        return self._when

    def step(self, loop: VirtualLoop) -> None:
        """Call it, if its host lets it. It is not cancelled."""
        host = self._context.get(HOST)
        if host is not None:
            if host.dead:
                return
            if host.paused:
                host.hold(self)
                return
            host.steps += 1
            if host.fuse is not None and host.steps >= host.fuse:
                host.fuse = None
                host.on_fuse()
                if not self._cancelled:
                    self.step(loop)
                return
        try:
            self._context.run(self._callback, *self._args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as asyncio does it: it is the handler's
            about = {"message": f"Exception in callback {self._callback!r}", "exception": error}
            loop.call_exception_handler(about)


def _nothing() -> None:
    return


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop without a selector. `seed`: of what the code under it takes for random."""

    running: VirtualLoop | None = None
    """The one whose step this is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._now = 0.0
        self._next: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers, self._timed = itertools.count(1), itertools.count()
        self.seed = seed
        self.errors: list[str] = []
        """What reached the loop's exception handler: tasks that broke and nobody looked at."""
        self._all: list[asyncio.Task[Any]] = []
        self.set_exception_handler(_note)
        self._clock_resolution = 1e-9

    def number(self) -> int:
        """The next number of a future."""
        return next(self._numbers)

    def time(self) -> float:
        """Seconds since the beginning."""
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        """See the base."""
        return _Future(loop=self)

    def create_task(self, coro: Any, *, name: object = None, context: Any = None) -> asyncio.Task[Any]:
        """See the base. It is kept, so that one of a dead host is not closed before the end."""
        task = _Task(coro, loop=self, name=None if name is None else str(name), context=context)
        self._all.append(task)
        if len(self._all) > 4096:
            self._all = [each for each in self._all if not each.done()]
        return task

    def go_on(self, host: Host) -> None:
        """A paused host goes on."""
        host.resume(self._next)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """In a thread, as it looks from outside: some time later, in one piece."""
        future, host = self.create_future(), HOST.get()
        delay = host.disk_s() if host is not None else 0.0

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - as an executor does it: whoever waits gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(delay, work) if delay else self.call_soon(work)
        return future

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        """See the base."""
        handle = _Handle(callback, args, context if context is not None else _copied())
        self._next.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        """See the base."""
        handle = _Handle(callback, args, context if context is not None else _copied(), when)
        _push(self._timers, (when, next(self._timed), handle))
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:  # type: ignore[override]
        """See the base."""
        when = self._now + delay
        handle = _Handle(callback, args, context if context is not None else _copied(), when)
        _push(self._timers, (when, next(self._timed), handle))
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        """There are no other threads."""
        return self.call_soon(callback, *args, context=context)

    def close(self) -> None:
        """End what is left, quietly: coroutines of dead hosts among it."""
        for task in self._all:
            if not task.done():
                cast("Any", task)._log_destroy_pending = False  # noqa: SLF001
                with contextlib.suppress(BaseException):
                    cast("Any", task.get_coro()).close()
        self._all.clear()
        self._next.clear()
        self._timers.clear()
        super().close()

    # --- what the base leaves to its kinds

    def _process_events(self, event_list: Any) -> None:
        return

    def _write_to_self(self) -> None:
        return

    def _run_once(self) -> None:
        """Go on until somebody stops the loop."""
        VirtualLoop.running = self
        try:
            self._go()
        finally:
            VirtualLoop.running = None

    def _go(self) -> None:
        ready, timers, pop = self._next, self._timers, heapq.heappop
        next_one = ready.popleft
        while not self._stopping:  # type: ignore[attr-defined]
            while timers and timers[0][2]._cancelled:  # noqa: SLF001
                pop(timers)
            if not ready:
                if not timers:
                    raise Stalled
                self._now = max(self._now, timers[0][0])
            while timers and timers[0][0] <= self._now:
                ready.append(pop(timers)[2])
            for _ in range(len(ready)):
                handle = next_one()
                if not handle._cancelled:  # noqa: SLF001
                    handle.step(self)


def _note(loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
    error = about.get("exception")
    text = "".join(traceback.format_exception(error)) if error is not None else ""
    cast("VirtualLoop", loop).errors.append(f"{about.get('message')}\n{text}")


class InlineExecutor:
    """Stands in for a ThreadPoolExecutor: work is done in its order, each piece as one step of its host."""

    def __init__(self, max_workers: int = 1, thread_name_prefix: str = "") -> None:
        self._until = 0.0

    def submit(self, func: Callable[..., object], /, *args: Any) -> None:
        """Do it soon. It tells what came of it by itself."""
        loop, host = asyncio.get_running_loop(), HOST.get()
        now = loop.time()
        self._until = max(self._until, now) + (host.disk_s() if host is not None else 0.0)
        loop.call_at(self._until, func, *args)

    def shutdown(self, wait: bool = True) -> None:
        """There is nothing to end."""


def wall() -> float:
    """The wall clock of the host whose step this is."""
    loop, host = VirtualLoop.running, HOST.get()
    return EPOCH + (loop._now if loop is not None else 0.0) + (host.wall if host is not None else 0.0)  # noqa: SLF001


def monotonic() -> float:
    """The monotonic clock: one for all hosts, as only differences mean something."""
    loop = VirtualLoop.running
    return BOOT + (loop._now if loop is not None else 0.0)  # noqa: SLF001


@contextlib.contextmanager
def patched(seed: int, threads: Iterable[str] = ("incl_shared.db",)) -> Iterator[None]:
    """Clocks and random numbers of everything are the virtual loop's, and the thread pools of the modules named."""
    numbers, state = random.Random(seed), random.getstate()  # noqa: S311
    real_gettime, real_running = time.clock_gettime, asyncio.events._get_running_loop  # noqa: SLF001

    def running_loop() -> asyncio.AbstractEventLoop:
        """The real one asks the kernel for the number of the process each time."""
        loop = VirtualLoop.running or real_running()
        if loop is None:
            raise RuntimeError("no running event loop")
        return loop

    def gettime(clock: int) -> float:
        return real_gettime(clock) if VirtualLoop.running is None else monotonic()

    with contextlib.ExitStack() as stack:
        for target, name, stand_in in (
            (time, "time", wall),
            (time, "monotonic", monotonic),
            (time, "clock_gettime", gettime),
            (os, "urandom", numbers.randbytes),
            (asyncio.events, "get_running_loop", running_loop),
            (asyncio.events, "_get_running_loop", lambda: VirtualLoop.running or real_running()),
        ):
            stack.enter_context(mock.patch.object(target, name, stand_in))
        for name in threads:
            stack.enter_context(mock.patch.object(importlib.import_module(name), "ThreadPoolExecutor", InlineExecutor))
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


def run(
    main: Coroutine[Any, Any, T], *, seed: int = 0, most_s: float = 1e6, threads: Iterable[str] = ("incl_shared.db",)
) -> T:
    """Run a coroutine in virtual time to its end.

    Raises:
        Stalled: it waits for what will never come.
        TimeoutError: it takes more than most_s virtual seconds.
    """
    loop = VirtualLoop(seed)
    try:
        with patched(seed, threads):
            asyncio.set_event_loop(loop)
            return loop.run_until_complete(asyncio.wait_for(main, most_s))
    finally:
        asyncio.set_event_loop(None)
        loop.close()
