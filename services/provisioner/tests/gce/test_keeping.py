"""Healthy machines of a gang that lost one serve the next attempt: in virtual time, whatever goes wrong."""

from __future__ import annotations

import asyncio

from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.gangs import Gang, Phase
from incl_provisioner.testing.gangs import World, play

BULK = "regionInstances.bulkInsert"


async def _lose(world: World, nodes: int = 3) -> tuple[Gang, str]:
    """A gang that was made and has lost its last machine; and its zone."""
    gang = world.table.add(nodes)
    await world.until(lambda: world.table.rows[gang.key].zone, 120)
    zone = world.table.rows[gang.key].zone
    world.cloud.switches.preempt(zone, gang.names[-1])
    await world.until(lambda: gang.names[-1] not in world.running(), 120)
    return gang, zone


def _ids(world: World) -> dict[str, int]:
    return {vm.name: vm.id for vm in world.cloud.state.instances.values() if vm.ending is None}


def _phase(world: World, gang: Gang) -> Phase:
    return world.table.rows[gang.key].phase


def _own(gang: Gang) -> list[str]:
    """Names that it would have had, had it taken nothing over."""
    return [f"incl-{gang.experiment}-a{gang.attempt}-n{rank}" for rank in range(gang.nodes)]


def test_only_the_missing_machine_is_made_and_in_the_same_zone() -> None:
    async def scenario(world: World) -> None:
        gang, zone = await _lose(world)
        before = _ids(world)
        after = world.table.take_over(gang, 0, 1)
        await world.until(lambda: _phase(world, after) is Phase.MADE, 120)
        assert after.names == [*gang.names[:2], _own(after)[2]]
        now = _ids(world)
        assert {name: now[name] for name in gang.names[:2]} == {name: before[name] for name in gang.names[:2]}
        assert [vm.zone for vm in world.cloud.state.instances.values() if vm.name == after.names[2]] == [zone]
        world.table.unwanted(gang.key)
        await world.until(lambda: _phase(world, gang) is Phase.GONE, 300)
        assert sorted(world.running()) == sorted(after.names), "what was given away stays"
        world.table.unwanted(after.key)
        await world.until(lambda: _phase(world, after) is Phase.GONE, 300)
        assert not world.cloud.state.instances
        assert not world.cloud.state.disks

    world = play(scenario)
    assert world.cloud.faults.calls[BULK] == 2


def test_a_third_attempt_takes_over_what_the_second_took_over() -> None:
    async def scenario(world: World) -> None:
        gang, zone = await _lose(world)
        second = world.table.take_over(gang, 0, 1)
        await world.until(lambda: _phase(world, second) is Phase.MADE, 120)
        world.cloud.switches.preempt(zone, second.names[0])
        await world.until(lambda: second.names[0] not in world.running(), 120)
        third = world.table.take_over(second, 1, 2)
        await world.until(lambda: _phase(world, third) is Phase.MADE, 120)
        assert third.names == [_own(third)[0], gang.names[1], second.names[2]]
        for one in (gang, second):
            world.table.unwanted(one.key)
            await world.until(lambda one=one: _phase(world, one) is Phase.GONE, 300)
        assert sorted(world.running()) == sorted(third.names)
        world.table.unwanted(third.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 300)
        assert not world.cloud.state.instances

    play(scenario)


def test_where_the_missing_ones_cannot_be_had_all_are_made_at_the_next_place() -> None:
    async def scenario(world: World) -> None:
        gang, zone = await _lose(world)
        world.cloud.switches.stockout(zone)
        after = world.table.take_over(gang, 0, 1)
        await world.until(lambda: _phase(world, after) is Phase.MADE, 300)
        row = world.table.rows[after.key]
        assert row.names == _own(after)
        assert row.zone != zone
        assert set(gang.names[:2]) <= set(world.running()), "the last attempt's again, until all of it is stored"
        world.table.unwanted(gang.key)
        await world.until(lambda: _phase(world, gang) is Phase.GONE, 300)
        assert sorted(world.running()) == sorted(row.names)

    play(scenario)


def test_what_nobody_can_have_back_is_removed_where_it_is_not_kept() -> None:
    async def scenario(world: World) -> None:
        gang, _ = await _lose(world)
        world.cloud.switches.fault(kind="stuck", method=BULK)
        after = world.table.take_over(gang, 0, 1)
        world.table.unwanted(gang.key)
        await world.until(lambda: _phase(world, gang) is Phase.GONE, 300)
        assert set(gang.names[:2]) <= set(world.running())
        await world.until(lambda: _phase(world, after) is Phase.CLEANING, 1000)
        await world.until(lambda: _phase(world, after) is Phase.MADE, 1500)
        row = world.table.rows[after.key]
        assert row.names == _own(after)
        assert sorted(world.running()) == sorted(row.names)

    play(scenario)


def test_what_is_not_to_be_kept_is_not_and_no_machine_is_asked_for_before_that() -> None:
    async def scenario(world: World) -> None:
        gang, _ = await _lose(world)
        world.plans.keeps = False
        after = world.table.take_over(gang, 0, 1)
        await world.until(lambda: _phase(world, after) is Phase.MADE, 300)
        assert world.table.rows[after.key].names == _own(after)
        assert world.table.rows[gang.key].given == frozenset()

    world = play(scenario)
    assert world.cloud.faults.calls[BULK] == 2


def test_a_stop_before_the_missing_one_is_there_leaves_nothing() -> None:
    async def scenario(world: World) -> None:
        gang, _ = await _lose(world)
        world.cloud.switches.fault(kind="hang", method=BULK, effect=True, times=None)
        after = world.table.take_over(gang, 0, 1)
        await world.until(lambda: after.names[2] in world.running(), 120)
        world.table.unwanted(after.key)
        world.table.unwanted(gang.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 900)
        assert not world.cloud.state.instances

    play(scenario)


def test_a_keeper_that_crashes_between_leaves_the_kept_ones_alone() -> None:
    async def scenario(world: World) -> None:
        gang, _ = await _lose(world)
        await world.crash()
        after = world.table.take_over(gang, 0, 1)
        world.table.unwanted(gang.key)
        world.start()
        await world.until(lambda: _phase(world, after) is Phase.MADE, 300)
        await asyncio.sleep(120)
        assert sorted(world.running()) == sorted(after.names)

    play(scenario)


def test_a_kept_machine_that_is_lost_is_told_as_the_new_attempts() -> None:
    async def scenario(world: World) -> None:
        gang, zone = await _lose(world)
        after = world.table.take_over(gang, 0, 1)
        await world.until(lambda: _phase(world, after) is Phase.MADE, 120)
        world.cloud.switches.preempt(zone, after.names[1])
        await asyncio.sleep(200)  # a VM that was taken is shown running for a minute
        view = await world.keeper.round()
        assert gangs.lost(world.table.rows[after.key], view) == [1]
        assert gangs.lost(world.table.rows[gang.key], view) == [2]

    play(scenario)
