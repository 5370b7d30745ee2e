"""The port over google-cloud-compute, against the fake cloud: what it gives, what it raises, what it tries again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from incl_provisioner.backends.gce.calls import Calls, Limits
from incl_provisioner.backends.gce.client import open_compute
from incl_provisioner.backends.gce.port import CloudFailure, Compute, DiskOrder, Operation, Order
from incl_provisioner.domain.cloud.errors import Meaning, Scope
from incl_provisioner.domain.cloud.names import Owner, Place, label_filter, labels, machine_name, request_id
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.fakes.gce import CloudSettings, FakeCloud, Pace
from incl_provisioner.fakes.gce.direct import DirectCompute
from incl_shared.clock import SystemClock
from incl_shared.ids import new_id
from incl_shared.testing.wait import until

from .conftest import PROJECT, REGION, ZONE, Cloud, Serve

QUICK = Limits(per_s=1000, read_s=2, write_s=2, tries=3, first_s=0.01, longest_s=0.02)
EXPERIMENT = new_id()
OWNER = Owner("platform1", "default", "ada", Place(EXPERIMENT, 1, 0))
ORDER = Order(
    machine="e2-standard-4", image=Image("debian-cloud", "debian-12"), disks=[Disk("pd-balanced", 20)],
    labels=labels(OWNER), metadata={"enable-guest-attributes": "TRUE", "startup-script": "echo hello"}, spot=True,
    longest_s=3600,
)  # fmt: skip
MINE = label_filter("platform1")
Open = Callable[..., Any]


class Here:
    """A cloud in the loop of the test, with the same handles as `Cloud`."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.inside = cloud
        self.running = self

    def do(self, work: Callable[[FakeCloud], Any]) -> Any:
        """Look inside."""
        return work(self.inside)

    def switch(self, name: str, *given: Any, **more: Any) -> Any:
        """Use a switch."""
        return getattr(self.inside.switches, name)(*given, **more)

    def names(self) -> list[str]:
        """Every VM."""
        return sorted(one["name"] for one in self.inside.switches.summary()["instances"])


@pytest.fixture(params=["library", "direct"])
async def cloud(request: pytest.FixtureRequest) -> AsyncIterator[Cloud | Here]:
    """A cloud for google-cloud-compute over HTTP, or one for the port in the same loop."""
    if request.param == "library":
        yield request.getfixturevalue("serve")()
        return
    inside = FakeCloud(CloudSettings(vms="none"))
    yield Here(inside)
    await inside.stop()
    assert inside.operations.failures == 0


@pytest.fixture
async def open_(cloud: Cloud | Here) -> AsyncIterator[Open]:
    """Opens the port on the cloud: await open_(limits)."""
    made: list[Compute] = []

    async def make(limits: Limits = QUICK, project: str = PROJECT) -> Compute:
        if isinstance(cloud, Here):
            made.append(DirectCompute(cloud.inside, Calls(limits, SystemClock()), project))
        else:
            made.append(await open_compute(project, SystemClock(), endpoint=cloud.running.url, limits=limits))
        return made[-1]

    yield make
    for one in made:
        await one.close()


@pytest.fixture
async def compute(open_: Open) -> Any:
    """The port, impatient."""
    return await open_()


def name(rank: int = 0) -> str:
    """Of a VM."""
    return machine_name(Place(EXPERIMENT, 1, rank))


def fresh() -> str:
    """A request id."""
    return str(uuid.uuid4())


async def ended(compute: Any, operation: Operation | None) -> Operation:
    """The operation once it is done."""
    assert operation is not None
    where, what = operation.scope, operation.name

    async def done() -> Operation | None:
        found = await compute.operation(where, what)
        return found if found is not None and found.done else None

    found = await until(done)
    assert found is not None
    return found


async def made(compute: Any, rank: int = 0, zone: str = ZONE, **more: Any) -> None:
    """A VM that runs."""
    operation = await ended(compute, await compute.insert(name(rank), zone, replace(ORDER, **more), fresh()))
    assert operation.verdict is None, operation.verdict


async def test_a_vm_is_made_seen_and_deleted(compute: Any, cloud: Cloud) -> None:
    assert await compute.vm(ZONE, name()) is None
    operation = await compute.insert(name(), ZONE, ORDER, fresh())
    assert (operation.scope, operation.kind, operation.target) == (f"zones/{ZONE}", "insert", name())
    finished = await ended(compute, operation)
    assert finished.begun is not None
    vm = await compute.vm(ZONE, name())
    assert vm is not None
    assert (vm.id, vm.status, vm.spot, vm.machine) == (finished.target_id, "RUNNING", True, "e2-standard-4")
    assert vm.labels == ORDER.labels
    assert vm.created is not None
    assert vm.ends == pytest.approx(vm.created + 3600, abs=5)
    disks = await compute.disks(MINE)
    assert [(one.name, one.users, one.gib, one.labels) for one in disks.items] == [
        (name(), (name(),), 20, ORDER.labels)
    ]
    await ended(compute, await compute.delete_vm(ZONE, name(), fresh()))
    assert await compute.vm(ZONE, name()) is None
    assert (await compute.disks(MINE)).items == ()
    assert await compute.delete_vm(ZONE, name(), fresh()) is None
    assert await compute.delete_disk(ZONE, name(), fresh()) is None
    assert cloud.running.do(lambda c: c.faults.calls["instances.insert"]) == 1


async def test_the_body_says_what_the_order_says(compute: Any, cloud: Cloud) -> None:
    order = replace(
        ORDER, machine="n1-standard-8", guest=("nvidia-tesla-t4", 2), scratch=1, network="projects/x/global/networks/n",
        subnetwork=f"regions/{REGION}/subnetworks/s", service_account="worker@x.iam.gserviceaccount.com",
        scopes=["https://www.googleapis.com/auth/devstorage.read_only"], external_ip=True, notice_s=120,
    )  # fmt: skip
    await ended(compute, await compute.insert(name(), ZONE, order, fresh()))
    body = cloud.running.do(lambda c: c.state.instances[ZONE, name()].body)
    assert body["guestAccelerators"][0]["acceleratorCount"] == 2
    assert [one["type"] for one in body["disks"]] == ["PERSISTENT", "SCRATCH"]
    assert body["networkInterfaces"][0]["subnetwork"].endswith("/subnetworks/s")
    assert body["networkInterfaces"][0]["accessConfigs"][0]["type"] == "ONE_TO_ONE_NAT"
    assert body["serviceAccounts"] == [{
        "email": "worker@x.iam.gserviceaccount.com", "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"],
    }]  # fmt: skip
    scheduling = body["scheduling"]
    assert (scheduling["provisioningModel"], scheduling["instanceTerminationAction"]) == ("SPOT", "DELETE")
    assert int(scheduling["preemptionNoticeDuration"]["seconds"]) == 120
    assert int(scheduling["maxRunDuration"]["seconds"]) == 3600
    await made(compute, 1, spot=False)
    plain = cloud.running.do(lambda c: c.state.instances[ZONE, name(1)].body)["scheduling"]
    assert (plain["provisioningModel"], plain["onHostMaintenance"], plain["automaticRestart"]) == (
        "STANDARD", "MIGRATE", False,
    )  # fmt: skip


async def test_a_disk_of_a_snapshot_is_made_once_and_read_by_a_gang(compute: Any, cloud: Cloud) -> None:
    cloud.switch("snapshot", "ct", 300)
    assert [(one.name, one.gib, one.ready) for one in await compute.snapshots()] == [("ct", 300, True)]
    found = await compute.snapshot("ct")
    assert found == (await compute.snapshots())[0]
    assert await compute.snapshot("nothing") is None
    wanted = DiskOrder("incl-data-1", ZONE, "hyperdisk-ml", 300, "ct", ORDER.labels, shared=True)
    request = fresh()
    operation = await compute.insert_disk(wanted, request)
    assert (operation.scope, operation.kind, operation.target) == (f"zones/{ZONE}", "insert", "incl-data-1")
    await ended(compute, operation)
    assert await compute.insert_disk(wanted, request) == await compute.operation(operation.scope, operation.name)
    body = cloud.running.do(lambda c: c.state.disks[ZONE, "incl-data-1"].body)
    assert (body["accessMode"], body["sourceSnapshotId"], body["sizeGb"]) == ("READ_ONLY_MANY", str(found.id), "300")
    cloud.switch("prefer", ZONE)
    order = replace(ORDER, machine="c3-standard-4", data_disks=("incl-data-1",), scratch=1)
    await ended(compute, await compute.insert_gang([name(0), name(1)], REGION, [ZONE], order, fresh()))
    (seen,) = [one for one in (await compute.disks(MINE)).items if one.name == "incl-data-1"]
    assert (sorted(seen.users), seen.status, seen.gib) == ([name(0), name(1)], "READY", 300)
    shown = cloud.running.do(lambda c: c.state.instances[ZONE, name(1)].body["disks"])
    assert [(one["type"], one["mode"], one["deviceName"]) for one in shown][1:] == [
        ("SCRATCH", "READ_WRITE", "persistent-disk-1"), ("PERSISTENT", "READ_ONLY", "incl-data-0"),
    ]  # fmt: skip
    with pytest.raises(CloudFailure, match="already being used"):
        await compute.delete_disk(ZONE, "incl-data-1", fresh())
    for rank in (0, 1):
        await ended(compute, await compute.delete_vm(ZONE, name(rank), fresh()))
    (seen,) = (await compute.disks(MINE)).items
    assert seen.users == ()
    await ended(compute, await compute.delete_disk(ZONE, "incl-data-1", fresh()))
    single = replace(order, machine="n2-standard-2", data_disks=("incl-data-2",), scratch=0)
    await ended(
        compute,
        await compute.insert_disk(replace(wanted, name="incl-data-2", kind="pd-balanced", shared=False), fresh()),
    )
    await ended(compute, await compute.insert(name(), ZONE, single, fresh()))
    (seen,) = [one for one in (await compute.disks(MINE)).items if one.name == "incl-data-2"]
    assert seen.users == (name(),)


async def test_a_gang_is_made_in_one_zone_that_has_room(compute: Any, cloud: Cloud) -> None:
    cloud.switch("capacity", 2, "us-central1-b")
    names = [name(rank) for rank in range(3)]
    operation = await compute.insert_gang(names, REGION, {"us-central1-b", "us-central1-c"}, ORDER, fresh())
    assert operation.scope == f"regions/{REGION}"
    finished = await ended(compute, operation)
    assert finished.verdict is None
    listing = await compute.vms(MINE)
    assert sorted(vm.name for vm in listing.items) == names
    assert {vm.zone for vm in listing.items} == {"us-central1-c"}
    parts = await compute.operations("zones/us-central1-c", kind="insert", group=finished.group)
    assert sorted(one.target for one in parts) == names


async def test_a_gang_that_does_not_fit_is_no_gang(compute: Any, cloud: Cloud) -> None:
    cloud.switch("capacity", 1, "us-central1-*")
    names = [name(rank) for rank in range(2)]
    with pytest.raises(CloudFailure) as error:
        await compute.insert_gang(names, REGION, {"us-central1-b"}, ORDER, fresh())
    assert (error.value.verdict.meaning, error.value.status) == (Meaning.NEXT_ZONE, 503)
    assert compute.calls.made["regionInstances.bulkInsert"] == 1
    cloud.switch("stockout_form", bulk="operation")
    finished = await ended(compute, await compute.insert_gang(names, REGION, {"us-central1-b"}, ORDER, fresh()))
    assert finished.verdict is not None
    assert finished.verdict.meaning is Meaning.NEXT_ZONE
    assert (await compute.vms(MINE)).items == ()


@pytest.mark.parametrize(
    ("switch", "meaning", "scope"),
    [
        (("stockout", ZONE), Meaning.NEXT_ZONE, Scope.ZONE),
        (("quota", "CPUS", 0, REGION), Meaning.QUOTA, Scope.REGION),
        (("quota", "CPUS_ALL_REGIONS", 0), Meaning.QUOTA, Scope.EVERYWHERE),
    ],
)
async def test_an_operation_says_what_its_error_means(
    compute: Any, cloud: Cloud, switch: tuple[Any, ...], meaning: Meaning, scope: Scope
) -> None:
    cloud.switch(*switch)
    finished = await ended(compute, await compute.insert(name(), ZONE, ORDER, fresh()))
    assert finished.failed
    assert finished.verdict is not None
    assert (finished.verdict.meaning, finished.verdict.scope) == (meaning, scope)
    assert await compute.vm(ZONE, name()) is None


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        ({"kind": "cut"}, Meaning.TRANSIENT),
        ({"kind": "cut", "effect": True}, Meaning.TRANSIENT),
        ({"kind": "garbage", "effect": True}, Meaning.TRANSIENT),
        ({"kind": "partial"}, Meaning.TRANSIENT),
        ({"kind": "error", "status": 500}, Meaning.TRANSIENT),
        ({"kind": "error", "status": 502, "effect": True}, Meaning.TRANSIENT),
        ({"kind": "error", "status": 429, "reason": "rateLimitExceeded"}, Meaning.BACK_OFF),
        ({"kind": "error", "status": 403, "reason": "rateLimitExceeded"}, Meaning.BACK_OFF),
        ({"kind": "hang", "effect": True}, Meaning.TRANSIENT),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
async def test_what_passes_is_tried_again_and_makes_one_vm(
    open_: Open, cloud: Cloud, fault: dict[str, Any], meaning: Meaning
) -> None:
    compute = await open_(replace(QUICK, write_s=0.3))
    await compute.image(ORDER.image)
    cloud.switch("fault", method="instances.insert", times=2, **fault)
    same = request_id("platform1", OWNER.place, "insert", ZONE)
    finished = await ended(compute, await compute.insert(name(), ZONE, ORDER, same))
    assert finished.verdict is None
    assert cloud.names() == [name()]
    assert compute.calls.made["instances.insert"] == 3
    cloud.switch("fault", method="instances.get", times=None, **{**fault, "kind": fault["kind"]})
    with pytest.raises(CloudFailure) as error:
        await open_and_get(open_)
    assert error.value.verdict.meaning is meaning


async def open_and_get(open_: Open) -> None:
    """Ask for a VM, with little patience."""
    compute = await open_(replace(QUICK, read_s=0.2, tries=2))
    await compute.vm(ZONE, name())


async def test_a_call_without_an_answer_is_found_by_its_request_id(open_: Open, cloud: Cloud) -> None:
    compute = await open_(replace(QUICK, tries=1))
    received, lost = fresh(), fresh()
    for effect, request in ((True, received), (False, lost)):
        cloud.switch("fault", kind="cut", method="regionInstances.bulkInsert", effect=effect)
        with pytest.raises(CloudFailure) as error:
            await compute.insert_gang([name()], REGION, {ZONE}, ORDER, request)
        assert error.value.verdict.unknown_effect
    found = await compute.operations(f"regions/{REGION}", kind="bulkInsert", request_id=received)
    assert [one.kind for one in found] == ["bulkInsert"]
    assert await compute.operations(f"regions/{REGION}", request_id=lost) == []


async def test_what_does_not_pass_is_not_tried_again(compute: Any, cloud: Cloud) -> None:
    cloud.switch("deny", "compute.instances.*")
    with pytest.raises(CloudFailure) as error:
        await compute.insert(name(), ZONE, ORDER, fresh())
    assert (error.value.verdict.meaning, error.value.verdict.waits) == (Meaning.PERMISSION, False)
    cloud.switch("clear")
    with pytest.raises(CloudFailure) as error:
        await compute.insert(name(), ZONE, replace(ORDER, image=Image("debian-cloud", "debian-3")), fresh())
    assert error.value.verdict.meaning in (Meaning.BAD_REQUEST, Meaning.CLEAN_UP)
    cloud.switch("expire")
    with pytest.raises(CloudFailure) as error:
        await compute.vm(ZONE, name())
    assert error.value.verdict.meaning is Meaning.CREDENTIALS
    assert compute.calls.made["instances.get"] == 1


async def test_a_name_that_is_taken_is_to_be_looked_at(compute: Any) -> None:
    await made(compute)
    with pytest.raises(CloudFailure) as error:
        await compute.insert(name(), ZONE, ORDER, fresh())
    assert error.value.verdict.meaning is Meaning.ADOPT


async def test_only_the_thing_itself_can_be_gone(compute: Any, open_: Open, cloud: Cloud) -> None:
    assert await compute.operation(f"zones/{ZONE}", "operation-1") is None
    with pytest.raises(CloudFailure):
        await compute.vm("us-central1-z", name())
    other = await open_(project="another")
    with pytest.raises(CloudFailure) as error:
        await other.vm(ZONE, name())
    assert error.value.verdict.meaning is Meaning.BAD_REQUEST


async def test_lists_are_whole_and_say_which_zones_did_not_answer(compute: Any, cloud: Cloud) -> None:
    zones = ["us-central1-a", "us-central1-b", "europe-west4-a"]
    for rank, zone in enumerate(zones):
        await made(compute, rank, zone)
    await made(compute, 3, labels={"incl-platform": "another"})
    listing = await compute.vms(MINE)
    assert sorted(vm.zone for vm in listing.items) == sorted(zones)
    assert listing.unreachable == frozenset()
    cloud.switch("unreachable", "europe-west4-a")
    listing = await compute.vms(MINE)
    assert {vm.zone for vm in listing.items} == {"us-central1-a", "us-central1-b"}
    assert listing.unreachable == {"europe-west4-a"}
    assert (await compute.disks(MINE)).unreachable == {"europe-west4-a"}


async def test_long_lists_come_in_pages(compute: Any, cloud: Cloud) -> None:
    names = [name(rank) for rank in range(520)]
    await ended(compute, await compute.insert_gang(names, REGION, {ZONE}, ORDER, fresh()))
    listing = await compute.vms(MINE)
    assert len(listing.items) == 520
    assert compute.calls.made["instances.aggregatedList"] == 2
    assert len(await compute.operations(f"zones/{ZONE}", kind="insert")) == 520


async def test_preemptions_are_operations_of_the_zone(compute: Any, cloud: Cloud) -> None:
    await made(compute)
    vm = await compute.vm(ZONE, name())
    assert vm is not None
    cloud.switch("preempt", ZONE, name())
    kind = "compute.instances.preempted"
    found = await until(lambda: compute.operations(f"zones/{ZONE}", kind=kind))
    assert [(one.target_id, one.target, one.done) for one in found] == [(vm.id, name(), True)]


async def test_console_and_guest_attributes(serve: Serve) -> None:
    cloud = serve(vms="groups", pace=Pace(spot_grace=1))
    compute = await open_compute(PROJECT, SystemClock(), endpoint=cloud.running.url, limits=QUICK)
    try:
        await made(compute)
        assert await compute.guest_attributes(ZONE, name(), "incl") == {}
        cloud.running.do(lambda c: c.state.instances[ZONE, name()].guest.update({("incl", "phase"): "booted"}))
        assert await compute.guest_attributes(ZONE, name(), "incl") == {"phase": "booted"}

        async def hello() -> bool:
            said = await compute.serial(ZONE, name())
            return said is not None and "startup-script: hello" in said.text

        await until(hello)
        said = await compute.serial(ZONE, name())
        assert said is not None
        rest = await compute.serial(ZONE, name(), said.next)
        assert rest is not None
        assert (rest.text, rest.next) == ("", said.next)
        assert await compute.serial(ZONE, name(9)) is None
    finally:
        await compute.close()


async def test_advice_image_and_quotas(compute: Any, cloud: Cloud) -> None:
    cloud.switch("advice", "us-central1-a", obtainability=0.8, uptime=7200)
    cloud.switch("stockout", "us-central1-b")
    zones = ["us-central1-a", "us-central1-b"]
    said = await compute.advice(REGION, "e2-standard-4", zones, 2, spot=True)
    assert (said["us-central1-a"].obtainability, said["us-central1-a"].rate) == (0.8, 0.5)
    assert said["us-central1-b"].obtainability == 0
    first, again = await asyncio.gather(compute.image(ORDER.image), compute.image(ORDER.image))
    assert first == again
    assert first.startswith("projects/debian-cloud/global/images/debian-12-bookworm")
    assert await compute.image(ORDER.image) == first
    assert compute.calls.made["images.getFromFamily"] == 1
    await made(compute)
    assert (await compute.quotas(REGION))["CPUS"] == (4000.0, 4.0)


async def test_calls_keep_their_pace(open_: Open) -> None:
    compute = await open_(replace(QUICK, per_s=20))
    begin = asyncio.get_running_loop().time()
    await asyncio.gather(*(compute.vm(ZONE, name(rank)) for rank in range(7)))
    assert asyncio.get_running_loop().time() - begin >= 0.29


async def test_a_fault_of_ours_is_no_failure_of_the_cloud(serve: Serve) -> None:
    compute = await open_compute(PROJECT, SystemClock(), endpoint=serve().running.url, limits=QUICK)
    with pytest.raises(TypeError):
        await compute.insert(name(), ZONE, replace(ORDER, labels={"a": object()}), fresh())  # type: ignore[dict-item]
    await compute.close()
