"""The scheduler's decision: what waits, what room there is, what time it is -> what starts where.

Order: priority (which grows with waiting), then those that have been passed too often, then the user who has the
least running, then first come. Those alike in all but the time of coming form a line; only the heads of the lines
are looked at, so a pass costs as many steps as there are lines and placements, however long the lines are.

A head that does not fit may be passed by others, but only so often and so long; then room is held back for it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from incl_provisioner.domain.placement import Demand, Room, Slot, hold, place
from incl_provisioner.domain.quotas import NoQuotas, Quotas

_MOST_HOLDS = 16


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient the queue is. Seconds, but for `max_passes` (placements that may pass one that is blocked)."""

    patience_s: float = 30.0
    max_passes: int = 200
    aging_s: float = 600.0
    """Waiting so long is worth one step of priority."""
    spread: bool = False


@dataclass(slots=True)
class Waiting:
    """An experiment in the queue."""

    experiment: str
    user: str
    project: str
    priority: int
    since: float
    """When it first came; retries keep their place."""
    attempt: int
    demand: Demand
    not_before: float = 0.0
    blocked_since: float | None = None
    passed: int = 0
    refusal: str = ""
    """Why the quotas hold it back."""

    @property
    def line(self) -> _LineKey:
        """The line it stands in."""
        return (self.priority, self.user, self.project, self.demand)


_LineKey = tuple[int, str, str, Demand]
_Key = tuple[int, bool, float, float, str]


@dataclass(slots=True)
class Running:
    """An attempt that has room."""

    experiment: str
    attempt: int
    user: str
    project: str
    demand: Demand
    slots: dict[int, Slot] = field(default_factory=dict)
    """The ranks that still hold their room."""
    since: float = 0.0
    """When it got it, or was found to have it."""
    apart: bool = False
    """It has machines of its own: what it takes is no part of what others share."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A decision: this attempt starts there."""

    waiting: Waiting
    slots: tuple[Slot, ...]


class Scheduler:
    """The queue and the room, kept up to date by what happens; `decide` is the decision step."""

    def __init__(self, policy: Policy | None = None, quotas: Quotas | None = None) -> None:
        self.policy = policy or Policy()
        self.quotas: Quotas = quotas or NoQuotas()
        self.rooms: dict[str, Room] = {}
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, Running] = {}
        self._lines: dict[_LineKey, list[tuple[float, str]]] = {}
        self._delayed: list[tuple[float, str]] = []
        self._cpu: defaultdict[str, int] = defaultdict(int)
        self._gpus: defaultdict[str, int] = defaultdict(int)
        self._totals = (0, 0)

    # what happens

    def machine(self, room: Room) -> None:
        """A machine is there, or says anew what it has. What runs on it stays."""
        known = self.rooms.setdefault(room.node, room)
        known.address, known.cpu, known.memory, known.gpus = room.address, room.cpu, room.memory, room.gpus
        known.runtimes, known.alive, known.wire = room.runtimes, room.alive, room.wire
        self._totals = (sum(each.cpu for each in self.rooms.values()), sum(each.gpus for each in self.rooms.values()))

    def enqueue(self, waiting: Waiting) -> None:
        """An experiment waits (again). One that waits already keeps its patience."""
        known = self.waiting.get(waiting.experiment)
        if known is not None:
            waiting.blocked_since, waiting.passed = known.blocked_since, known.passed
        self.waiting[waiting.experiment] = waiting
        if waiting.not_before > 0:
            heapq.heappush(self._delayed, (waiting.not_before, waiting.experiment))
        else:
            self._stand(waiting)

    def dequeue(self, experiment: str) -> None:
        """It does not wait any more. Its place in the line is dropped when it comes up."""
        self.waiting.pop(experiment, None)

    def occupy(self, running: Running) -> None:
        """An attempt holds room already (found in the database)."""
        self.running[running.experiment] = running
        for slot in running.slots.values():
            if slot.node in self.rooms:
                self.rooms[slot.node].occupy(running.demand, slot.gpus)
            self._count(running, 1)
        self.quotas.started(running.user, running.project, running.demand)

    def release(self, experiment: str, ranks: Iterable[int]) -> None:
        """These ranks gave their room back; after the last one the attempt is over."""
        running = self.running.get(experiment)
        if running is None:
            return
        for rank in list(ranks):
            slot = running.slots.pop(rank, None)
            if slot is None:
                continue
            if slot.node in self.rooms:
                self.rooms[slot.node].release(running.demand, slot.gpus)
            self._count(running, -1)
        if not running.slots:
            del self.running[experiment]
            self.quotas.ended(running.user, running.project, running.demand)

    # the decision

    def decide(self, now: float, most: int = 1000) -> list[Assignment]:
        """What starts now, and where; its room is taken. At most `most`, so that one transaction stays small."""
        self._due(now)
        rooms = [room for room in self.rooms.values() if room.alive]
        if not rooms or not self.waiting:
            return []
        try:
            return self._pass(now, rooms, most)
        finally:
            for room in rooms:
                room.let_go()

    def _pass(self, now: float, rooms: list[Room], most: int) -> list[Assignment]:
        heads = [(self._key(head, now), line) for line, head in self._heads()]
        heapq.heapify(heads)
        made: list[Assignment] = []
        blocked: list[tuple[int, Waiting]] = []
        bounds: list[tuple[int, str, Waiting]] = []
        hints: dict[_LineKey, Room] = {}
        while heads and len(made) < most:
            key, line = heapq.heappop(heads)
            head = self._head(line)
            if head is None:
                continue
            fresh = self._key(head, now)
            if fresh != key:
                heapq.heappush(heads, (fresh, line))
                continue
            while bounds and bounds[0][0] <= len(made):
                hold(heapq.heappop(bounds)[2].demand, rooms)
            head.refusal = self.quotas.refusal(head.user, head.project, head.demand) or ""
            if head.refusal:
                continue
            assignment = self._assign(head, rooms, hints)
            if assignment is None:
                blocked.append((len(made), head))
                self._bound(head, now, len(made), bounds, rooms, len(blocked))
                continue
            self.running[head.experiment].since = now
            made.append(assignment)
            following = self._head(line)
            if following is not None:
                heapq.heappush(heads, (self._key(following, now), line))
        for at, head in blocked:
            head.passed += len(made) - at
        return made

    def _assign(self, head: Waiting, rooms: list[Room], hints: dict[_LineKey, Room]) -> Assignment | None:
        """Room for the head of a line; the machine that took the last of this line is asked first."""
        line = head.line
        key = f"{head.experiment}-{head.attempt}"
        hint = hints.get(line)
        if hint is not None and hint.fits(head.demand):
            slots = place(head.demand, (hint,), key)
        else:
            slots = place(head.demand, rooms, key, spread=self.policy.spread)
        if slots is None:
            return None
        if head.demand.nodes == 1 and not self.policy.spread:
            hints[line] = self.rooms[slots[0].node]
        self.dequeue(head.experiment)
        running = Running(head.experiment, head.attempt, head.user, head.project, head.demand)
        running.slots = {slot.rank: slot for slot in slots}
        self.running[head.experiment] = running
        self._count(running, len(slots))
        self.quotas.started(head.user, head.project, head.demand)
        return Assignment(head, slots)

    def _bound(
        self,
        head: Waiting,
        now: float,
        made: int,
        bounds: list[tuple[int, str, Waiting]],
        rooms: list[Room],
        blocked: int,
    ) -> None:
        """It does not fit: from when on is room held back for it?"""
        if head.blocked_since is None:
            head.blocked_since = now
        if blocked > _MOST_HOLDS:
            return
        if self.starving(head, now):
            hold(head.demand, rooms)
        else:
            left = self.policy.max_passes - head.passed
            heapq.heappush(bounds, (made + left, head.experiment, head))

    def starving(self, waiting: Waiting, now: float) -> bool:
        """Whether it was passed too often or for too long."""
        if waiting.blocked_since is None:
            return False
        return waiting.passed >= self.policy.max_passes or now - waiting.blocked_since >= self.policy.patience_s

    def _key(self, head: Waiting, now: float) -> _Key:
        aged = head.priority + int(max(0.0, now - head.since) // self.policy.aging_s)
        return (-aged, not self.starving(head, now), self.share(head.user), head.since, head.experiment)

    def share(self, user: str) -> float:
        """The part of the cluster that a user has running: of cores or of GPUs, whichever is more."""
        cpu, gpus = self._totals
        return max(self._cpu.get(user, 0) / cpu if cpu else 0.0, self._gpus.get(user, 0) / gpus if gpus else 0.0)

    def ahead(self, waiting: Waiting) -> int:
        """How many stand before it, the shares of users left out of account."""
        own = (-waiting.priority, waiting.since, waiting.experiment)
        return sum((-other.priority, other.since, other.experiment) < own for other in self.waiting.values())

    def next_due(self) -> float | None:
        """When the next pause before a retry is over."""
        while self._delayed and not self._is_delayed(*self._delayed[0]):
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None

    # the lines

    def _due(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            not_before, experiment = heapq.heappop(self._delayed)
            if self._is_delayed(not_before, experiment):
                waiting = self.waiting[experiment]
                waiting.not_before = 0.0
                self._stand(waiting)

    def _is_delayed(self, not_before: float, experiment: str) -> bool:
        waiting = self.waiting.get(experiment)
        return waiting is not None and waiting.not_before == not_before

    def _stand(self, waiting: Waiting) -> None:
        line = self._lines.setdefault(waiting.line, [])
        heapq.heappush(line, (waiting.since, waiting.experiment))

    def _head(self, key: _LineKey) -> Waiting | None:
        """Who is first in a line; an empty line goes."""
        line = self._lines.get(key)
        while line:
            waiting = self.waiting.get(line[0][1])
            if waiting is not None and waiting.line == key and not waiting.not_before:
                return waiting
            heapq.heappop(line)
        self._lines.pop(key, None)
        return None

    def _heads(self) -> Iterator[tuple[_LineKey, Waiting]]:
        for key in list(self._lines):
            head = self._head(key)
            if head is not None:
                yield key, head

    def _count(self, running: Running, ranks: int) -> None:
        if running.apart:
            return
        self._cpu[running.user] += ranks * running.demand.cpu
        self._gpus[running.user] += ranks * running.demand.gpus
        if not self._cpu[running.user]:
            del self._cpu[running.user], self._gpus[running.user]
