"""Blows drawn by a seed: the same seed is the same victim, fault, phases and moment."""

from __future__ import annotations

import random

from incl_local.chaos.phases import PHASES, WITH_PROCESS
from incl_local.chaos.rounds import Blow
from incl_local.chaos.victims import Fault

VICTIMS = ("agent", "provisioner", "tracker", "registry", "gateway", "nats", "postgres", "platform", "shim", "job")
LONGEST_FREEZE_S = 20.0
LONGEST_WAIT_S = 3.0
MOST_PHASES = 3


def draw(seed: int) -> Blow:
    """One blow."""
    chance = random.Random(seed)  # noqa: S311 - a schedule, no secret
    victim = chance.choice(VICTIMS)
    of_job = victim in ("shim", "job")
    fault = chance.choice([fault for fault in Fault if not (of_job and fault is Fault.RESTART)])
    seconds = round(chance.uniform(1.0, LONGEST_FREEZE_S), 1) if fault is Fault.FREEZE else 0.0
    among = WITH_PROCESS if of_job else PHASES
    chosen = chance.sample(among, chance.randint(1, min(MOST_PHASES, len(among))))
    phases = tuple(phase for phase in PHASES if phase in chosen)
    return Blow(victim, fault, seconds, phases, moment=round(chance.uniform(0.0, LONGEST_WAIT_S), 2))
