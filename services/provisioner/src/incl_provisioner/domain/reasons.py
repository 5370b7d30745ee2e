"""Why an experiment waits, for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from incl_provisioner.domain.placement import Demand, Room, offers
from incl_provisioner.domain.scheduler import Scheduler, Waiting

_GIB = 1 << 30


def why(waiting: Waiting, scheduler: Scheduler) -> str:
    """The reason in a few words: 'needs 4 cores, 1.5 of 2 free; 3 ahead in the queue'."""
    alive = [room for room in scheduler.rooms.values() if room.alive]
    if not alive:
        return "no machine is ready"
    if waiting.not_before:
        return f"a pause before attempt {waiting.attempt}"
    if waiting.refusal:
        return waiting.refusal
    ahead = scheduler.ahead(waiting)
    parts = [*_lacking(waiting.demand, alive)]
    if ahead:
        parts.append(f"{ahead} ahead in the queue")
    return "; ".join(parts) or "its turn comes next"


def core(reason: str) -> str:
    """The part of a reason that is worth saying anew when it changes: not the numbers of what is free or ahead."""
    kind = "needs" if "needs" in reason else "turn"
    return reason if kind == "turn" and "ahead" not in reason else kind


def _lacking(demand: Demand, rooms: Sequence[Room]) -> Iterable[str]:
    able = [room for room in rooms if offers(room.runtimes, demand.runtime)]
    if not able:
        yield f"no machine with {demand.runtime.value} is ready"
        return
    if sum(room.fits(demand) if room.local else min(1, room.fits(demand)) for room in able) >= demand.nodes:
        return
    gang = f" on each of {demand.nodes} nodes" if demand.nodes > 1 else ""
    free, total = max((room.cpu - room.cpu_used, room.cpu) for room in able)
    if demand.cpu * (demand.nodes if gang and len(able) == 1 else 1) > free:
        yield f"needs {_cores(demand.cpu)}{gang}, {free / 1000:g} of {total / 1000:g} free"
        return
    bytes_free, bytes_total = max((room.memory - room.memory_used, room.memory) for room in able)
    if demand.memory > bytes_free:
        yield f"needs {_gib(demand.memory)}{gang}, {_gib(bytes_free)} of {_gib(bytes_total)} free"
        return
    gpus_free, gpus_total = max((room.gpus - len(room.gpus_used), room.gpus) for room in able)
    if demand.gpus > gpus_free:
        yield f"needs {demand.gpus} GPU{'s' if demand.gpus > 1 else ''}{gang}, {gpus_free} of {gpus_total} free"
        return
    yield f"needs {_cores(demand.cpu)}{gang} at once, more than is free together"


def _cores(cpu: int) -> str:
    return "1 core" if cpu == 1000 else f"{cpu / 1000:g} cores"


def _gib(amount: int) -> str:
    return f"{amount / _GIB:.3g} GiB"
