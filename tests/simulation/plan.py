"""What one seed means: experiments with what becomes of them, machines, and faults with their moments."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from incl_shared.ids import derived_id
from simulation.machine import Script

BUSY_S = 30.0
"""Faults begin within so many seconds."""


@dataclass(frozen=True)
class Asked:
    """An experiment that somebody submits."""

    seed: str
    experiment: str
    at: float
    stop_at: float | None
    spec: dict[str, Any]
    fails: float
    """The part of its attempts that end by an error."""
    seconds: tuple[float, float]

    def script(self, attempt: int, rank: int) -> Script:
        """What a rank of an attempt does; the same whenever it is asked."""
        numbers = random.Random(f"{self.seed}:{attempt}")
        seconds = numbers.uniform(*self.seconds)
        fails, culprit = numbers.random() < self.fails, numbers.randrange(self.spec["nodes"])
        own = random.Random(f"{self.seed}:{attempt}:{rank}")
        code = 1 if fails and culprit == rank else 0
        if code:
            seconds *= own.random()
        steps = tuple(sorted(own.uniform(0.0, seconds) for _ in range(own.choice((0, 0, 1, 3)))))
        return Script(seconds + own.random(), code, own.random() < 0.7, steps)


@dataclass(frozen=True)
class Fault:
    """One fault: what, when, for how long, and to whom (an index)."""

    kind: str
    at: float
    seconds: float
    whom: int
    extra: float

    def __str__(self) -> str:
        return f"{self.at:7.2f} {self.kind} of {self.whom} for {self.seconds:.2f} s ({self.extra:.3f})"


@dataclass(frozen=True)
class Cloudy:
    """What kind of cloud a world has. stockouts: bulkInsert tells of them in the `request` or in the `operation`."""

    stockouts: str


@dataclass(frozen=True)
class Plan:
    """A schedule."""

    seed: int
    machines: tuple[float, ...]
    provisioners: int
    experiments: tuple[Asked, ...]
    faults: tuple[Fault, ...]
    poison: tuple[float, ...] = ()
    kinds: frozenset[str] = field(default_factory=frozenset)
    cloud: Cloudy | None = None
    settle_s: float = 400.0
    """So long after the last fault all must have ended."""

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: machines {self.machines}, {self.provisioners} provisioners"]
        lines += [
            f"{each.at:7.2f} submit {each.experiment}: {each.spec['nodes']} x {_what(each.spec)}, "
            f"{each.seconds[0]:.0f}-{each.seconds[1]:.0f} s, stop {each.stop_at}, {each.spec['retry']}"
            for each in self.experiments
        ]
        return "\n".join([*lines, *map(str, self.faults)])


def _what(spec: dict[str, Any]) -> str:
    if "instance" in spec:
        return f"{spec['instance']}{' (spot)' if spec['spot'] else ''}"
    return f"{spec['resources']['cpu']} cores"


KINDS: dict[str, tuple[float, float, float]] = {
    "kill provisioner": (3.0, 0.2, 12.0),
    "kill provisioner at a step": (3.0, 0.2, 8.0),
    "kill provisioner at a commit": (3.0, 0.2, 8.0),
    "pause provisioner": (2.0, 3.0, 25.0),
    "restart provisioner": (1.0, 0.5, 1.0),
    "kill agent": (3.0, 0.2, 25.0),
    "kill agent at a step": (2.0, 0.2, 10.0),
    "pause agent": (1.5, 3.0, 25.0),
    "restart agent": (1.0, 0.5, 1.0),
    "machine off": (2.5, 1.0, 25.0),
    "machine lost": (1.0, 5.0, 25.0),
    "kill shim": (1.0, 0.0, 0.0),
    "kill job": (1.0, 0.0, 0.0),
    "bus down": (2.0, 0.5, 25.0),
    "bus restored": (1.0, 0.5, 5.0),
    "cut off": (3.0, 1.0, 32.0),
    "provisioner cut off": (1.0, 1.0, 32.0),
    "connection breaks": (2.0, 0.0, 0.0),
    "lossy": (1.5, 5.0, 30.0),
    "slow": (1.5, 5.0, 30.0),
    "durable deleted": (1.5, 0.0, 0.0),
    "server clock": (1.0, 5.0, 25.0),
    "machine clock": (1.0, 5.0, 25.0),
    "database slow": (1.0, 3.0, 20.0),
    "database away": (1.0, 1.0, 15.0),
}
"""Kind of fault -> weight, and its least and most seconds."""


_THEMES: dict[str, tuple[float, tuple[str, ...]]] = {
    "mixed": (3.0, tuple(KINDS)),
    "network": (
        2.0,
        ("cut off", "cut off", "provisioner cut off", "connection breaks", "lossy", "slow", "bus down", "pause agent"),
    ),
    "machines": (
        2.0,
        (
            "machine off", "machine off", "machine lost", "kill agent", "kill agent at a step", "restart agent",
            "kill shim", "cut off",
        ),
    ),
    "provisioner": (
        2.0,
        (
            "kill provisioner", "kill provisioner at a step", "kill provisioner at a commit", "pause provisioner",
            "restart provisioner", "durable deleted", "database slow", "database away", "server clock",
        ),
    ),
    "bus": (
        1.5,
        ("bus down", "bus restored", "bus restored", "durable deleted", "connection breaks", "kill provisioner"),
    ),
}  # fmt: skip
"""Theme of a schedule -> weight, and the kinds of its faults: those that meddle with each other come together."""
_LONG = ("network", "machines")
"""Themes whose jobs outlast a lease."""


def draw(seed: int) -> Plan:
    """The schedule of a seed."""
    numbers = random.Random(f"{seed}:plan")
    theme = numbers.choices(list(_THEMES), [weight for weight, _ in _THEMES.values()])[0]
    machines = tuple(numbers.choice((1.0, 2.0, 2.0)) for _ in range(numbers.choice((1, 2, 2, 3))))
    long = theme in _LONG and numbers.random() < 0.7
    return Plan(
        seed=seed, machines=machines, provisioners=numbers.choice((1, 1, 2)),
        experiments=tuple(
            _experiment(seed, index, numbers, machines, long=long)
            for index in range(numbers.randint(1, 2) if long else numbers.randint(2, 3))
        ),
        faults=_faults(numbers, theme),
        poison=(numbers.uniform(0, BUSY_S),) if numbers.random() < 0.1 else (),
    )  # fmt: skip


def _experiment(seed: int, index: int, numbers: random.Random, machines: tuple[float, ...], *, long: bool) -> Asked:
    nodes = 2 if numbers.random() < 0.3 and sum(machines) >= 2.0 else 1
    at = numbers.uniform(0.0, 5.0 if long else 12.0)
    on = [reason for reason in ("preempted", "lost", "infra", "error") if long or numbers.random() < 0.85]
    retry = {"attempts": numbers.randint(2 if long else 1, 5), "on": on}
    spec = {
        "command": ["python", "train.py"], "project": "default", "nodes": nodes,
        "resources": {"cpu": numbers.choice((0.5, 1.0))}, "retry": retry,
        "checkpoint": {"grace": numbers.choice((1.0, 4.0))},
    }  # fmt: skip
    if numbers.random() < 0.1:
        spec["max_duration"] = 600.0
    least = numbers.uniform(20.0, 30.0) if long else numbers.uniform(1.0, 12.0)
    return Asked(
        seed=f"{seed}:{index}", experiment=derived_id("simulated", seed, index), at=at,
        stop_at=at + numbers.uniform(0.0, 30.0) if numbers.random() < 0.3 else None, spec=spec,
        fails=numbers.choice((0.0, 0.0, 0.5)), seconds=(least, least * numbers.uniform(1.0, 1.3 if long else 2.5)),
    )  # fmt: skip


def _faults(numbers: random.Random, theme: str) -> tuple[Fault, ...]:
    choice = _THEMES[theme][1]
    kinds = numbers.choices(choice, [KINDS[kind][0] for kind in choice], k=numbers.randint(1, 5))
    found = [
        Fault(
            kind, numbers.uniform(1.0, BUSY_S), numbers.uniform(*KINDS[kind][1:]), numbers.randrange(12),
            numbers.random(),
        )
        for kind in kinds
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda fault: fault.at))
