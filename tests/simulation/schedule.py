"""One schedule: from its seed to what is wrong at its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
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
from simulation.faults import strike
from simulation.judge import violations
from simulation.plan import BUSY_S, Plan, draw
from simulation.product import THREADS, exchanged, migrated
from simulation.world import World

SETTLE_S = 400.0
"""So long after the last fault all must have ended."""
_LOOK_S = 2.0
_MEMORY = Path("/dev/shm")


@dataclass
class Result:
    """Of one seed. digest: of all that happened; two runs of a seed have the same."""

    seed: int
    violations: list[str]
    digest: str
    virtual_s: float
    cpu_s: float
    plan: Plan
    attempts: int = 0
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


def simulate(
    seed: int, folder: Path, change: Callable[[World], None] | None = None, plan: Plan | None = None
) -> Result:
    """Run a schedule. change: what a test does to the world before it begins."""
    began = time.process_time()
    template = migrated("incl_provisioner", folder)
    place = folder / str(seed)
    place.mkdir()
    loop, plan = VirtualLoop(seed), plan or draw(seed)
    gc.disable()
    try:
        with patched(seed, THREADS):
            asyncio.set_event_loop(loop)
            world = World(loop, plan, place, template)
            with exchanged(world):
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
    attempts = len({ran.key[:2] for ran in world.ran})
    return Result(seed, wrong, digest, virtual_s, time.process_time() - began, plan, attempts, world.notes)


async def _run(world: World) -> None:
    world.start()
    faults = [asyncio.create_task(strike(world, fault)) for fault in world.plan.faults]
    if faults:
        await asyncio.wait(faults)
        for fault in faults:
            fault.result()
    until = max(world.loop.time(), BUSY_S if world.plan.poison else 0.0) + SETTLE_S
    while not world.settled() and world.loop.time() < until:
        await asyncio.sleep(_LOOK_S)
    world.note("settled" if world.settled() else "NOT SETTLED")


def main() -> int:
    """`python -m simulation.schedule SEED`: what happened, and what is wrong."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        os.execve(sys.executable, [sys.executable, "-m", "simulation.schedule", *sys.argv[1:]], environment)
    logging.basicConfig(level=logging.INFO if "-v" in sys.argv else logging.CRITICAL, format="%(name)s %(message)s")
    with scratch() as folder:
        for seed in [int(word) for word in sys.argv[1:] if word.isdigit()]:
            result = simulate(seed, folder)
            print(result.plan)
            print("\n".join(result.notes))
            print(f"{result.digest} {result.virtual_s:.0f} virtual s in {result.cpu_s * 1000:.0f} ms of CPU")
            for violation in result.violations:
                print(f"VIOLATION {violation}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
