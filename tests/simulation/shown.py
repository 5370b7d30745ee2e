"""Schedules made by hand: what no known seed shows, as it takes faults at the very moments."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from incl_shared.ids import derived_id
from simulation.cloud_plan import INSTANCE, SETTLE_S
from simulation.plan import Asked, Cloudy, Fault, Plan


def _asked(
    *, at: float = 1.0, stop_at: float | None = None, fails: float = 0.0, seed: str = "shown", **more: Any
) -> Asked:
    """One that runs for six or seven seconds, and is tried three times."""
    spec = {
        "command": ["python", "train.py"], "project": "default", "nodes": 1, "checkpoint": {"grace": 4.0},
        "retry": {"attempts": 3, "on": ["preempted", "lost", "infra", "error"]}, **more,
    }  # fmt: skip
    return Asked(seed, derived_id("shown", 0), at=at, stop_at=stop_at, spec=spec, fails=fails, seconds=(6.0, 6.0))


def _here(*faults: Fault, machines: tuple[float, ...] = (2.0,), **asked: Any) -> Plan:
    one = _asked(resources={"cpu": 1.0}, **asked)
    return Plan(seed=1, machines=machines, provisioners=1, experiments=(one,), faults=faults)


def _cloud(*faults: Fault, **asked: Any) -> Plan:
    one, cloud = _asked(instance=INSTANCE, spot=False, **asked), Cloudy("operation")
    return Plan(
        seed=1, machines=(), provisioners=1, experiments=(one,), faults=faults, cloud=cloud, settle_s=SETTLE_S
    )  # fmt: skip


def _late_hellos() -> Iterator[Plan]:
    """The hello waits for a durable that is made anew over a slow wire; meanwhile the experiment is stopped."""
    numbers = random.Random("late hello")
    for _ in range(200):  # one in thirty shows it
        slow = Fault("slow", numbers.uniform(9.0, 16.0), 40.0, 0, numbers.uniform(0.7, 1.0))
        deleted = Fault("durable deleted", numbers.uniform(18.0, 30.0), 0.0, 1, 0.0)
        yield _cloud(slow, deleted, stop_at=numbers.uniform(22.0, 30.0))


SHOWN: dict[str, Iterable[Plan]] = {
    # The end of a job is reported while nobody reads; then the bus forgets the report.
    "said once": (_here(Fault("kill provisioner", 4.0, 13.0, 0, 0.0), Fault("bus restored", 4.5, 1.0, 0, 0.375)),),
    # Whoever holds the scheduler's lease dies while his clock is an hour ahead.
    "lease of the wall clock": (
        _here(Fault("server clock", 3.0, 12.0, 0, 0.9), Fault("kill provisioner", 8.0, 1.0, 0, 0.0), at=9.5),
    ),
    # The clock is an hour ahead when the machine is let go, and right again before it is gone.
    "times of the wall clock": [_cloud(Fault("server clock", at, 6.0, 0, 0.9)) for at in map(float, range(16, 56, 2))],
    "a late hello": _late_hellos(),
    # All tries of a call hang and have their effect after 35 s; meanwhile the experiment is stopped.
    "lost insert not looked for": (_cloud(Fault("call late", 0.5, 0.0, 2, 1.0), stop_at=10.0),),
}
"""Mutation -> schedules that are right without it, and one of them is wrong with it: a moment that depends on how fast
everything is comes at several times."""
MENDED: dict[str, Plan] = {
    "a stop that was timed between a jump of the clock and the pass that saw it was over at once: two attempts lived": (
        _here(
            Fault("database slow", 1.884753, 5.060695, 0, 0.209), Fault("server clock", 4.584208, 17.11297, 0, 0.1),
            machines=(1.0, 1.0), nodes=2, fails=1.0, seed="s16",
        )
    ),
}  # fmt: skip
"""What the product did before -> a schedule that showed it."""
