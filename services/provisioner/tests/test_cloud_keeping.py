"""The attempt after one that lost a machine runs on the healthy ones: real bus, real database, a fake cloud."""

from __future__ import annotations

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.site import Begin, Site
from incl_shared.events.experiments import AttemptAssigned, AttemptEnded, AttemptStarted, NodeDeleted
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.wait import until


async def _begun(site: Site, **spec: object) -> str:
    """A gang of three whose first attempt runs until it is told to stop; the others end at once."""
    site.vms.script = lambda job: Script(seconds=None if job.attempt == 1 else 0.0)
    experiment = await site.submit(nodes=3, spot=True, **spec)
    await site.platform.event(experiment, AttemptStarted)
    return experiment


def _ids(site: Site) -> dict[str, int]:
    return {vm.name: vm.id for vm in site.cloud.state.instances.values() if vm.ending is None}


def _preempt(site: Site, name: str) -> str:
    """Take one back; its zone."""
    zone = next(vm.zone for vm in site.cloud.state.instances.values() if vm.name == name)
    site.cloud.switches.preempt(zone, name)
    return zone


async def _second(site: Site, experiment: str) -> AttemptAssigned:
    assigned: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned, 2)
    return assigned


def _names(experiment: str, *attempts: int) -> list[str]:
    return [f"incl-{experiment}-a{attempt}-n{rank}" for rank, attempt in enumerate(attempts)]


async def _over(site: Site, experiment: str) -> None:
    """It has finished with its second attempt, and each machine of it is said to be deleted once."""
    done = await site.platform.finished(experiment)
    assert (done.state, done.attempts) == (ExperimentState.FINISHED, 2)
    for attempt in (1, 2):
        await site.settle(experiment, attempt)
    await site.until_empty()
    deleted: list[str] = []

    def told() -> bool:
        deleted[:] = [event.node for _, _, event in site.platform.events if isinstance(event, NodeDeleted)]
        return set(site.vms.ever) <= set(deleted)

    await until(told, what="each machine's end is told")
    assert sorted(deleted) == sorted(site.vms.ever)


async def test_only_the_machine_that_was_taken_is_made_anew(begin: Begin) -> None:
    site = await begin()
    experiment = await _begun(site)
    before = _ids(site)
    zone = _preempt(site, _names(experiment, 1, 1, 1)[1])
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 1, 2, 1)
    assert again.machines is not None
    assert (again.machines.zone, again.machines.kept) == (zone, 2)
    ended: AttemptEnded = await site.platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.PREEMPTED, True)
    kept = [name for name, attempt in zip(_names(experiment, 1, 2, 1), (1, 2, 1), strict=True) if attempt == 1]
    now = _ids(site)
    assert {name: now[name] for name in kept} == {name: before[name] for name in kept}
    assert any("2 are kept" in reason for reason in site.waits(experiment))
    await _over(site, experiment)


async def test_what_was_settled_before_the_next_attempt_does_not_take_the_machines_away(begin: Begin) -> None:
    site = await begin()
    experiment = await _begun(site)
    _preempt(site, _names(experiment, 1, 1, 1)[2])
    await site.platform.event(experiment, AttemptEnded)
    await site.settle(experiment, 1)
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 1, 1, 2)
    await _over(site, experiment)


async def test_what_follows_on_demand_is_made_of_new_machines(begin: Begin) -> None:
    site = await begin(spot_count=1)
    experiment = await _begun(site)
    _preempt(site, _names(experiment, 1, 1, 1)[0])
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 2, 2, 2)
    assert again.machines is not None
    assert (again.machines.spot, again.machines.kept) == (False, 0)
    await _over(site, experiment)


async def test_where_the_zone_has_none_left_all_are_made_at_the_next_place(begin: Begin) -> None:
    site = await begin()
    experiment = await _begun(site)
    name = _names(experiment, 1, 1, 1)[0]
    zone = next(vm.zone for vm in site.cloud.state.instances.values() if vm.name == name)
    site.cloud.switches.stockout(zone)
    site.cloud.switches.preempt(zone, name)
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 2, 2, 2)
    assert again.machines is not None
    assert again.machines.zone != zone
    await _over(site, experiment)


async def test_a_kept_machine_that_falls_silent_while_the_missing_one_boots_is_not_waited_for(begin: Begin) -> None:
    site = await begin(waits={"node_lease_s": 4.0})
    late = {f"-a2-n{rank}" for rank in range(3)}
    site.vms.mute = lambda name: name[-6:] in late
    experiment = await _begun(site)
    _preempt(site, _names(experiment, 1, 1, 1)[0])
    made = f"incl-{experiment}-a2-n0"
    await until(lambda: made in site.vms.names, 15, what="the missing one is asked for")
    await site.vms.agents[_names(experiment, 1, 1, 1)[1]].stop()
    await until(lambda: f"incl-{experiment}-a2-n1" in site.vms.names, 30, what="all are made anew")
    late.clear()
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 2, 2, 2)
    await _over(site, experiment)


async def test_a_job_that_failed_by_itself_gets_new_machines(begin: Begin) -> None:
    site = await begin()
    site.vms.script = lambda job: Script(EndReason.ERROR, 1) if job.attempt == 1 else Script()
    experiment = await site.submit(nodes=3, retry={"on": ["error"], "attempts": 2})
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 2, 2, 2)
    await _over(site, experiment)


async def test_a_rank_that_never_said_its_end_has_no_machine_that_is_kept(begin: Begin) -> None:
    site = await begin(waits={"stop_margin_s": 1.0})
    site.vms.script = lambda job: Script(seconds=None if job.attempt == 1 else 0.0, stops=job.rank != 1)
    experiment = await site.submit(nodes=3, spot=True, checkpoint={"grace": 0.1})
    await site.platform.event(experiment, AttemptStarted)
    _preempt(site, _names(experiment, 1, 1, 1)[0])
    again = await _second(site, experiment)
    assert [place.node for place in again.placements] == _names(experiment, 2, 2, 1)
    await _over(site, experiment)


async def test_a_stop_between_the_two_attempts_leaves_nothing(begin: Begin) -> None:
    site = await begin()
    site.vms.mute = lambda name: "-a2-" in name
    experiment = await _begun(site)
    _preempt(site, _names(experiment, 1, 1, 1)[0])
    made = f"incl-{experiment}-a2-n0"
    await until(lambda: made in site.vms.names, 15, what="the missing one is asked for")
    await site.platform.ask_stop(experiment)
    assert (await site.platform.finished(experiment)).state is ExperimentState.STOPPED
    await site.settle(experiment, 1)
    await site.until_empty()
