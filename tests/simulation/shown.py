"""Schedules made by hand: what no known seed shows, as it takes faults at the very moments."""

from __future__ import annotations

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


SHOWN: dict[str, Plan] = {
    # The end of a job is reported while nobody reads; then the bus forgets the report.
    "said once": _here(Fault("kill provisioner", 4.0, 13.0, 0, 0.0), Fault("bus restored", 4.5, 1.0, 0, 0.375)),
    # Whoever holds the scheduler's lease dies while his clock is an hour ahead.
    "lease of the wall clock": _here(
        Fault("server clock", 3.0, 12.0, 0, 0.9), Fault("kill provisioner", 8.0, 1.0, 0, 0.0), at=9.5
    ),
    # The clock is an hour ahead when the machine is let go (at 45 s), and right again before it is gone.
    "times of the wall clock": _cloud(Fault("server clock", 43.0, 8.0, 0, 0.9)),
    # All tries of a call hang and have their effect after 35 s; meanwhile the experiment is stopped.
    "lost insert not looked for": _cloud(Fault("call late", 0.5, 0.0, 2, 1.0), stop_at=10.0),
}
"""Mutation -> a schedule that is wrong with it, and right without."""

MENDED: dict[str, Plan] = {
    "a stop that was timed between a jump of the clock and the pass that saw it was over at once: two attempts lived": (
        _here(
            Fault("database slow", 1.884753, 5.060695, 0, 0.209), Fault("server clock", 4.584208, 17.11297, 0, 0.1),
            machines=(1.0, 1.0), nodes=2, fails=1.0, seed="s16",
        )
    ),
}  # fmt: skip
"""What the product did before -> a schedule that showed it."""
