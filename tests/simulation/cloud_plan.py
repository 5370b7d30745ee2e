"""What one seed means in a world whose machines are made in a cloud."""

from __future__ import annotations

import random
from typing import Any

from incl_shared.ids import derived_id
from simulation.plan import KINDS, Asked, Cloudy, Fault, Plan

BUSY_S = 150.0
"""Faults begin within so many seconds: by then machines were made, have run, and were deleted."""
SETTLE_S = 1500.0
INSTANCE = "n2-standard-4"
SNAPSHOT = "scans"
_WITH_DATA = 0.3

CLOUD_KINDS: dict[str, tuple[float, float, float]] = {
    "stockout": (3.0, 5.0, 90.0),
    "quota": (1.5, 5.0, 90.0),
    "call fails": (4.0, 0.0, 0.0),
    "call cut": (4.0, 0.0, 0.0),
    "call late": (3.0, 0.0, 0.0),
    "delete fails": (2.0, 0.0, 0.0),
    "operation fails": (3.0, 0.0, 0.0),
    "operation stuck": (1.0, 0.0, 0.0),
    "operation forgotten": (1.0, 0.0, 0.0),
    "zone unreachable": (2.0, 5.0, 60.0),
    "cloud away": (2.0, 2.0, 60.0),
    "credentials expired": (1.0, 2.0, 40.0),
    "rate limit": (1.0, 5.0, 60.0),
    "silent machine": (2.0, 0.0, 0.0),
    "preempted": (4.0, 0.0, 40.0),
    "taken without notice": (3.0, 0.0, 40.0),
    "deleted by another": (2.0, 0.0, 40.0),
    "stopped by another": (1.5, 0.0, 40.0),
    "a disk is left": (0.5, 0.0, 0.0),
    "token shown again": (2.0, 0.0, 20.0),
    "kill provisioner at a call": (5.0, 0.2, 12.0),
}
"""Kind of fault -> weight, and its least and most seconds; of what strikes a VM: how long after it was made."""
_OWN = tuple(CLOUD_KINDS)
_PROVISIONER = (
    "kill provisioner", "kill provisioner at a step", "kill provisioner at a commit", "pause provisioner",
    "restart provisioner", "provisioner cut off", "server clock", "database slow", "database away",
)  # fmt: skip
_NETWORK = ("bus down", "cut off", "connection breaks", "lossy", "slow", "durable deleted", "pause agent")
_MACHINES = (
    "preempted", "preempted", "taken without notice", "deleted by another", "stopped by another", "silent machine",
    "kill agent", "kill agent at a step", "cut off", "kill job", "machine clock", "token shown again",
)  # fmt: skip
_CALLS = (
    "stockout", "quota", "call fails", "call cut", "call late", "operation fails", "operation stuck",
    "operation forgotten", "delete fails", "zone unreachable", "cloud away", "kill provisioner at a call",
)  # fmt: skip
_THEMES: dict[str, tuple[float, tuple[str, ...]]] = {
    "mixed": (3.0, (*_OWN, *_PROVISIONER, *_NETWORK, *_MACHINES)),
    "calls": (3.0, _CALLS),
    "machines": (2.0, _MACHINES),
    "provisioner": (2.0, (*_PROVISIONER, *_CALLS, "kill provisioner at a call", "kill provisioner at a call")),
    "network": (1.5, (*_NETWORK, "cloud away", "call late", "token shown again", "bus down", "provisioner cut off")),
}


def draw_cloud(seed: int) -> Plan:
    """The schedule of a seed, in a world with a cloud."""
    numbers = random.Random(f"{seed}:cloud")
    theme = numbers.choices(list(_THEMES), [weight for weight, _ in _THEMES.values()])[0]
    return Plan(
        seed=seed, machines=(), provisioners=numbers.choice((1, 1, 2)),
        experiments=tuple(_experiment(seed, index, numbers) for index in range(numbers.choice((1, 1, 2, 3)))),
        faults=_faults(numbers, theme), cloud=Cloudy(numbers.choice(("request", "operation"))), settle_s=SETTLE_S,
    )  # fmt: skip


def _experiment(seed: int, index: int, numbers: random.Random) -> Asked:
    at = numbers.uniform(0.0, 30.0)
    retry = {
        "attempts": numbers.randint(1, 4),
        "on": [reason for reason in ("preempted", "lost", "infra", "error") if numbers.random() < 0.9],
    }
    spec: dict[str, Any] = {
        "command": ["python", "train.py"], "project": "default", "nodes": numbers.choice((1, 1, 1, 2, 3)),
        "instance": INSTANCE, "spot": numbers.random() < 0.6, "retry": retry,
        "checkpoint": {"grace": numbers.choice((1.0, 4.0))},
    }  # fmt: skip
    # Of numbers of its own, so that a seed means else what it meant before there was data.
    if random.Random(f"{seed}:data:{index}").random() < _WITH_DATA:
        spec["data"] = [{"snapshot": SNAPSHOT}]
    least = numbers.uniform(1.0, 40.0)
    return Asked(
        seed=f"{seed}:cloud:{index}", experiment=derived_id("simulated in a cloud", seed, index), at=at,
        stop_at=at + numbers.uniform(0.0, 90.0) if numbers.random() < 0.25 else None, spec=spec,
        fails=numbers.choice((0.0, 0.0, 0.5)), seconds=(least, least * numbers.uniform(1.0, 2.0)),
    )  # fmt: skip


def _faults(numbers: random.Random, theme: str) -> tuple[Fault, ...]:
    choice, weights = _THEMES[theme][1], {**KINDS, **CLOUD_KINDS}
    kinds = numbers.choices(choice, [weights[kind][0] for kind in choice], k=numbers.randint(1, 6))
    found = [
        Fault(
            kind, numbers.uniform(0.5, BUSY_S) * numbers.random(), numbers.uniform(*weights[kind][1:]),
            numbers.randrange(12), numbers.random(),
        )
        for kind in kinds
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda fault: fault.at))
