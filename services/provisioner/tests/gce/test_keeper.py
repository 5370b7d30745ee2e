"""Gangs of VMs through everything that a cloud can do, in virtual time: nothing is left, nothing is made twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.errors import Verdict
from incl_provisioner.domain.cloud.gangs import Gang, Phase
from incl_provisioner.fakes.gce.call import Call
from incl_provisioner.testing.gangs import PLACES, World, play
from incl_shared.ids import new_id

FAULTS: list[dict[str, Any]] = [
    {"kind": "cut"},
    {"kind": "cut", "effect": True},
    {"kind": "hang"},
    {"kind": "hang", "effect": True},
    {"kind": "slow", "seconds": 45.0},
    {"kind": "slow", "seconds": 150.0},
    {"kind": "garbage", "effect": True},
    {"kind": "error", "status": 500},
    {"kind": "error", "status": 503, "effect": True},
    {"kind": "error", "status": 429, "reason": "rateLimitExceeded"},
    {"kind": "operation", "reason": "RESOURCE_NOT_FOUND", "status": 404, "effect": True},
    {"kind": "operation", "reason": "INTERNAL_ERROR", "status": 500},
    {"kind": "stuck"},
]


def test_a_gang_is_made_and_removed() -> None:
    async def scenario(world: World) -> None:
        gang = world.table.add(3)
        await world.until(lambda: world.phases() == {Phase.MADE}, 120)
        assert sorted(world.running()) == sorted(gang.names)
        world.table.unwanted(gang.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 300)
        assert not world.cloud.state.instances
        assert not world.cloud.state.disks

    play(scenario)


def test_a_stockout_leads_to_the_next_place() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.stockout("us-central1-*")
        gang = world.table.add(2)
        await world.until(lambda: world.phases() == {Phase.MADE}, 300)
        assert world.table.rows[gang.key].region == "europe-west4"
        assert world.plans.failures["insufficient_capacity"] == 2

    play(scenario)


def test_a_stockout_in_the_operation_leads_to_the_next_zones_with_another_request_id() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.stockout_form(bulk="operation")
        for zone in ("us-central1-a", "us-central1-b"):
            world.cloud.switches.stockout(zone)
        gang = world.table.add(2)
        await world.until(lambda: world.phases() == {Phase.MADE}, 300)
        assert world.table.rows[gang.key].turn == 2
        assert {zone for zone, _ in world.cloud.state.instances} == {"us-central1-c"}

    play(scenario)


def test_a_call_that_is_received_late_after_a_refusal_makes_no_second_gang() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="slow", seconds=100.0, method="regionInstances.bulkInsert")
        world.cloud.switches.stockout("us-central1-*")
        gang = world.table.add(2)
        await asyncio.sleep(70)
        world.cloud.switches.restock()
        await world.until(lambda: world.phases() == {Phase.MADE}, 900)
        assert world.table.rows[gang.key].turn == 2
        await asyncio.sleep(300)
        assert sorted(world.running()) == gang.names

    play(scenario)


def test_an_operation_that_is_forgotten_makes_no_second_gang() -> None:
    async def scenario(world: World) -> None:
        gang = world.table.add(2)
        await world.until(lambda: world.table.rows[gang.key].operation, 60)
        row = world.table.rows[gang.key]
        world.cloud.switches.forget(f"regions/{row.region}", row.operation)
        await world.until(lambda: world.table.rows[gang.key].phase is Phase.MADE, 900)
        assert sorted(world.running()) == gang.names

    play(scenario)


def test_a_vm_of_a_name_that_was_deleted_before_is_deleted_again() -> None:
    async def scenario(world: World) -> None:
        failing = {"kind": "operation", "reason": "INTERNAL_ERROR", "status": 500, "effect": True}
        world.cloud.switches.fault(**failing, method="regionInstances.bulkInsert", times=3)
        gang = world.table.add(1)
        await world.until(lambda: world.phases() == {Phase.MADE}, 900)
        assert world.table.rows[gang.key].turn == 4
        world.table.unwanted(gang.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 300)

    play(scenario)


def test_times_of_a_clock_that_was_an_hour_ahead_hold_up_nothing() -> None:
    async def scenario(world: World) -> None:
        gang = world.table.add(1)
        await world.until(lambda: world.phases() == {Phase.MADE}, 120)
        await world.crash()
        row = world.table.rows[gang.key]
        world.table.rows[gang.key] = replace(row, phase=Phase.ENDING, wanted=False, since=row.since + 3600)
        world.start()
        await world.until(lambda: world.phases() == {Phase.GONE}, 300)

    play(scenario)


def test_times_of_a_clock_that_was_an_hour_behind_do_not_end_the_wait_for_a_late_call() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="slow", seconds=120.0, method="regionInstances.bulkInsert")
        gang = world.table.add(1)
        await asyncio.sleep(20)
        await world.crash()
        row = world.table.rows[gang.key]
        assert (row.phase, row.operation) == (Phase.ASKED, "")
        before = {"since": row.since - 3600, "asked": row.asked - 3600}
        world.table.rows[gang.key] = replace(row, phase=Phase.ENDING, wanted=False, unsure=True, **before)
        world.start()
        await world.until(lambda: world.phases() == {Phase.GONE}, 900)
        assert world.cloud.faults.calls["regionInstances.bulkInsert"] == 1

    play(scenario)


def test_disks_that_no_vm_has_go_with_the_gang() -> None:
    async def scenario(world: World) -> None:
        gang = world.table.add(1)
        body = {"name": f"{gang.names[0]}-data0", "sizeGb": "10", "labels": {"incl-platform": "p"}}
        status, _ = await world.cloud.api.answer(Call("disks.insert", "fake-project", "us-central1-a", "", {}, body))
        assert status == 200
        await world.until(lambda: world.phases() == {Phase.MADE}, 120)
        assert len(world.cloud.state.disks) == 2
        world.table.unwanted(gang.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 300)
        assert not world.cloud.state.disks

    play(scenario)


def test_a_call_that_hangs_holds_up_no_other_gang() -> None:
    async def scenario(world: World) -> None:
        hanging = {"kind": "hang", "method": "regionInstances.bulkInsert", "place": "us-central1"}
        world.cloud.switches.fault(**hanging, times=None)
        slow, quick = world.table.add(1), world.table.add(1, turn=2)
        await world.until(lambda: world.table.rows[quick.key].phase is Phase.MADE, 60)
        assert world.table.rows[slow.key].phase is Phase.ASKED

    play(scenario)


def test_what_hangs_is_told_long_before_it_is_given_up_and_not_once_it_answers() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="slow", seconds=25.0, method="regionInstances.bulkInsert")
        gang = world.table.add(1)
        await world.until(lambda: world.table.rows[gang.key].phase is Phase.ASKED, 60)
        await asyncio.sleep(15)
        row = world.table.rows[gang.key]
        assert row.operation == ""
        assert row.verdict is not None
        assert row.verdict.message == "Compute Engine has not answered for 16 s"
        await world.until(lambda: world.table.rows[gang.key].phase is Phase.MADE, 60)
        assert world.table.rows[gang.key].verdict is None
        assert world.keeper.trouble is None

    play(scenario)


def test_for_how_long_nothing_answers_is_told_over_all_tries() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="hang", method="regionInstances.bulkInsert", times=None)
        gang = world.table.add(1)
        await asyncio.sleep(200)
        verdict = world.table.rows[gang.key].verdict
        assert verdict is not None
        assert verdict.message == "Compute Engine has not answered for 2 min", "a second call is under way by then"
        world.cloud.switches.clear()
        await world.until(lambda: world.table.rows[gang.key].phase is Phase.MADE, 60)

    play(scenario)


def test_an_operation_that_cannot_be_looked_at_is_told() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="hang", method="regionOperations.*", times=None)
        gang = world.table.add(1)
        await world.until(lambda: world.table.rows[gang.key].operation, 60)
        await asyncio.sleep(15)
        verdict = world.table.rows[gang.key].verdict
        assert verdict is not None
        assert "has not answered for 16 s" in verdict.message
        world.cloud.switches.clear()
        await world.until(lambda: world.table.rows[gang.key].phase is Phase.MADE, 120)
        assert world.table.rows[gang.key].verdict is None

    play(scenario)


def test_one_that_may_not_see_its_operations_fails_and_leaves_nothing() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.deny("compute.regionOperations.get")
        gang = world.table.add(1)
        await world.until(lambda: world.table.rows[gang.key].phase is Phase.CLEANING, 60)
        verdict = world.table.rows[gang.key].verdict
        assert verdict is not None
        assert "compute.regionOperations.get" in verdict.said
        await world.until(lambda: world.phases() == {Phase.FAILED}, 1800)
        assert not world.cloud.state.instances

    play(scenario)


@pytest.mark.parametrize("method", ["instances.aggregatedList", "disks.aggregatedList"])
def test_a_look_that_hangs_is_told_of_all_until_it_answers(method: str) -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="hang", method=method, times=None)
        assert world.keeper.trouble is None
        await asyncio.sleep(12)
        assert world.keeper.trouble is not None
        assert world.keeper.trouble.message == "Compute Engine has not answered for 8 s"
        await asyncio.sleep(88)
        assert "for 83 s" in world.keeper.trouble.message, "told again at 16, 32, 64 s, and as it was given up"
        world.cloud.switches.clear()
        await world.until(lambda: world.keeper.trouble is None, 60)

    play(scenario)


def test_a_delete_that_hangs_is_told_and_holds_up_nothing() -> None:
    async def scenario(world: World) -> None:
        left, other = world.table.add(1), world.table.add(1, turn=2)
        await world.until(lambda: world.phases() == {Phase.MADE}, 120)
        world.cloud.switches.fault(kind="hang", method="instances.delete", name=left.names[0], times=None)
        del world.table.rows[left.key]
        world.table.unwanted(other.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 60)
        assert world.keeper.trouble is not None
        assert "has not answered" in world.keeper.trouble.message
        world.cloud.switches.clear()
        await world.until(lambda: not world.cloud.state.instances, 300)
        await world.until(lambda: world.keeper.trouble is None, 60)

    play(scenario)


def test_what_will_never_be_accepted_fails_with_its_reason() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.deny("compute.instances.create")
        gang = world.table.add(1)
        await world.until(lambda: world.phases() == {Phase.FAILED}, 300)
        verdict = world.table.rows[gang.key].verdict
        assert verdict is not None
        assert "compute.instances.create" in verdict.said

    play(scenario)


def test_a_call_that_nobody_wants_any_more_is_not_made_again_and_what_it_made_is_removed() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="hang", method="regionInstances.bulkInsert", effect=True, times=None)
        gang = world.table.add(2)
        await world.until(lambda: len(world.running()) == 2, 120)
        await world.crash()
        world.table.unwanted(gang.key)
        calls = world.cloud.faults.calls["regionInstances.bulkInsert"]
        world.start()
        await world.until(lambda: world.phases() == {Phase.GONE}, 600)
        assert world.cloud.faults.calls["regionInstances.bulkInsert"] == calls
        assert not world.cloud.state.instances

    play(scenario)


def test_one_that_was_refused_for_sure_and_is_wanted_no_more_is_over_at_once() -> None:
    """A 401, or too many calls: nothing of it can come late, however often it was tried."""

    async def scenario(world: World) -> None:
        world.cloud.switches.expire()
        gang = world.table.add(2)
        await asyncio.sleep(65)
        assert world.cloud.faults.refused.total() > 4
        row = world.table.rows[gang.key]
        assert (row.phase, row.asking, row.unsure) == (Phase.ASKED, False, False)
        world.cloud.switches.expire(False)
        world.cloud.switches.fault(kind="error", status=401, reason="authError", method="*.bulkInsert", times=None)
        await asyncio.sleep(30)
        world.table.unwanted(gang.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 45)
        assert world.cloud.faults.calls["regionOperations.list"] == 0

    play(scenario)


@pytest.mark.parametrize("kind", ["hang", "cut"])
def test_one_of_which_nobody_knows_is_looked_for_until_it_cannot_come_any_more(kind: str) -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind=kind, method="*.bulkInsert", times=4)
        world.cloud.switches.fault(kind="error", status=401, reason="authError", method="*.bulkInsert", times=None)
        gang = world.table.add(1)
        await world.until(lambda: (row := world.table.rows[gang.key]).unsure and row.verdict is not None, 200)
        world.table.unwanted(gang.key)
        await asyncio.sleep(120)
        assert world.phases() == {Phase.ASKED}
        await world.until(lambda: world.phases() == {Phase.GONE}, 400)
        assert world.cloud.faults.calls["regionOperations.list"] > 5

    play(scenario)


def test_the_last_try_of_a_call_counts_when_it_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        bulk = {"method": "regionInstances.bulkInsert"}
        world.cloud.switches.fault(kind="hang", **bulk, times=3)
        world.cloud.switches.fault(kind="slow", seconds=170.0, **bulk)
        gang = world.table.add(1)
        await asyncio.sleep(60)
        world.table.unwanted(gang.key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 900)
        assert world.plans.failures["timeout"] == 1
        await asyncio.sleep(300)
        assert world.cloud.faults.calls["regionInstances.bulkInsert"] == 1

    play(scenario)


def test_a_lost_vm_is_told_but_not_while_its_zone_does_not_answer() -> None:
    async def scenario(world: World) -> None:
        gang = world.table.add(2)
        await world.until(lambda: world.phases() == {Phase.MADE}, 120)
        row = world.table.rows[gang.key]
        zone = next(iter(world.cloud.state.instances))[0]
        world.cloud.switches.preempt(zone, gang.names[1])
        await asyncio.sleep(400)
        view = await world.keeper.round()
        assert gangs.lost(row, view) == [1]
        world.cloud.switches.unreachable(zone)
        assert gangs.lost(row, await world.keeper.round()) == []

    play(scenario)


def test_a_machine_without_a_row_is_removed() -> None:
    async def scenario(world: World) -> None:
        gang = world.table.add(1)
        await world.until(lambda: world.phases() == {Phase.MADE}, 120)
        del world.table.rows[gang.key]
        await world.until(lambda: not world.cloud.state.instances, 300)
        assert not world.cloud.state.disks

    play(scenario)


async def _chaos(world: World) -> None:
    """Half an hour of everything, then peace; in the end nothing is wanted."""
    chance, switches = world.chance, world.cloud.switches

    async def blows() -> None:
        for _ in range(chance.randrange(4, 14)):
            await asyncio.sleep(chance.choice([0, chance.uniform(1, 30), chance.uniform(1, 150)]))
            blow = chance.randrange(8)
            method = chance.choice(["*", *["regionInstances.bulkInsert"] * 3, "instances.*", "*Operations.*"])
            if blow < 4:
                switches.fault(**chance.choice(FAULTS), method=method, times=chance.choice([1, 2, 8, 20]))
            elif blow == 4:
                switches.stockout(chance.choice(["us-central1-*", "*", "europe-west4-*"]))
                switches.stockout_form(bulk=chance.choice(["request", "operation"]))
            elif blow == 5:
                switches.unreachable(chance.choice(["us-central1-a", "europe-west4-b"]))
            elif blow == 6 and world.cloud.state.instances:
                zone, name = chance.choice(sorted(world.cloud.state.instances))
                switches.preempt(zone, name)
            elif blow == 7:
                await world.crash()
                await asyncio.sleep(chance.uniform(0, 60))
                world.start()

    async def wishes() -> None:
        for _ in range(chance.randrange(2, 7)):
            key = world.table.add(chance.randrange(1, 4)).key
            wanted_s = chance.choice([chance.uniform(0, 60), chance.uniform(0, 400), chance.uniform(0, 1500)])
            asyncio.get_running_loop().call_later(wanted_s, world.table.unwanted, key)
            await asyncio.sleep(chance.uniform(0, 120))

    async def losses() -> None:
        """Attempts that lost a machine, the next of which take over the others."""
        for _ in range(chance.randrange(0, 6)):
            await asyncio.sleep(chance.uniform(0, 200))
            able = [gang for gang in world.table.rows.values() if world.table.able(gang)]
            if able:
                gang = chance.choice(able)
                healthy = chance.sample(range(gang.nodes), chance.randrange(1, gang.nodes))
                after = world.table.take_over(gang, *healthy)
                asyncio.get_running_loop().call_later(chance.uniform(0, 200), world.table.unwanted, gang.key)
                asyncio.get_running_loop().call_later(chance.uniform(0, 900), world.table.unwanted, after.key)
                world.plans.keeps = chance.random() < 0.8

    await asyncio.gather(blows(), wishes(), losses())
    switches.clear()
    await world.until(lambda: not any(gang.wanted for gang in world.table.rows.values()), 1600)
    await world.until(lambda: world.phases() <= {Phase.GONE, Phase.FAILED}, 2 * 3600)
    await asyncio.sleep(1200)
    assert not world.cloud.state.instances, world.table.rows
    assert not world.cloud.state.disks


@pytest.mark.parametrize("seed", range(12))
def test_after_chaos_nothing_is_left_and_nothing_ran_twice(seed: int) -> None:
    play(_chaos, seed)


def test_a_call_whose_caller_is_gone_is_looked_for_at_once_and_a_refused_one_waits() -> None:
    limits = gangs.Limits()
    planned = Gang(new_id(), 1, 1)
    asked, actions = gangs.decide(planned, gangs.view_of(0.0, [], []), PLACES[0], 100.0, limits)
    assert [action.do for action in actions] == [gangs.Do.ASK]
    view = gangs.view_of(101.0, [], [])
    assert gangs.decide(asked, view, None, 101.0, limits) == (asked, [gangs.Action(gangs.Do.FIND)])
    verdict = Verdict(gangs.Meaning.BACK_OFF, gangs.Scope.NONE, 30.0, "rate", "too many calls", "")
    refused = gangs.refused(asked, verdict, 101.0, unsure=False)
    assert gangs.decide(refused, view, None, 102.0, limits) == (refused, [])
    again, actions = gangs.decide(refused, view, None, 100.0 + limits.again_s, limits)
    assert [action.do for action in actions] == [gangs.Do.ASK]
    assert again.turn == asked.turn, "the same call, so the same request id"


def test_a_machine_that_goes_down_is_lost_only_to_those_that_have_not_begun() -> None:
    gang = replace(Gang(new_id(), 1, 3), phase=Phase.MADE, tried=frozenset({"z"}))
    things = [gangs.Thing(name, "z", status) for name, status in zip(gang.names, ("RUNNING", "STOPPING"), strict=False)]
    view = gangs.view_of(1.0, things, [])
    assert gangs.lost(gang, view) == [1, 2]
    assert gangs.lost(gang, view, going=False) == [2]
    ended = gangs.view_of(1.0, [replace(things[0], status="TERMINATED")], [])
    assert gangs.lost(gang, ended, going=False) == [0, 1, 2]
    assert gangs.lost(gang, gangs.view_of(1.0, things, ["z"])) == []
    assert gangs.lost(gang, gangs.view_of(-1.0, things, [])) == []
    assert gangs.absent(gang, view) == gangs.Absent(gone=(2,), going=(1,))
    assert gangs.absent(gang, ended) == gangs.Absent(gone=(0, 1, 2))
    for unknown in (gangs.view_of(1.0, things, ["z"]), gangs.view_of(-1.0, things, [])):
        assert gangs.absent(gang, unknown) is None


def test_thirty_gangs_at_once_are_within_what_the_provider_runs_at_once() -> None:
    """Ten bulk operations of a project at once: one more would be refused, and cost a call."""

    async def scenario(world: World) -> None:
        world.cloud.switches.bulk_limit(10)
        for method in ("*.bulkInsert", "*.delete", "regionOperations.get"):
            world.cloud.switches.limit(method, 1500, 60)
        for _ in range(30):
            world.table.add(2)
        await world.until(lambda: world.phases() == {Phase.MADE}, 300)
        for key in list(world.table.rows):
            world.table.unwanted(key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 300)

    world = play(scenario)
    calls = world.cloud.faults.calls
    assert not sum(world.cloud.faults.refused.values())
    assert calls["regionInstances.bulkInsert"] == 30
    assert 60 <= calls["instances.delete"] <= 75, "not again in every round"
    assert calls["regionOperations.get"] <= 5 * 30


def test_one_that_waits_for_its_turn_and_is_wanted_no_more_is_over_at_once() -> None:
    async def scenario(world: World) -> None:
        world.cloud.switches.fault(kind="stuck", method="regionInstances.bulkInsert", times=10)
        for _ in range(10):
            world.table.add(1)
        await asyncio.sleep(15)
        late = world.table.add(1)
        await asyncio.sleep(15)
        assert world.table.rows[late.key].phase is Phase.PLANNED
        world.table.unwanted(late.key)
        await world.until(lambda: world.table.rows[late.key].phase is Phase.GONE, 25)
        assert world.cloud.faults.calls["regionInstances.bulkInsert"] == 10
        other = world.table.add(1)
        await world.until(lambda: world.table.rows[other.key].phase is Phase.MADE, 120)
        for key in list(world.table.rows):
            world.table.unwanted(key)
        await world.until(lambda: world.phases() == {Phase.GONE}, 2000)

    play(scenario)
