"""Where the ranks of an attempt go: all of them, or none.

Amounts are whole numbers (thousandths of a core, bytes), so that sums are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

WIRE_LIMIT = 5_500_000
"""Bytes of job descriptions on one node: its wanted list is one message, of less than 6 MB."""


class Runtime(StrEnum):
    """What a rank needs of its machine to be run."""

    HOST = "host"
    BUBBLEWRAP = "bubblewrap"
    CONTAINER = "container"


_CONTAINERS = frozenset({"podman", "docker"})


def offers(runtimes: Iterable[str], runtime: Runtime) -> bool:
    """Whether a machine with these runtimes can run it."""
    if runtime is Runtime.CONTAINER:
        return not _CONTAINERS.isdisjoint(runtimes)
    return runtime.value in runtimes


def milli(cores: float) -> int:
    """Thousandths of a core, at least one."""
    return max(1, round(cores * 1000))


@dataclass(frozen=True, slots=True)
class Demand:
    """What an attempt needs: `nodes` ranks, each with so much. `wire`: bytes of its description."""

    nodes: int
    cpu: int
    memory: int = 0
    gpus: int = 0
    runtime: Runtime = Runtime.HOST
    wire: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """One rank on one node."""

    rank: int
    node: str
    address: str
    gpus: tuple[int, ...] = ()


@dataclass(slots=True)
class Room:
    """One machine: what it has, what is taken, what is held back for one that has waited too long."""

    node: str
    address: str
    cpu: int
    memory: int
    gpus: int
    runtimes: frozenset[str]
    alive: bool = True
    wire: int = WIRE_LIMIT
    cpu_used: int = 0
    memory_used: int = 0
    wire_used: int = 0
    gpus_used: set[int] = field(default_factory=set)
    cpu_held: int = 0
    memory_held: int = 0
    wire_held: int = 0
    gpus_held: int = 0
    ranks: int = 0

    @property
    def local(self) -> bool:
        """Whether the machine is this one: it may host several ranks of one attempt."""
        return self.address.startswith("127.")

    def fits(self, demand: Demand) -> int:
        """How many ranks of this demand there is room for now."""
        if not self.alive or not offers(self.runtimes, demand.runtime):
            return 0
        count = (self.cpu - self.cpu_used - self.cpu_held) // demand.cpu
        if demand.memory:
            count = min(count, (self.memory - self.memory_used - self.memory_held) // demand.memory)
        if demand.gpus:
            count = min(count, (self.gpus - len(self.gpus_used) - self.gpus_held) // demand.gpus)
        if demand.wire:
            count = min(count, (self.wire - self.wire_used - self.wire_held) // demand.wire)
        return max(0, count)

    def take(self, demand: Demand) -> tuple[int, ...]:
        """Take room for one rank; the indices of its GPUs."""
        free = (index for index in range(self.gpus) if index not in self.gpus_used)
        chosen = tuple(next(free) for _ in range(demand.gpus))
        self.occupy(demand, chosen)
        return chosen

    def occupy(self, demand: Demand, gpus: Iterable[int]) -> None:
        """Take room that is known already."""
        self.cpu_used += demand.cpu
        self.memory_used += demand.memory
        self.wire_used += demand.wire
        self.gpus_used.update(gpus)
        self.ranks += 1

    def release(self, demand: Demand, gpus: Iterable[int]) -> None:
        """Give the room of one rank back."""
        self.cpu_used -= demand.cpu
        self.memory_used -= demand.memory
        self.wire_used -= demand.wire
        self.gpus_used.difference_update(gpus)
        self.ranks -= 1

    def hold(self, demand: Demand) -> None:
        """Hold room back for one rank of a waiting demand."""
        self.cpu_held += demand.cpu
        self.memory_held += demand.memory
        self.wire_held += demand.wire
        self.gpus_held += demand.gpus

    def let_go(self) -> None:
        """Hold nothing back any more."""
        self.cpu_held = self.memory_held = self.wire_held = self.gpus_held = 0

    def emptied(self, *, keep_held: bool = False) -> Room:
        """The same machine with nothing on it."""
        empty = Room(self.node, self.address, self.cpu, self.memory, self.gpus, self.runtimes, self.alive, self.wire)
        if keep_held:
            empty.cpu_held, empty.memory_held = self.cpu_held, self.memory_held
            empty.wire_held, empty.gpus_held = self.wire_held, self.gpus_held
        return empty


def place(demand: Demand, rooms: Sequence[Room], key: str, *, spread: bool = False) -> tuple[Slot, ...] | None:
    """Take room for every rank, or for none.

    A single rank goes where it leaves the least behind (pack), or the most (`spread`). Ranks of a gang go to
    different machines as long as there are any; only a machine that is this one hosts several.

    key: names the attempt, for the addresses of ranks that share a machine.
    """
    chosen = _choose(demand, rooms, spread=spread)
    if chosen is None:
        return None
    taken = [(room, room.take(demand)) for room in chosen]
    slots = (
        Slot(rank, room.node, rank_address(room.address, key, rank) if demand.nodes > 1 else room.address, gpus)
        for rank, (room, gpus) in enumerate(taken)
    )
    return tuple(slots)


def _choose(demand: Demand, rooms: Sequence[Room], *, spread: bool) -> list[Room] | None:
    """The room of each rank by its number, nothing taken; None when not all fit."""
    counts = [(room, room.fits(demand)) for room in rooms]
    able = [(room, count) for room, count in counts if count]
    if not able:
        return None
    if demand.nodes == 1:
        best = max if spread else min
        return [best(able, key=lambda pair: _left(pair[0]))[0]]
    able.sort(key=lambda pair: _left(pair[0]), reverse=True)
    chosen: list[Room] = []
    turn = 0
    while len(chosen) < demand.nodes:
        layer = [room for room, count in able if count > turn and (turn == 0 or room.local)]
        if not layer:
            return None
        chosen.extend(layer[: demand.nodes - len(chosen)])
        turn += 1
    chosen.sort(key=lambda room: room.node)
    return chosen


def _left(room: Room) -> tuple[int, int, int, str]:
    """How much is free: GPUs weigh most, so that a job without them leaves them alone."""
    return (room.gpus - len(room.gpus_used), room.cpu - room.cpu_used, room.memory - room.memory_used, room.node)


def hold(demand: Demand, rooms: Sequence[Room]) -> bool:
    """Hold room back for a demand that waits, on the machines that are the closest to having it; False: impossible.

    What is held counts as taken for all others, so the room gathers as jobs end.
    """
    missing = demand.nodes
    plan: list[tuple[Room, int]] = []
    for room in sorted((room for room in rooms if room.alive), key=_left, reverse=True):
        most = room.emptied(keep_held=True).fits(demand)
        count = min(most if room.local else min(most, 1), missing)
        plan.append((room, count))
        missing -= count
        if not missing:
            break
    if missing:
        return False
    for room, count in plan:
        for _ in range(count):
            room.hold(demand)
    return True


def could_ever(demand: Demand, rooms: Iterable[Room]) -> bool:
    """Whether the demand fits on these machines when nothing else is on them."""
    empties = [room.emptied() for room in rooms]
    for room in empties:
        room.alive = True
    return _choose(demand, empties, spread=False) is not None


def rank_address(address: str, key: str, rank: int) -> str:
    """The address of a rank: its machine's own; on this machine one of the loopback network for each rank.

    Ranks then have different addresses, as on real machines, and gangs that run at once do not meet on a port.
    """
    if not address.startswith("127."):
        return address
    block = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
    second, third = 1 + block % 254, (block // 254) % 250
    return f"127.{second}.{third + rank // 254}.{1 + rank % 254}"
