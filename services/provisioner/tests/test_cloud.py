"""From an experiment that names an instance to machines that are gone again: real bus, real database, a fake cloud."""

from __future__ import annotations

import time
from typing import Any

import pytest

from incl_provisioner.app import create_app
from incl_provisioner.backends.gce.port import Compute, Order
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.cloud import Vms, enroll
from incl_provisioner.testing.site import MACHINE, Begin
from incl_shared.auth import jwt
from incl_shared.errors import DeniedError
from incl_shared.events.experiments import (
    AttemptAssigned,
    AttemptEnded,
    AttemptStarted,
    NodeDeleted,
)
from incl_shared.ids import job_id
from incl_shared.protocol import OLDEST
from incl_shared.queries.provisioner import CheckFeasible, EnrollNode, GetCluster
from incl_shared.reports import NodeHeartbeat, PreemptionNotice
from incl_shared.spec import ExperimentSpec
from incl_shared.states import EndReason, ExperimentState
from incl_shared.testing.wait import until


@pytest.mark.parametrize("nodes", [1, 3])
async def test_it_runs_on_machines_that_are_made_and_deleted(begin: Begin, nodes: int) -> None:
    site = await begin()
    experiment = await site.submit(nodes=nodes)
    done = await site.platform.finished(experiment)
    assert (done.state, done.attempts) == (ExperimentState.FINISHED, 1)
    assigned: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned)
    machines = assigned.machines
    assert machines is not None
    assert (machines.machine, machines.spot, machines.cloud) == (MACHINE, False, "gce")
    assert machines.wanted <= machines.asked <= machines.made
    names = [f"incl-{experiment}-a1-n{rank}" for rank in range(nodes)]
    assert [place.node for place in assigned.placements] == names
    assert len({place.address for place in assigned.placements}) == nodes
    assert any(reason.startswith("creating") for reason in site.waits(experiment))
    assert site.vms.names == names
    await site.settle(experiment)
    await site.until_empty()
    (gang,) = await site.gangs(experiment)
    assert (gang.phase, gang.zone) == ("gone", machines.zone)
    assert gang.deleted is not None
    deleted = [event for _, _, event in site.platform.events if isinstance(event, NodeDeleted)]
    assert sorted(event.node for event in deleted) == names


async def test_machines_stay_until_all_is_stored_and_no_longer_than_is_allowed(begin: Begin) -> None:
    site = await begin(drain_s=1.0)
    experiment = await site.submit()
    await site.platform.finished(experiment)
    assert len(site.vms.names) == 1
    await site.until_empty()


async def test_nobody_else_is_placed_on_a_machine_that_was_made(begin: Begin) -> None:
    site = await begin()
    site.vms.script = lambda _: Script(seconds=None)
    experiment = await site.submit()
    await site.platform.event(experiment, AttemptStarted)
    other = await site.platform.submit()
    await until(
        lambda: "no machine is ready" in site.waits(other), 15, what="it waits: the cloud's machine is not for it"
    )
    local = await site.platform.agent("local")
    await site.platform.finished(other)
    assert [job.partition("-")[0] for job in local.started] == [other]
    await site.platform.ask_stop(experiment)
    assert (await site.platform.finished(experiment)).state is ExperimentState.STOPPED


async def test_a_stop_before_anything_runs_leaves_nothing(begin: Begin) -> None:
    site = await begin()
    site.vms.mute = lambda _: True
    experiment = await site.submit(nodes=2)
    await until(lambda: len(site.vms.names) == 2, 15)
    await site.platform.ask_stop(experiment)
    assert (await site.platform.finished(experiment)).state is ExperimentState.STOPPED
    await site.until_empty()


async def test_a_stockout_leads_to_the_next_region(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.stockout("us-central1-*")
    experiment = await site.submit()
    assigned: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned)
    assert assigned.machines is not None
    assert assigned.machines.zone.startswith("europe-west4")


async def test_a_stockout_everywhere_is_waited_for_and_told(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.stockout("*")
    experiment = await site.submit()
    await until(lambda: any("no such machine free now" in r and "zones wait" in r for r in site.waits(experiment)), 15)
    assert site.vms.names == []
    await site.platform.ask_stop(experiment)
    await site.platform.finished(experiment)
    await site.until_empty()


async def test_a_quota_of_zero_is_told(begin: Begin) -> None:
    site = await begin()
    for region in ("us-central1", "europe-west4"):
        site.cloud.switches.quota("N2_CPUS", 0, region)
    experiment = await site.submit()
    await until(lambda: any("quota N2_CPUS is 0" in reason for reason in site.waits(experiment)), 15)
    assert site.vms.names == []


async def test_no_permission_fails_it_with_the_next_step(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.deny("compute.instances.create")
    experiment = await site.submit()
    done = await site.platform.finished(experiment)
    assert (done.state, done.reason) == (ExperimentState.FAILED, EndReason.UNSUPPORTED)
    assert "may not do this" in done.message
    assert done.hint
    await site.until_empty()
    after = site.platform.of(experiment)
    assert after[-1] == done, "nothing is said of it once it is over"
    model = site.platform.app.reconciler._model
    assert model is None or experiment not in model.cloud


async def test_what_may_never_be_fails_though_nobody_can_look_whether_something_is_left(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.deny("compute.*")
    experiment = await site.submit()
    done = await site.platform.finished(experiment)
    assert "may not do this" in done.message
    (gang,) = await site.gangs()
    assert gang.deleted is None, "nobody has said so"
    site.cloud.switches.clear()
    await site.until_empty()


async def test_expired_credentials_are_told_and_waited_for(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.expire()
    experiment = await site.submit()
    await until(lambda: any("credentials" in reason for reason in site.waits(experiment)), 15)
    assert site.vms.names == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"instance": "n2-standard-5"}, "there is no instance 'n2-standard-5'"),
        ({"zones": ["us-central1-q"]}, "there is no zone 'us-central1-q'"),
        ({"instance": "auto", "resources": {"cpu": 4096}}, "no machine has 4096 cores"),
        ({"instance": None, "spot": True}, "no instance"),
    ],
)
async def test_what_nobody_has_is_refused_at_once(begin: Begin, spec: dict[str, Any], says: str) -> None:
    site = await begin()
    experiment = await site.submit(**spec)
    done = await site.platform.finished(experiment)
    assert says in done.message
    assert done.hint
    assert site.cloud.state.instances == {}


async def test_machines_that_say_nothing_are_given_up_with_their_last_words(begin: Begin) -> None:
    site = await begin(boot_s=0.5)
    site.vms.mute = site.mutters("n1", "incl-vm: fetching try 3 of 30: no route to host")
    experiment = await site.submit(nodes=2)
    done = await site.platform.finished(experiment)
    assert done.state is ExperimentState.FAILED
    assert f"incl-{experiment}-a1-n1 said nothing for" in done.message
    assert "no route to host" in done.message
    assert "docs/compute-engine.md" in done.hint
    assert len(site.vms.ever) >= 2
    await site.until_empty()


async def test_a_cloud_that_cannot_be_used_at_all_is_told(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    async def closed(_: Vms) -> Compute:
        raise RuntimeError("no credentials anywhere")

    monkeypatch.setattr(Vms, "compute", closed)
    site = await begin()
    experiment = await site.submit()
    await until(lambda: any("no credentials anywhere" in reason for reason in site.waits(experiment)), 15)
    monkeypatch.undo()
    site.vms.mute = lambda _: False


async def test_machines_of_an_earlier_try_do_not_count(begin: Begin) -> None:
    site = await begin(boot_s=1.0, boots=20)
    seen: set[int] = set()
    late = True

    def mute(name: str) -> bool:
        """Of the first try only n0 speaks, of the second only n1."""
        seen.update(vm.id for vm in site.cloud.state.instances.values() if vm.name.endswith("n0"))
        if name.endswith("n1"):
            return len(seen) < 2
        return late and len(seen) >= 2

    site.vms.mute = mute
    experiment = await site.submit(nodes=2)

    async def heard() -> bool:
        """n1 of the second try has said hello, while n0 of the first is still thought to be alive."""
        cluster = await site.platform.client.ask(GetCluster(), project="default", user="ann")
        alive = {node.node for node in cluster.nodes if node.alive}
        return {f"incl-{experiment}-a1-n{rank}" for rank in (0, 1)} <= alive

    await until(heard, 20)
    await until(lambda: site.platform.app.reconciler.idle, 10)
    late = False
    assert (await site.platform.finished(experiment)).attempts == 1
    assigned: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned)
    now = {vm.name: vm.address for vm in site.cloud.state.instances.values()}
    assert {place.node: place.address for place in assigned.placements} == now, "none of an earlier try"


async def test_a_machine_that_is_lost_while_it_boots_is_made_again(begin: Begin) -> None:
    site = await begin()
    site.vms.mute = lambda _: True
    experiment = await site.submit(nodes=2, spot=True)
    await until(lambda: len(site.vms.names) == 2, 15)
    name = site.vms.names[0]
    zone = next(vm.zone for vm in site.cloud.state.instances.values() if vm.name == name)
    site.cloud.switches.preempt(zone, name)
    await until(lambda: name not in site.vms.names, 15)
    site.vms.mute = lambda _: False
    done = await site.platform.finished(experiment)
    assert (done.state, done.attempts) == (ExperimentState.FINISHED, 1)
    (gang,) = await site.gangs(experiment)
    assert gang.tries >= 2


async def test_a_preempted_attempt_is_followed_by_one_on_new_machines(begin: Begin) -> None:
    site = await begin(spot_count=1)
    site.vms.script = lambda job: Script(seconds=None if job.attempt == 1 else 0.0)
    experiment = await site.submit(nodes=2, spot=True)
    await site.platform.event(experiment, AttemptStarted)
    name = site.vms.names[1]
    zone = next(vm.zone for vm in site.cloud.state.instances.values() if vm.name == name)
    site.cloud.switches.preempt(zone, name)
    done = await site.platform.finished(experiment)
    assert (done.state, done.attempts) == (ExperimentState.FINISHED, 2)
    ended: AttemptEnded = await site.platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.PREEMPTED, True)
    again: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned, 2)
    assert again.machines is not None
    assert not again.machines.spot, "taken once, and once is what is allowed"
    assert all("-a2-" in place.node for place in again.placements)
    for attempt in (1, 2):
        await site.settle(experiment, attempt)
    await site.until_empty()


async def test_a_peer_that_fails_before_the_preempted_rank_has_ended_is_no_error(begin: Begin) -> None:
    """The notice is there, the job on that machine still saves in its grace, and the others find it gone."""
    site = await begin(spot_count=1)
    site.vms.script = lambda job: Script(seconds=None if job.attempt == 1 else 0.0)
    experiment = await site.submit(nodes=2, spot=True)
    await site.platform.event(experiment, AttemptStarted)
    taken, peer = (site.vms.agents[f"incl-{experiment}-a1-n{rank}"] for rank in (1, 0))
    await taken.say(PreemptionNotice(seconds_left=28))
    await peer.end(job_id(experiment, 1, 0), EndReason.ERROR, 1, "ConnectionResetError: the peer is gone")
    ended: AttemptEnded = await site.platform.event(experiment, AttemptEnded)
    assert (ended.reason, ended.retry) == (EndReason.PREEMPTED, True)
    assert "then: ConnectionResetError" in ended.message
    assert (await site.platform.finished(experiment)).attempts == 2


async def test_a_machine_that_was_taken_while_it_booted_excuses_no_later_error(begin: Begin) -> None:
    site = await begin()
    site.vms.mute = lambda _: True
    site.vms.script = lambda _: Script(reason=EndReason.ERROR, exit_code=1, message="ValueError: mine")
    experiment = await site.submit(spot=True)

    async def made() -> bool:
        return [gang.phase for gang in await site.gangs(experiment)] == ["made"]

    await until(made, 15)
    (vm,) = site.cloud.state.instances.values()
    site.cloud.switches.preempt(vm.zone, vm.name)
    await until(lambda: vm not in site.cloud.state.instances.values(), 15)
    site.vms.mute = lambda _: False
    done = await site.platform.finished(experiment)
    assert (done.state, done.reason, done.attempts) == (ExperimentState.FAILED, EndReason.ERROR, 1)
    (gang,) = await site.gangs(experiment)
    assert gang.preempted is not None


async def test_a_provisioner_that_starts_anew_makes_nothing_twice(begin: Begin) -> None:
    site = await begin()
    site.vms.mute = lambda _: True
    experiment = await site.submit(nodes=2)
    await until(lambda: len(site.vms.names) == 2, 15)
    await site.platform.app.stop()
    site.platform.app = create_app(site.platform.settings, compute=site.vms.compute)
    await site.platform.app.start()
    site.vms.mute = lambda _: False
    assert (await site.platform.finished(experiment)).attempts == 1
    assert len(site.vms.ever) == 2


async def test_what_belongs_to_nobody_is_removed(begin: Begin) -> None:
    site = await begin()
    experiment = await site.submit()
    await site.platform.finished(experiment)
    (made,) = site.cloud.state.instances.values()
    labels = dict(made.body["labels"])
    await site.settle(experiment)
    await site.until_empty()
    compute = await site.vms.compute()
    order = Order(
        machine=MACHINE, image=Image("debian-cloud", "debian-12"), disks=[Disk("pd-balanced", 20)], labels=labels,
        metadata={}, spot=False, longest_s=3600,
    )  # fmt: skip
    site.vms.mute = lambda _: True
    await compute.insert(f"incl-{experiment}-a7-n0", "us-central1-a", order, "00000000-0000-0000-0000-000000000001")
    await until(lambda: site.vms.names == [], 15, what="the orphan is gone")


async def test_a_token_lets_each_machine_in_once(begin: Begin) -> None:
    site = await begin()
    site.vms.script = lambda _: Script(seconds=None)
    experiment = await site.submit(nodes=2)
    await site.platform.event(experiment, AttemptStarted)
    client = site.platform.client
    name, other = site.vms.names
    token, key = site.vms.tokens[name], jwt.Key.new(jwt.USER).public
    assert token == site.vms.tokens[other]
    with pytest.raises(DeniedError, match="used before"):
        await enroll(client, name, token, key)
    with pytest.raises(DeniedError, match="was ever asked for"):
        await enroll(client, f"incl-{experiment}-a1-n2", token, key)
    with pytest.raises(DeniedError, match="was ever asked for"):
        await enroll(client, "local", token, key)
    with pytest.raises(DeniedError, match="not that of"):
        await enroll(client, name, "x" * 43, key)
    foreign = await site.submit()
    await site.platform.event(foreign, AttemptStarted)
    with pytest.raises(DeniedError, match="not that of"):
        await enroll(client, f"incl-{foreign}-a1-n0", token, key)
    await site.platform.ask_stop(experiment)
    await site.platform.finished(experiment)
    await site.settle(experiment)
    await until(lambda: name not in site.vms.names, 15)
    with pytest.raises(DeniedError, match="wanted no more"):
        await enroll(client, name, token, key)


async def test_a_token_expires_and_an_answer_that_was_lost_is_given_again(begin: Begin) -> None:
    site = await begin(boot_s=600.0)
    site.vms.mute = lambda _: True
    experiment = await site.submit(max_duration=600)
    await until(lambda: len(site.vms.names) == 1, 15)
    (vm,) = site.cloud.state.instances.values()
    token = next(item["value"] for item in vm.body["metadata"]["items"] if item["key"] == "incl-enroll-token")
    key = jwt.Key.new(jwt.USER).public
    first = await enroll(site.platform.client, vm.name, token, key)
    assert await enroll(site.platform.client, vm.name, token, key) == first
    assert first < 3 * 3600
    assert experiment in vm.name


async def test_an_old_agent_fails_it_with_the_next_step_and_leaves_nothing(begin: Begin) -> None:
    site = await begin()
    site.vms.protocol = OLDEST - 1
    experiment = await site.submit(nodes=2)
    done = await site.platform.finished(experiment)
    assert done.state is ExperimentState.FAILED
    assert "ended before it was ready" in done.message
    assert "is too old: it speaks version 0" in done.message
    await site.until_empty()


async def test_an_agent_that_is_too_old_at_its_hello_fails_it_at_once(begin: Begin) -> None:
    """The token was traded by another program than the one that came to work; boot_s is a quarter of an hour."""
    site = await begin()
    site.vms.hello = OLDEST - 1
    experiment = await site.submit(nodes=2)
    done = await site.platform.finished(experiment)
    assert done.state is ExperimentState.FAILED
    assert "is too old: it speaks version 0" in done.message
    assert "incl_agent.archive" in done.hint
    await site.until_empty()


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_a_clock_that_is_an_hour_off_blames_nobody_else(begin: Begin, ahead: float) -> None:
    """The rank that failed first speaks for the attempt, and all times are told by the platform's clock."""
    site = await begin()
    site.vms.ahead = lambda name: ahead if name.endswith("n1") else 0.0
    site.vms.script = lambda _: Script(seconds=None, stops=False)
    began = time.time()
    experiment = await site.submit(nodes=2)
    await site.platform.event(experiment, AttemptStarted)
    agents = [site.vms.agents[f"incl-{experiment}-a1-n{rank}"] for rank in (0, 1)]
    for agent in agents:
        await agent.say(NodeHeartbeat())
    first = 1 if ahead > 0 else 0  # by its own clock, the other one fails an hour before
    await agents[first].end(job_id(experiment, 1, first), EndReason.ERROR, 1, "ValueError: it was me")
    await agents[1 - first].end(job_id(experiment, 1, 1 - first), EndReason.ERROR, 1, "ConnectionError: a peer")
    done = await site.platform.finished(experiment)
    assert "it was me" in done.message
    ended: AttemptEnded = await site.platform.event(experiment, AttemptEnded)
    for rank in ended.ranks:
        assert rank.times.ended is not None
        assert began - 1 <= rank.times.ended <= time.time() + 1


@pytest.mark.parametrize("account", ["", "worker@lab"])
async def test_machines_have_an_account_only_where_one_is_named_and_read_files_with_it(
    begin: Begin, account: str
) -> None:
    """Whatever runs on a machine can ask its metadata server for a token of its account."""
    site = await begin(service_account=account)
    site.vms.mute = lambda _: True
    await site.submit()
    await until(lambda: len(site.vms.names) == 1, 15)
    (vm,) = site.cloud.state.instances.values()
    scopes = [scope.rpartition("/")[2] for each in vm.body["serviceAccounts"] for scope in each["scopes"]]
    assert [each["email"] for each in vm.body["serviceAccounts"]] == ([account] if account else [])
    assert scopes == (["devstorage.read_only"] if account else [])


async def test_only_the_gateway_may_ask(begin: Begin) -> None:
    site = await begin()
    query = EnrollNode(node="local", token="x" * 43, key=jwt.Key.new(jwt.USER).public)
    for project, user in (("_nodes", "ann"), ("default", "gateway"), ("default", "ann")):
        with pytest.raises(DeniedError, match="only the gateway"):
            await site.platform.client.ask(query, project=project, user=user)


async def test_a_cloud_without_an_agent_can_only_be_planned_with(begin: Begin) -> None:
    site = await begin(agent_url="")
    spec = ExperimentSpec.model_validate({"command": ["true"], "instance": MACHINE})
    with pytest.raises(Exception, match="can only be planned with"):
        await site.platform.client.ask(CheckFeasible(spec=spec.model_dump(mode="json")), project="default", user="ann")


async def test_it_is_the_same_on_postgresql(begin: Begin, database_url: str) -> None:
    site = await begin(database_url)
    experiment = await site.submit(nodes=2)
    assert (await site.platform.finished(experiment)).state is ExperimentState.FINISHED
    await site.settle(experiment)
    await site.until_empty()
