"""A provider that is ill, or does not answer: it is told, and nothing is left."""

from __future__ import annotations

from typing import Any

import pytest

from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.site import MACHINE, Begin, Site
from incl_shared.events.experiments import AttemptStarted
from incl_shared.queries.provisioner import GetMachines
from incl_shared.queries.stuck import Finding, ProvisionerStuck
from incl_shared.states import EndReason, ExperimentState
from incl_shared.subjects import SYSTEM_PROJECT
from incl_shared.testing.wait import until


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"kind": "error", "status": 500, "reason": "backendError"}, "the provider has a fault of its own"),
        ({"kind": "error", "status": 429, "reason": "rateLimitExceeded"}, "too many calls to the provider"),
        ({"kind": "garbage"}, "the provider has a fault of its own"),
        ({"kind": "cut"}, "the provider has a fault of its own"),
    ],
    ids=["500", "429", "garbage", "cut"],
)
async def test_an_api_that_is_ill_is_told_and_leaves_nothing(begin: Begin, fault: dict[str, Any], says: str) -> None:
    site = await begin()
    site.cloud.switches.fault(method="*nsert", times=None, **fault)
    experiment = await site.submit()
    await until(lambda: any(says in reason for reason in site.waits(experiment)), 15)
    await site.platform.ask_stop(experiment)
    assert (await site.platform.finished(experiment)).state is ExperimentState.STOPPED
    assert (site.vms.ever, site.vms.names, site.vms.disks) == ([], [], 0)


@pytest.mark.parametrize("method", ["*", "*nsert", "*.aggregatedList", "regionOperations.*"])
async def test_an_api_that_hangs_is_told_while_its_calls_are_under_way(begin: Begin, method: str) -> None:
    """Each call of this cloud is waited for for twenty seconds and longer."""
    site = await begin(quiet_s=0.4)
    site.vms.mute = lambda _: True
    site.cloud.switches.fault(kind="hang", method=method, times=None)
    experiment = await site.submit()
    await until(lambda: any("Compute Engine has not answered for" in reason for reason in site.waits(experiment)), 8)
    answer = await site.platform.client.ask(GetMachines(), project="default", user="ann")
    (gang,) = answer.gangs
    assert "has not answered for" in answer.trouble or "has not answered for" in gang.trouble
    site.cloud.switches.clear()
    await site.platform.ask_stop(experiment)
    assert (await site.platform.finished(experiment)).state is ExperimentState.STOPPED


async def test_what_keeps_the_cloud_from_being_used_is_told_until_it_is_over(begin: Begin) -> None:
    site = await begin(quiet_s=0.3)
    site.cloud.switches.deny("compute.instances.list")

    async def trouble() -> str:
        answer = await site.platform.client.ask(GetMachines(), project="default", user="ann")
        assert bool(answer.trouble) == bool(answer.hint)
        return answer.trouble

    await site.submit()
    await until(trouble, 15)
    assert "compute.instances.list" in await trouble()
    site.cloud.switches.clear()

    async def over() -> bool:
        return not await trouble()

    await until(over, 15)


async def test_all_that_may_not_be_made_fail_alike_and_what_comes_after_it_was_put_right_runs(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.deny("compute.instances.create")
    experiments = [await site.submit() for _ in range(4)]
    done = [await site.platform.finished(each) for each in experiments]
    assert {(each.state, each.reason) for each in done} == {(ExperimentState.FAILED, EndReason.UNSUPPORTED)}
    assert len({each.message for each in done}) == 1
    assert "may not do this" in done[0].message
    assert all(each.hint for each in done)
    site.cloud.switches.clear()
    assert (await site.platform.finished(await site.submit())).state is ExperimentState.FINISHED


@pytest.mark.parametrize("place", ["*", "us-central1"])
async def test_what_no_zone_has_fails_once_each_has_said_so(begin: Begin, place: str) -> None:
    site = await begin()
    words = f"Invalid value for field 'resource.instanceProperties.machineType': '{MACHINE}'. It does not exist."
    refusal = {"kind": "error", "status": 400, "reason": "invalid", "message": words}
    site.cloud.switches.fault(**refusal, method="regionInstances.bulkInsert", place=place, times=None)
    experiments = [await site.submit(nodes=nodes) for nodes in (1, 2)]
    for experiment in experiments:
        done = await site.platform.finished(experiment)
        if place == "*":
            assert (done.state, done.reason) == (ExperimentState.FAILED, EndReason.UNSUPPORTED)
            assert f"no zone has {MACHINE}" in done.message
            assert "europe-west4-a" in done.message
            assert "name another machine" in done.hint
        else:
            assert done.state is ExperimentState.FINISHED
        await site.settle(experiment)
    await site.until_empty()


async def test_machines_that_were_taken_are_shown_as_gone_before_their_attempt_is_settled(begin: Begin) -> None:
    site = await begin(spot_count=1)
    site.vms.script = lambda job: Script(seconds=None)
    experiment = await site.submit(nodes=2, spot=True, retry={"attempts": 1})
    await site.platform.event(experiment, AttemptStarted)
    (gang,) = await site.gangs(experiment)
    assert (gang.phase, gang.gone, gang.going) == ("made", (), ())
    (vm,) = [vm for vm in site.cloud.state.instances.values() if vm.name.endswith("n1")]
    site.cloud.switches.preempt(vm.zone, vm.name)

    async def shown() -> bool:
        (gang,) = await site.gangs(experiment)
        return (gang.phase, gang.gone, gang.going) == ("made", (1,), ())

    await until(shown, 15)
    await site.platform.finished(experiment)
    await site.settle(experiment)
    await site.until_empty()
    (gang,) = await site.gangs(experiment)
    assert (gang.phase, gang.gone, gang.going) == ("gone", (), ())


async def findings(site: Site) -> dict[str, Finding]:
    """What the operator is told of the cloud, by kind."""
    found = await site.platform.client.ask(ProvisionerStuck(), project=SYSTEM_PROJECT, user="admin")
    return {one.kind: one for one in found.findings if one.kind.startswith("cloud.")}


async def test_credentials_that_are_not_accepted_are_told_to_the_operator_though_nothing_is_wanted(
    begin: Begin,
) -> None:
    site = await begin()
    assert await findings(site) == {}
    site.cloud.switches.expire()

    async def refused() -> Finding | None:
        return (await findings(site)).get("cloud.refused")

    found = await until(refused, 15)
    assert found is not None
    assert found.severity == "error"
    assert "does not accept the platform's credentials" in found.reason
    assert "gcloud auth application-default login" in found.hint
    assert "incl up" in found.hint
    site.cloud.switches.expire(False)

    async def well() -> bool:
        return await findings(site) == {}

    await until(well, 15)


async def test_a_provider_that_is_away_is_told_to_the_operator_after_a_while(begin: Begin) -> None:
    site = await begin(quiet_s=0.2)
    site.cloud.switches.fault(kind="hang", method="*.aggregatedList", times=None)

    async def told() -> bool:
        answer = await site.platform.client.ask(GetMachines(), project="default", user="ann")
        return "has not answered" in answer.trouble

    await until(told, 15)
    assert await findings(site) == {}, "not at once"
    query = ProvisionerStuck(after_s=0.0)
    found = await site.platform.client.ask(query, project=SYSTEM_PROJECT, user="admin")
    assert "cloud.away" in {one.kind for one in found.findings}
    site.cloud.switches.clear()


async def test_what_waits_for_credentials_goes_on_once_they_are_accepted_whoever_was_refused(begin: Begin) -> None:
    """Nobody waits for a place that rests, nor for the machines of the one that was refused: that one is stopped."""
    site = await begin()
    site.cloud.switches.expire()
    first = await site.submit()
    await until(lambda: any("creating" in text and "credentials" in text for text in site.waits(first)), 15)
    second = await site.submit()
    await until(lambda: any("credentials" in text for text in site.waits(second)), 15)
    await site.platform.ask_stop(first)
    await site.platform.finished(first)
    site.cloud.switches.expire(False)
    assert (await site.platform.finished(second)).state is ExperimentState.FINISHED


async def test_a_console_that_cannot_be_read_holds_up_nobody(begin: Begin) -> None:
    site = await begin(boot_s=1.0, boots=1, quiet_s=0.3)
    site.vms.mute = lambda name: silent in name
    site.cloud.switches.fault(kind="hang", method="instances.getSerialPortOutput", times=None)
    silent = ""
    silent = await site.submit()
    done = await site.platform.finished(silent)
    assert "said nothing for" in done.message
    assert (await site.platform.finished(await site.submit())).state is ExperimentState.FINISHED
