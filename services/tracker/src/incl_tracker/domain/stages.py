"""The waterfall of an experiment: where its time went, attempt by attempt, and why it waited.

Over the ranks of an attempt a stage begins with the first rank and ends with the last one; a stage never begins
before the one before it ended, so that clocks that differ a little draw no knots.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from incl_shared.events import ClientTimes, RankTimes
from incl_shared.events.experiments import MachinesMade
from incl_shared.queries.tracker import Stage

Name = Literal["packing", "upload", "queued", "machine", "data", "unpacking", "pulling", "running", "uploading"]
MAX_REASONS = 3


@dataclass(frozen=True, slots=True)
class AttemptTimes:
    """What is known of an attempt's time. waits: (time, reason) of the wait before it. machines: made for it."""

    attempt: int
    queued: float
    assigned: float
    started: float | None = None
    ended: float | None = None
    ranks: tuple[RankTimes, ...] = ()
    waits: Sequence[tuple[float, str]] = field(default=())
    machines: MachinesMade | None = None


def client_stages(times: ClientTimes | None) -> list[Stage]:
    """What the submitter's own machine did, by its own clock."""
    if times is None:
        return []
    packed = max(times.started, times.packed)
    return [
        Stage(name="packing", attempt=1, start=times.started, end=packed),
        Stage(name="upload", attempt=1, start=packed, end=max(packed, times.uploaded)),
    ]


def waiting_stage(attempt: int, queued: float, ended: float | None, waits: Sequence[tuple[float, str]]) -> Stage:
    """An experiment that waits, or that ended without room for this attempt."""
    return Stage(name="queued", attempt=attempt, start=queued, end=ended, note=reasons(waits))


def attempt_stages(times: AttemptTimes) -> list[Stage]:
    """All stages of an attempt so far; the last one has no end while it lasts."""
    machines = times.machines
    room = times.assigned if machines is None else min(machines.wanted, times.assigned)
    stages = [
        Stage(
            name="queued",
            attempt=times.attempt,
            start=times.queued,
            end=max(times.queued, room),
            note=reasons([wait for wait in times.waits if machines is None or wait[0] < room]),
        )
    ]
    ranks = times.ranks
    marks: list[tuple[Name, float | None, str]] = [
        ("machine", room, "" if machines is None else made(machines, times.assigned)),
        ("data", _first(r.mounting for r in ranks), _mounted(ranks)),
        ("unpacking", _first(r.mounted or r.preparing for r in ranks), _slowest(ranks, "prepared")),
        ("pulling", _first(r.pulling for r in ranks), _pulled(ranks)),
        ("running", _first([*(r.started for r in ranks), times.started]), _slowest(ranks, "started")),
        ("uploading", _last(r.ended for r in ranks), _slowest(ranks, "ended")),
    ]
    finish = _last([*(r.uploaded for r in ranks)]) or times.ended
    reached = [(name, start, note) for name, start, note in marks if start is not None]
    position = stages[0].end or times.assigned
    for index, (name, start, note) in enumerate(reached):
        begin = max(position, start)
        following = reached[index + 1][1] if index + 1 < len(reached) else finish
        end = max(begin, following) if following is not None else None
        stages.append(Stage(name=name, attempt=times.attempt, start=begin, end=end, note=note))
        position = end if end is not None else begin
    return stages


def reasons(waits: Sequence[tuple[float, str]]) -> str:
    """Why it waited: the last few different reasons."""
    different = list(dict.fromkeys(reason for _, reason in waits if reason))
    return "; ".join(different[-MAX_REASONS:])


def made(machines: MachinesMade, ready: float) -> str:
    """What was made, where, and how long its parts took."""
    kind = f"{machines.machine} spot" if machines.spot else machines.machine
    kind += f" ({machines.kept} kept)" if machines.kept else ""
    earlier = machines.asked - machines.wanted
    before = f"found after {earlier:.0f} s, " if earlier >= 1 else ""
    making, booting = max(0.0, machines.made - machines.asked), max(0.0, ready - machines.made)
    return f"{kind} in {machines.zone}: {before}made in {making:.1f} s, booted in {booting:.1f} s"


def latest(starts: Iterable[RankTimes], ends: Iterable[RankTimes]) -> tuple[RankTimes, ...]:
    """The times of each rank, with what its end added."""
    ranks = {times.rank: times for times in starts}
    for times in ends:
        old = ranks.get(times.rank, times)
        said = {k: v for k, v in times.model_dump().items() if v is not None}
        ranks[times.rank] = old.model_copy(update=said)
    return tuple(ranks[rank] for rank in sorted(ranks))


def _first(moments: Iterable[float | None]) -> float | None:
    return min((m for m in moments if m is not None), default=None)


def _last(moments: Iterable[float | None]) -> float | None:
    return max((m for m in moments if m is not None), default=None)


def _pulled(ranks: Sequence[RankTimes]) -> str:
    """Which image, and how long the slowest rank had to pull it."""
    took = [(r.pulled - r.pulling, r.rank) for r in ranks if r.pulling is not None and r.pulled is not None]
    if not took:
        return ""
    longest, rank = max(took)
    images = ", ".join(sorted({r.image for r in ranks if r.image}))
    return f"{images} in {longest:.1f} s" + (f" (rank {rank}, the slowest)" if len(ranks) > 1 else "")


def _mounted(ranks: Sequence[RankTimes]) -> str:
    """How long the slowest rank had to mount its data."""
    took = [(r.mounted - r.mounting, r.rank) for r in ranks if r.mounting is not None and r.mounted is not None]
    if not took:
        return ""
    longest, rank = max(took)
    return f"mounted in {longest:.1f} s" + (f" (rank {rank}, the slowest)" if len(ranks) > 1 else "")


def _slowest(ranks: Sequence[RankTimes], what: Literal["prepared", "started", "ended"]) -> str:
    """Which rank the others waited for, where that took long."""
    moments = [(moment, r.rank) for r in ranks if (moment := getattr(r, what)) is not None]
    if len(moments) < 2:
        return ""
    last, first = max(moments), min(moments)
    return f"rank {last[1]} was {last[0] - first[0]:.1f} s behind rank {first[1]}" if last[0] - first[0] >= 1 else ""
