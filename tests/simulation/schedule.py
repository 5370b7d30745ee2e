"""One schedule: from its seed to what is wrong at its end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import itertools
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from incl_shared.testing.virtual import Stalled, VirtualLoop, patched
from simulation.cloud_plan import draw_cloud
from simulation.faults import strike
from simulation.judge import violations
from simulation.plan import BUSY_S, Plan, draw
from simulation.product import THREADS, exchanged, migrated
from simulation.world import World

DRAW = {"here": draw, "cloud": draw_cloud}
"""Kind of a schedule -> what draws it: machines that are there, or that are made in a cloud."""
_LOOK_S = 2.0
_MEMORY = Path("/dev/shm")
_COLLECT_EVERY = 16
_RUN = itertools.count(1)


@dataclass
class Result:
    """Of one seed. digest: of all that happened; two runs of a seed have the same. faults: that came to it."""

    seed: int
    violations: list[str]
    digest: str
    virtual_s: float
    cpu_s: float
    plan: Plan
    attempts: int = 0
    faults: int = 0
    notes: list[str] = field(default_factory=list)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder, in memory where there is such a place."""
    place = _MEMORY if _MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="incl-simulation-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _ready(folder: Path) -> bytes:
    """The template of the database. What is there now stays: the collector need not look at it again and again."""
    template = migrated("incl_provisioner", folder)
    gc.collect()
    gc.freeze()
    return template


class _Listener(logging.Handler):
    """Hears what an edge of a loop of the product has caught that nobody expects."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """See the base."""
        if record.exc_info and record.exc_info[1] is not None:
            self._world.logged.append(f"{record.getMessage()}: {record.exc_info[1]!r}")


@contextlib.contextmanager
def _listening(world: World) -> Iterator[None]:
    logger, listener = logging.getLogger("incl"), _Listener(world)
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)


def _swept() -> None:
    """Collecting after each schedule would take longer than most of what it finds is worth."""
    if next(_RUN) % _COLLECT_EVERY == 0:
        gc.collect()
        gc.freeze()  # what is left are the product's caches: to look at them each time took longer than all else


def simulate(
    seed: int, folder: Path, change: Callable[[World], None] | None = None, plan: Plan | None = None,
    kind: str = "here",
) -> Result:  # fmt: skip
    """Run a schedule. change: what a test does to the world before it begins. kind: see `DRAW`."""
    template = _ready(folder)
    began = time.process_time()
    place = folder / str(seed)
    place.mkdir()
    loop, plan = VirtualLoop(seed), plan or DRAW[kind](seed)
    _swept()
    gc.disable()
    try:
        with patched(seed, THREADS):
            asyncio.set_event_loop(loop)
            world = World(loop, plan, place, template)
            with exchanged(world), _listening(world):
                if change is not None:
                    change(world)
                try:
                    loop.run_until_complete(_run(world))
                except Stalled:
                    world.notes.append("stalled")
                wrong = violations(world)
                virtual_s = loop.time()
                world.close()
                loop.close()
    finally:
        asyncio.set_event_loop(None)
        shutil.rmtree(place, ignore_errors=True)
        gc.enable()
    digest = hashlib.sha256("\n".join([*world.notes, *wrong]).encode()).hexdigest()[:16]
    attempts, struck = len({ran.key[:2] for ran in world.ran}), world.struck
    return Result(seed, wrong, digest, virtual_s, time.process_time() - began, plan, attempts, struck, world.notes)


async def _run(world: World) -> None:
    world.start()
    faults = {asyncio.create_task(strike(world, fault)) for fault in world.plan.faults}
    while faults and (world.striking or not world.settled()):
        done, faults = await asyncio.wait(faults, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        for fault in done:
            fault.result()
    for fault in faults:  # all is over: there is nothing left to strike
        fault.cancel()
    until = max(world.loop.time(), BUSY_S if world.plan.poison else 0.0) + world.plan.settle_s
    while not world.settled() and world.loop.time() < until:
        await asyncio.sleep(_LOOK_S)
    world.note("settled" if world.settled() else "NOT SETTLED")
    if world.clouds is not None:
        await world.clouds.probe()


def main() -> int:
    """`python -m simulation.schedule [--cloud] SEED`: what happened, and what is wrong."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "simulation.schedule", *sys.argv[1:]], environment)
    logging.basicConfig(level=logging.INFO if "-v" in sys.argv else logging.CRITICAL, format="%(name)s %(message)s")
    with scratch() as folder:
        for seed in [int(word) for word in sys.argv[1:] if word.isdigit()]:
            result = simulate(seed, folder, kind="cloud" if "--cloud" in sys.argv else "here")
            print(result.plan)
            print("\n".join(result.notes))
            print(f"{result.digest} {result.virtual_s:.0f} virtual s in {result.cpu_s * 1000:.0f} ms of CPU")
            for violation in result.violations:
                print(f"VIOLATION {violation}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
