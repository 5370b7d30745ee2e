"""Disks of snapshots and experiments that read them: made once, shared, collected; a real bus, a fake cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from incl_provisioner.app import create_app
from incl_provisioner.fakes.gce import CloudSettings, FakeCloud
from incl_provisioner.settings import ProvisionerSettings
from incl_provisioner.testing.agent import Script
from incl_provisioner.testing.cloud import QUICK_CLOUD, Vms
from incl_provisioner.testing.platform import QUICK, Platform
from incl_shared.bus.client import BusClient
from incl_shared.errors import ConflictError, InvalidInput, NotFoundError
from incl_shared.events.experiments import AttemptAssigned, AttemptSettled, AttemptStarted, ExperimentWaiting
from incl_shared.queries.provisioner import DataDisks, GetData, PrepareData, RemoveData
from incl_shared.settings import BusSettings
from incl_shared.states import ExperimentState
from incl_shared.testing.wait import until

ZONE = "us-central1-a"
Begin = Callable[..., Awaitable["Site"]]


class Site:
    """A provisioner with a cloud that has two snapshots."""

    def __init__(self, platform: Platform, vms: Vms) -> None:
        self.platform, self.vms, self.cloud = platform, vms, vms.cloud
        self.cloud.switches.snapshot("ct", 100)
        self.cloud.switches.snapshot("mr", 20)
        self.cloud.switches.prefer(ZONE)

    async def submit(self, *snapshots: str, **spec: Any) -> str:
        data = [{"snapshot": name} for name in snapshots or ("ct",)]
        return await self.platform.submit(**{"instance": "n2-standard-4", "data": data, **spec})

    async def finished(self, experiment: str) -> Any:
        done = await self.platform.finished(experiment)
        for attempt in range(1, done.attempts + 1):
            event = AttemptSettled(experiment=experiment, attempt=attempt, points=0, lines=0, gaps=0)
            await self.platform.client.publish_event(event, project="default", version=1)
        return done

    @property
    def keeper(self) -> Any:
        """The part of the loop that keeps these disks."""
        return self.platform.app.reconciler._cloud.data  # type: ignore[union-attr]

    def data(self) -> list[Any]:
        """The disks of data that the cloud has."""
        return [one for one in self.cloud.state.disks.values() if one.name.startswith("incl-data-")]

    @property
    def inserts(self) -> int:
        return self.cloud.faults.calls["disks.insert"]

    def waits(self, experiment: str) -> list[str]:
        return [event.reason for event in self.platform.of(experiment) if isinstance(event, ExperimentWaiting)]

    async def told(self, experiment: str, text: str) -> None:
        await until(lambda: any(text in each for each in self.waits(experiment)), 15, what=text)

    async def empty(self) -> None:
        await until(lambda: not self.vms.names and not self.vms.disks, 15, what="an empty cloud")


@pytest.fixture
async def begin(bus_settings: BusSettings, bus_client: BusClient, sqlite_url: str) -> AsyncIterator[Begin]:
    """Starts a provisioner with a cloud; options are those of the cloud."""
    made: list[Site] = []

    async def start(url: str = sqlite_url, **options: Any) -> Site:
        cloud = FakeCloud(CloudSettings(vms="none"))
        options = {"zones": (ZONE,), "regions": (), **options}
        settings = ProvisionerSettings(
            database_url=url, bus=bus_settings, cloud=QUICK_CLOUD.model_copy(update=options), **QUICK
        )
        vms = Vms(bus_client, cloud)
        platform = Platform(bus_client, settings, create_app(settings, compute=vms.compute))
        await platform.listen()
        await platform.app.start()
        vms.start()
        made.append(Site(platform, vms))
        return made[-1]

    yield start
    for site in made:
        await site.platform.app.stop()
        await site.vms.stop()


async def test_a_disk_is_made_once_read_by_all_nodes_and_collected(begin: Begin) -> None:
    site = await begin(data_idle_s=1.0)
    disk = None

    def script(_: Any) -> Script:
        nonlocal disk
        (disk,) = site.data()
        assert len(disk.users) == 2
        return Script()

    site.vms.script = script
    first = await site.submit(nodes=2)
    assert (await site.finished(first)).state is ExperimentState.FINISHED
    assert disk is not None
    assert (disk.kind, disk.body["sizeGb"], disk.body["accessMode"]) == ("pd-balanced", "100", "READ_WRITE_SINGLE")
    assert disk.body["labels"]["incl-snapshot"] == "ct"
    assert any("preparing data in us-central1-a: ct (100 GiB)" in each for each in site.waits(first))
    second = await site.submit(nodes=2)
    assert (await site.finished(second)).state is ExperimentState.FINISHED
    assert site.inserts == 1
    await site.empty()


async def test_a_gang_that_keeps_its_healthy_machines_keeps_its_disks(begin: Begin) -> None:
    """The kept ones have them attached, the missing one is made with the same; idle disks are gone in a moment here."""
    site = await begin(data_idle_s=0.3)
    site.vms.script = lambda job: Script(seconds=None if job.attempt == 1 else 0.0)
    experiment = await site.submit("ct", "mr", nodes=3, spot=True)
    await site.platform.event(experiment, AttemptStarted)
    disks = {one.name for one in site.data()}
    assert len(disks) == 2
    names = [f"incl-{experiment}-a{attempt}-n{rank}" for rank, attempt in enumerate((1, 2, 1))]
    site.vms.mute = lambda name: name == names[1]
    site.cloud.switches.preempt(ZONE, f"incl-{experiment}-a1-n1")
    await until(lambda: site.vms.names == sorted(names), 15, what="the missing one is made")
    settled = AttemptSettled(experiment=experiment, attempt=1, points=0, lines=0, gaps=0)
    await site.platform.client.publish_event(settled, project="default", version=1)
    looks = site.cloud.faults.calls["instances.aggregatedList"]
    await until(lambda: site.cloud.faults.calls["instances.aggregatedList"] > looks + 15, 15, what="time goes by")
    assert {one.name for one in site.data()} == disks
    assert [len(one.users) for one in site.data()] == [3, 3]
    site.vms.mute = lambda _: False
    assigned: AttemptAssigned = await site.platform.event(experiment, AttemptAssigned, 2)
    assert assigned.machines is not None
    assert ([place.node for place in assigned.placements], assigned.machines.kept) == (names, 2)
    assert (await site.finished(experiment)).state is ExperimentState.FINISHED
    assert site.inserts == 2
    await site.empty()


async def test_machines_with_hyperdisk_ml_share_one_by_many(begin: Begin) -> None:
    site = await begin(data_idle_s=0.5)
    seen: list[Any] = []
    site.vms.script = lambda _: (seen.extend(site.data()), Script())[1]
    experiment = await site.submit("ct", "mr", instance="c3-standard-4", nodes=3)
    assert (await site.finished(experiment)).state is ExperimentState.FINISHED
    assert {(one.kind, one.body["accessMode"]) for one in seen} == {("hyperdisk-ml", "READ_ONLY_MANY")}
    assert len({one.name for one in seen}) == 2
    await site.empty()


async def test_more_readers_than_a_disk_can_have_get_another_one(begin: Begin) -> None:
    site = await begin(data_idle_s=1.0)
    site.vms.script = lambda _: Script(seconds=None)
    running = [await site.submit(nodes=6), await site.submit(nodes=4), await site.submit(nodes=1)]
    await until(lambda: len(site.vms.names) == 11, 20, what="all machines")
    assert site.inserts == 2
    assert sorted(len(one.users) for one in site.data()) in ([1, 10], [4, 7], [5, 6])
    for each in running:
        await site.platform.ask_stop(each)
        await site.finished(each)
    await site.empty()


async def test_a_snapshot_that_is_not_there_fails_it_with_the_next_step(begin: Begin) -> None:
    site = await begin()
    done = await site.platform.finished(await site.submit("nothing"))
    assert (done.state, done.attempts) == (ExperimentState.FAILED, 0)
    assert "there is no snapshot 'nothing'" in done.message
    assert "incl data ls" in done.message or "incl data ls" in done.hint
    assert site.inserts == 0
    await site.empty()


async def test_what_can_never_be_is_refused_at_submit(begin: Begin) -> None:
    site = await begin()
    for spec, says in (
        ({"nodes": 11}, "11 machines cannot read one pd-balanced disk"),
        ({"instance": "n4-standard-4"}, "cannot read a disk that others read too"),
        ({"instance": "e2-standard-4", "data": [{"scratch": "local-ssd"}]}, "scratch needs 1 local SSDs"),
    ):
        done = await site.platform.finished(await site.submit(**spec))
        assert (done.state, says in done.message) == (ExperimentState.FAILED, True), done.message


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "operation", "method": "disks.insert", "reason": "ZONE_RESOURCE_POOL_EXHAUSTED", "times": 1},
        {"kind": "cut", "method": "disks.insert", "effect": True, "times": 9},
        {"kind": "cut", "method": "disks.insert", "times": 2},
        {"kind": "error", "method": "disks.insert", "status": 503, "times": 2},
        {"kind": "error", "method": "snapshots.get", "status": 500, "times": 6},
        {"kind": "garbage", "method": "disks.insert", "effect": True, "times": 1},
    ],
)
async def test_a_disk_that_cannot_be_made_at_once_is_made_elsewhere_or_later(
    begin: Begin, fault: dict[str, Any]
) -> None:
    site = await begin(zones=(), regions=("us-central1",), data_idle_s=0.5)
    site.cloud.switches.fault(**fault)
    experiment = await site.submit()
    assert (await site.finished(experiment)).state is ExperimentState.FINISHED
    await site.empty()


async def test_a_quota_of_zero_is_told_and_heals(begin: Begin) -> None:
    site = await begin(data_idle_s=0.5)
    site.cloud.switches.quota("SSD_TOTAL_GB", 60, "us-central1")
    experiment = await site.submit()
    await site.told(experiment, "SSD_TOTAL_GB")
    assert site.data() == []
    await site.platform.ask_stop(experiment)
    await site.finished(experiment)
    await site.empty()


async def test_no_permission_fails_it(begin: Begin) -> None:
    site = await begin()
    site.cloud.switches.deny("compute.disks.create")
    done = await site.platform.finished(await site.submit())
    assert (done.state, "may not" in done.message) == (ExperimentState.FAILED, True), done.message
    await site.empty()


async def test_an_insert_that_hangs_holds_up_nobody_else_and_is_given_up(begin: Begin) -> None:
    site = await begin(zones=(), regions=("us-central1",), data_make_s=1.0, data_idle_s=0.5)
    site.cloud.switches.fault(kind="stuck", method="disks.insert", times=1)
    waits = await site.submit()
    await site.told(waits, "preparing data")
    other = await site.platform.submit(instance="n2-standard-4")
    assert (await site.finished(other)).state is ExperimentState.FINISHED
    assert (await site.finished(waits)).state is ExperimentState.FINISHED
    assert site.inserts == 2
    await site.empty()


async def test_a_disk_that_is_used_is_never_deleted_however_long_nobody_begins(begin: Begin) -> None:
    site = await begin(data_idle_s=0.1)
    site.vms.script = lambda _: Script(seconds=None)
    experiment = await site.submit()
    await until(lambda: bool(site.vms.agents), 15, what="it is let in")
    (disk,) = site.data()
    before = site.cloud.faults.calls["disks.aggregatedList"]
    await until(lambda: site.cloud.faults.calls["disks.aggregatedList"] > before + 20, 15, what="many looks")
    assert site.data() == [disk]
    assert site.cloud.faults.calls["disks.delete"] == 0
    await site.platform.ask_stop(experiment)
    await site.finished(experiment)
    await site.empty()


async def test_what_is_nobodys_goes_and_what_was_deleted_by_hand_is_made_again(begin: Begin) -> None:
    site = await begin(data_idle_s=60.0)
    assert (await site.finished(await site.submit())).state is ExperimentState.FINISHED
    await until(lambda: not site.vms.names, 15, what="no machine")
    (disk,) = site.data()
    stray = type(disk)(disk.project, disk.zone, "incl-data-0123456789abcdef-7", 7, {**disk.body, "users": []})
    stray.body["name"] = stray.name
    site.cloud.state.disks[disk.zone, stray.name] = stray
    await until(lambda: site.data() == [disk], 15, what="the stray one is deleted")
    del site.cloud.state.disks[disk.zone, disk.name]
    await until(lambda: not site.keeper._rows[disk.name].live, 15, what="it is seen that it is gone")
    assert (await site.finished(await site.submit())).state is ExperimentState.FINISHED
    assert site.inserts == 2
    assert len(site.data()) == 1


async def test_a_snapshot_that_was_made_anew_is_another_disk(begin: Begin) -> None:
    site = await begin(data_idle_s=60.0)
    await site.finished(await site.submit())
    site.cloud.switches.snapshot("ct", 120)
    site.keeper._snapshots.clear()
    await site.finished(await site.submit())
    assert sorted(one.body["sizeGb"] for one in site.data()) == ["100", "120"]


async def test_prepare_list_and_remove(begin: Begin) -> None:
    site = await begin(data_idle_s=60.0)

    async def ask(query: Any, project: str = "default") -> Any:
        return await site.platform.client.ask(query, project=project, user="ann")

    made = await ask(PrepareData(snapshot="ct", zone=ZONE, instance="n2-standard-4"))
    assert (made.phase, made.kind, made.zone) == ("planned", "pd-balanced", ZONE)
    assert (await ask(PrepareData(snapshot="ct", zone=ZONE, instance="n2-standard-4"))).name == made.name

    async def ready() -> Any:
        found: DataDisks = await ask(GetData())
        return next((each for each in found.disks if each.phase == "ready"), None)

    disk = await until(ready, 15, what="it is ready")
    assert (disk.name, disk.gib, disk.month, disk.currency) == (made.name, 100, 10.0, "USD")
    assert {each.name for each in (await ask(GetData())).snapshots} == {"ct", "mr"}
    site.vms.script = lambda _: Script(seconds=None)
    experiment = await site.submit(nodes=2)
    await until(lambda: len(site.vms.agents) == 2, 15, what="both are let in")
    assert site.inserts == 1, "what was prepared is used"
    used = await ready()
    assert (used.experiments, used.machines, used.others) == ((experiment,), 2, 0)
    other = next(each for each in (await ask(GetData(), "vision")).disks if each.phase == "ready")
    assert (other.experiments, other.others) == ((), 1)
    with pytest.raises(ConflictError, match="is used by"):
        await ask(RemoveData(snapshot="ct"))
    await site.platform.ask_stop(experiment)
    await site.finished(experiment)
    await until(lambda: not site.vms.names, 15, what="no machine")

    async def unused() -> bool:
        return (await ready()).machines == 0

    await until(unused, 15, what="nobody has it")
    gone = await ask(RemoveData(snapshot="ct", zone=ZONE))
    assert [each.phase for each in gone.disks] == ["ending"]
    await site.empty()

    async def forgotten() -> bool:
        return not (await ask(GetData())).disks

    await until(forgotten, 15, what="its row is closed")
    with pytest.raises(NotFoundError, match="no disk of ct"):
        await ask(RemoveData(snapshot="ct"))


async def test_what_cannot_be_prepared_is_told(begin: Begin) -> None:
    site = await begin()

    async def prepare(**given: Any) -> Any:
        query = PrepareData(**{"snapshot": "ct", "zone": ZONE, "instance": "n2-standard-4", **given})
        return await site.platform.client.ask(query, project="default", user="ann")

    with pytest.raises(NotFoundError, match="no snapshot 'none'"):
        await prepare(snapshot="none")
    for given, says in (
        ({"zone": "us-central1-q"}, "us-central1-q"),
        ({"zone": "europe-west4-a"}, "not among those that this platform may use"),
        ({"instance": "n4-standard-4"}, "cannot read a disk"),
        ({"instance": "nothing"}, "there is no instance"),
    ):
        with pytest.raises(InvalidInput, match=says):
            await prepare(**given)
    site.cloud.switches.fault(kind="operation", method="disks.insert", reason="ZONE_RESOURCE_POOL_EXHAUSTED", times=1)
    await prepare()

    async def told() -> Any:
        found = await site.platform.client.ask(GetData(), project="default", user="ann")
        return next((each for each in found.disks if each.phase == "gone" and each.trouble), None)

    assert "free now" in (await until(told, 15, what="why it could not be made")).trouble
    site.cloud.switches.fault(kind="hang", method="snapshots.list", times=9)
    listed = await site.platform.client.ask(GetData(), project="default", user="ann", timeout=10)
    assert (listed.snapshots, listed.trouble) == ((), "the provider does not answer")
