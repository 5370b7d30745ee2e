"""Placement: never more than there is, all ranks or none, addresses of their own."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from incl_provisioner.domain.placement import (
    Demand,
    Room,
    Runtime,
    could_ever,
    hold,
    milli,
    offers,
    place,
    rank_address,
)

_GIB = 1 << 30


def room(node: str = "a", cpu: int = 4000, memory: int = 8 * _GIB, gpus: int = 0, address: str = "127.0.0.1") -> Room:
    return Room(node, address, cpu, memory, gpus, frozenset({"host"}))


rooms = st.lists(
    st.builds(
        room, cpu=st.integers(0, 8000), memory=st.integers(0, 16).map(lambda gib: gib * _GIB),
        gpus=st.integers(0, 8), address=st.sampled_from(["127.0.0.1", "10.0.0.1"]),
    ),
    min_size=1, max_size=5,
).map(lambda made: [_named(each, f"n{index}") for index, each in enumerate(made)])  # fmt: skip
demands = st.lists(
    st.builds(
        Demand, nodes=st.integers(1, 6), cpu=st.integers(1, 4000), memory=st.integers(0, 8).map(lambda gib: gib * _GIB),
        gpus=st.integers(0, 4), wire=st.integers(0, 2_000_000),
    ),
    min_size=1, max_size=20,
)  # fmt: skip


def _named(each: Room, name: str) -> Room:
    each.node = name
    return each


def _state(all_rooms: list[Room]) -> list[tuple[object, ...]]:
    return [(r.cpu_used, r.memory_used, frozenset(r.gpus_used), r.wire_used, r.ranks) for r in all_rooms]


@settings(max_examples=40, deadline=None)
@given(rooms, demands, st.booleans())
def test_never_over_capacity_and_all_or_none(all_rooms: list[Room], wanted: list[Demand], spread: bool) -> None:
    for number, demand in enumerate(wanted):
        before = _state(all_rooms)
        possible = could_ever(demand, all_rooms)
        slots = place(demand, all_rooms, f"job{number}", spread=spread)
        if slots is None:
            assert _state(all_rooms) == before
            continue
        assert possible
        assert [slot.rank for slot in slots] == list(range(demand.nodes))
        assert all(len(slot.gpus) == demand.gpus for slot in slots)
        for each in all_rooms:
            mine = [slot for slot in slots if slot.node == each.node]
            assert len({gpu for slot in mine for gpu in slot.gpus}) == demand.gpus * len(mine)
            assert each.local or len(mine) <= 1
    for each in all_rooms:
        assert each.cpu_used <= each.cpu or not each.ranks
        assert each.memory_used <= each.memory or not each.ranks
        assert each.gpus_used <= set(range(each.gpus))
        assert each.wire_used <= each.wire


@settings(max_examples=40, deadline=None)
@given(rooms, demands)
def test_what_is_given_back_can_be_taken_again(all_rooms: list[Room], wanted: list[Demand]) -> None:
    before = _state(all_rooms)
    taken = [(demand, place(demand, all_rooms, str(number))) for number, demand in enumerate(wanted)]
    by_name = {each.node: each for each in all_rooms}
    for demand, slots in taken:
        for slot in slots or ():
            by_name[slot.node].release(demand, slot.gpus)
    assert _state(all_rooms) == before


@settings(max_examples=40, deadline=None)
@given(rooms, demands)
def test_placing_is_deterministic(all_rooms: list[Room], wanted: list[Demand]) -> None:
    copies = [each.emptied() for each in all_rooms]
    first = [place(demand, all_rooms, str(number)) for number, demand in enumerate(wanted)]
    assert first == [place(demand, copies, str(number)) for number, demand in enumerate(wanted)]


@settings(max_examples=40, deadline=None)
@given(rooms, demands)
def test_what_is_held_back_is_not_given_to_others(all_rooms: list[Room], wanted: list[Demand]) -> None:
    first, *others = wanted
    held = hold(first, all_rooms)
    assert held == could_ever(first, all_rooms)
    for number, demand in enumerate(others):
        place(demand, all_rooms, str(number))
    for each in all_rooms:
        each.let_go()
    if held:
        assert place(first, all_rooms, "first") is not None


def test_fractions_add_up_exactly() -> None:
    machine = room(cpu=2000)
    demand = Demand(1, milli(0.1))
    assert sum(place(demand, [machine], str(number)) is not None for number in range(30)) == 20


def test_single_jobs_pack_and_leave_gpus_alone() -> None:
    small, big, gpu = room("small", 2000), room("big", 8000), room("gpu", 2000, gpus=2)
    slots = place(Demand(1, 1000), [big, gpu, small], "x")
    assert slots is not None
    assert slots[0].node == "small"
    spread = place(Demand(1, 1000), [room("small", 2000), room("big", 8000)], "x", spread=True)
    assert spread is not None
    assert spread[0].node == "big"


def test_a_gang_spreads_over_machines_before_it_shares_one() -> None:
    machines = [room(name, 8000, address="127.0.0.1") for name in ("a", "b", "c")]
    slots = place(Demand(3, 1000), machines, "x")
    assert slots is not None
    assert sorted(slot.node for slot in slots) == ["a", "b", "c"]
    four = place(Demand(4, 1000), machines, "y")
    assert four is not None
    assert [slot.node for slot in four] == sorted(slot.node for slot in four)


def test_machines_elsewhere_host_one_rank_each() -> None:
    far = [room("a", 8000, address="10.0.0.1"), room("b", 8000, address="10.0.0.2")]
    assert place(Demand(3, 1000), far, "x") is None
    slots = place(Demand(2, 1000), far, "x")
    assert slots is not None
    assert [slot.address for slot in slots] == ["10.0.0.1", "10.0.0.2"]


def test_a_dead_machine_and_one_without_the_runtime_take_nothing() -> None:
    dead = room()
    dead.alive = False
    assert place(Demand(1, 1), [dead], "x") is None
    assert could_ever(Demand(1, 1), [dead])
    assert place(Demand(1, 1, runtime=Runtime.CONTAINER), [room()], "x") is None
    assert offers({"podman"}, Runtime.CONTAINER)
    assert not offers({"host"}, Runtime.BUBBLEWRAP)


@given(st.text(max_size=40), st.integers(0, 1023))
def test_addresses_of_ranks_are_loopback_and_distinct(key: str, rank: int) -> None:
    address = rank_address("127.0.0.1", key, rank)
    parts = [int(part) for part in address.split(".")]
    assert parts[0] == 127
    assert all(0 <= part <= 255 for part in parts)
    assert 1 <= parts[3] <= 254
    assert (rank_address("127.0.0.1", key, (rank + 1) % 1024) != address) is True
    assert rank_address("10.1.2.3", key, rank) == "10.1.2.3"


def test_a_gang_of_1024_has_1024_addresses() -> None:
    assert len({rank_address("127.0.0.1", "gang", rank) for rank in range(1024)}) == 1024
