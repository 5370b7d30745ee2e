"""Disks, snapshots, catalogue and advice."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from incl_provisioner.catalog import packaged_machines
from incl_provisioner.fakes.gce.catalog import MACHINE_TYPES

from .conftest import IMAGE, PROJECT, REGION, ZONE, Cloud


def disk(cloud: Cloud, name: str = "data", **more: Any) -> Any:
    """The operation of a disk's insert."""
    more.setdefault("type_", f"zones/{ZONE}/diskTypes/pd-standard")
    body = {"name": name, "size_gb": 20, "labels": {"incl": "x"}, **more}
    return cloud.disks.insert_unary(project=PROJECT, zone=ZONE, disk_resource=body, timeout=10, retry=None)


def test_disks(cloud: Cloud) -> None:
    assert not cloud.done(disk(cloud)).error.errors
    with pytest.raises(exceptions.Conflict):
        disk(cloud)
    found = cloud.disks.get(project=PROJECT, zone=ZONE, disk="data", timeout=10)
    assert (found.status, found.size_gb, found.labels) == ("READY", 20, {"incl": "x"})
    where = {"project": PROJECT, "zone": ZONE, "timeout": 10}
    labels = {"labels": {"incl": "y"}, "label_fingerprint": found.label_fingerprint}
    cloud.done(cloud.disks.set_labels_unary(resource="data", zone_set_labels_request_resource=labels, **where))
    request = compute_v1.ListDisksRequest(project=PROJECT, zone=ZONE, filter="labels.incl=y")
    assert [one.name for one in cloud.disks.list(request, timeout=10)] == ["data"]
    cloud.done(cloud.disks.delete_unary(disk="data", **where))
    with pytest.raises(exceptions.NotFound):
        cloud.disks.get(project=PROJECT, zone=ZONE, disk="data", timeout=10)


def test_a_disk_of_a_snapshot_is_attached_to_many_for_reading(cloud: Cloud) -> None:
    cloud.switch("snapshot", "chest-ct-v3", 300)
    snapshots = cloud.client("SnapshotsClient")
    assert snapshots.get(project=PROJECT, snapshot="chest-ct-v3", timeout=10).disk_size_gb == 300
    assert [one.name for one in snapshots.list(project=PROJECT, timeout=10)] == ["chest-ct-v3"]
    made = {"source_snapshot": "global/snapshots/chest-ct-v3", "type_": f"zones/{ZONE}/diskTypes/pd-balanced"}
    for wrong, says in (
        ({"size_gb": 20}, "smaller than the snapshot"),
        ({"access_mode": "READ_ONLY_MANY"}, "cannot be"),
    ):
        with pytest.raises(exceptions.BadRequest, match=says):
            disk(cloud, **{**made, "size_gb": 300, **wrong})
    cloud.done(disk(cloud, **made, size_gb=300))
    boot = {"boot": True, "auto_delete": True, "initialize_params": {"source_image": IMAGE}}
    data = {"source": f"zones/{ZONE}/disks/data", "mode": "READ_ONLY"}
    for name in ("vm-1", "vm-2"):
        cloud.made(name=name, disks=[boot, data])
    found = cloud.disks.get(project=PROJECT, zone=ZONE, disk="data", timeout=10)
    assert (found.size_gb, len(found.users)) == (300, 2)
    with pytest.raises(exceptions.BadRequest) as error:
        cloud.disks.delete_unary(project=PROJECT, zone=ZONE, disk="data", timeout=10)
    assert error.value.errors[0]["reason"] == "resourceInUseByAnotherResource"
    operation = cloud.done(cloud.insert(name="vm-3", disks=[boot, {**data, "mode": "READ_WRITE"}]))
    assert [one.code for one in operation.error.errors] == ["RESOURCE_IN_USE_BY_ANOTHER_RESOURCE"]
    for name in ("vm-1", "vm-2"):
        cloud.done(cloud.delete(name))
    cloud.done(cloud.disks.delete_unary(project=PROJECT, zone=ZONE, disk="data", timeout=10))
    with pytest.raises(exceptions.NotFound):
        disk(cloud, "other", source_snapshot="global/snapshots/nothing")


def test_so_many_vms_read_a_disk_and_no_more(cloud: Cloud) -> None:
    cloud.switch("snapshot", "ct", 300)
    where = f"zones/{ZONE}/diskTypes/"
    made = {"source_snapshot": "global/snapshots/ct", "size_gb": 300}
    cloud.done(disk(cloud, "plain", **made, type_=f"{where}pd-balanced"))
    cloud.done(disk(cloud, "fast", **made, type_=f"{where}hyperdisk-ml", access_mode="READ_ONLY_MANY"))
    boot = {"boot": True, "auto_delete": True, "initialize_params": {"source_image": IMAGE}}

    def insert(name: str, source: str, machine: str, mode: str = "READ_ONLY") -> list[str]:
        data = {"source": f"zones/{ZONE}/disks/{source}", "mode": mode, "device_name": "incl-data-0"}
        return [
            one.code for one in cloud.done(cloud.insert(name=name, machine=machine, disks=[boot, data])).error.errors
        ]

    for index in range(10):
        assert insert(f"vm-{index}", "plain", "n2-standard-2") == []
    assert insert("vm-10", "plain", "n2-standard-2") == ["LIMIT_EXCEEDED"]
    assert insert("slow", "fast", "n2-standard-2") == ["UNSUPPORTED_OPERATION"]
    assert insert("writer", "fast", "c3-standard-4", "READ_WRITE") == ["UNSUPPORTED_OPERATION"]
    for index in range(12):
        assert insert(f"c-{index}", "fast", "c3-standard-4") == []


def test_a_snapshot_of_a_disk(cloud: Cloud) -> None:
    cloud.done(disk(cloud))
    body = {"name": "later"}
    cloud.done(
        cloud.disks.create_snapshot_unary(project=PROJECT, zone=ZONE, disk="data", snapshot_resource=body, timeout=10)
    )
    assert cloud.client("SnapshotsClient").get(project=PROJECT, snapshot="later", timeout=10).disk_size_gb == 20


def test_zones_machine_types_accelerators_and_images(cloud: Cloud) -> None:
    zones = {one.name: one.status for one in cloud.client("ZonesClient").list(project=PROJECT, timeout=10)}
    assert zones[ZONE] == "UP"
    regions = list(cloud.client("RegionsClient").list(project=PROJECT, timeout=10))
    assert f"zones/{ZONE}" in next(one for one in regions if one.name == REGION).zones[0]
    machines = cloud.client("MachineTypesClient")
    a2 = machines.get(project=PROJECT, zone=ZONE, machine_type="a2-highgpu-2g", timeout=10)
    assert (a2.guest_cpus, a2.accelerators[0].guest_accelerator_type) == (24, "nvidia-tesla-a100")
    names = {one.name for one in machines.list(project=PROJECT, zone="us-west1-a", timeout=10)}
    assert "n2-standard-8" in names
    assert "a3-highgpu-8g" not in names
    with pytest.raises(exceptions.NotFound):
        machines.get(project=PROJECT, zone="us-west1-a", machine_type="a3-highgpu-8g", timeout=10)
    accelerators = cloud.client("AcceleratorTypesClient")
    kinds = {one.name for one in accelerators.list(project=PROJECT, zone=ZONE, timeout=10)}
    assert {"nvidia-tesla-t4", "nvidia-h100-80gb"} <= kinds
    images = cloud.client("ImagesClient")
    newest = images.get_from_family(project="debian-cloud", family="debian-12", timeout=10)
    assert newest.name.startswith("debian-12-bookworm")
    assert images.get(project="debian-cloud", image=newest.name, timeout=10).family == "debian-12"
    with pytest.raises(exceptions.NotFound):
        images.get_from_family(project="debian-cloud", family="debian-3", timeout=10)


def capacity(cloud: Cloud, size: int = 1, region: str = REGION) -> Any:
    """The first recommendation."""
    body = {
        "size": size,
        "instance_properties": {"scheduling": {"provisioning_model": "SPOT"}},
        "instance_flexibility_policy": {"instance_selections": {"any": {"machine_types": ["g2-standard-8"]}}},
        "distribution_policy": {"target_shape": "ANY_SINGLE_ZONE"},
    }
    client = cloud.client("AdviceClient")
    return client.capacity(
        project=PROJECT, region=region, capacity_advice_request_resource=body, timeout=10
    ).recommendations[0]


def test_advice_where_spot_can_be_had(cloud: Cloud) -> None:
    cloud.switch("advice", "us-central1-c", obtainability=0.97, uptime=90_000)
    found = capacity(cloud, 4)
    assert (found.scores.obtainability, found.scores.estimated_uptime) == (0.97, "90000s")
    assert found.shards[0].zone.endswith("/us-central1-c")
    assert found.shards[0].instance_count == 4
    cloud.switch("stockout", "us-central1-c")
    assert found.shards[0].zone != capacity(cloud).shards[0].zone
    cloud.switch("stockout", "us-central1-*")
    assert capacity(cloud).scores.obtainability == 0
    with pytest.raises(exceptions.BadRequest, match="Unknown region"):
        capacity(cloud, region="mars-central1")


def history(cloud: Cloud, model: str = "SPOT") -> Any:
    """Preemptions and prices of one zone."""
    body = {
        "instance_properties": {"machine_type": "g2-standard-8", "scheduling": {"provisioning_model": model}},
        "location_policy": {"location": f"zones/{ZONE}"},
        "types": ["PREEMPTION", "PRICE"],
    }
    client = cloud.client("AdviceClient")
    return client.capacity_history(project=PROJECT, region=REGION, capacity_history_request_resource=body, timeout=10)


def test_history_of_preemptions_and_prices(cloud: Cloud) -> None:
    cloud.switch("advice", ZONE, "g2-standard-8", rates=[0.1, 0.4], price=0.34)
    found = history(cloud)
    assert (found.location, found.machine_type) == (ZONE, "g2-standard-8")
    assert [one.preemption_rate for one in found.preemption_history] == [0.1, 0.4]
    assert found.preemption_history[0].interval.end_time == found.preemption_history[1].interval.start_time
    assert found.price_history[0].list_price.nanos == 340_000_000
    with pytest.raises(exceptions.BadRequest, match="SPOT"):
        history(cloud, "STANDARD")


def test_the_cloud_has_every_machine_of_the_platforms_table() -> None:
    """As large, too: what brings GPUs is written down twice."""
    for name, machine in packaged_machines("gce").machines.items():
        made = MACHINE_TYPES[name]
        gpu = (machine.gpu.name, machine.gpus) if machine.gpu is not None else ("", 0)
        assert (made.cpus, made.memory_mb, made.gpu, made.gpus) == (machine.cores, machine.memory >> 20, *gpu), name
        if not all(disk.startswith("hyperdisk") for disk in machine.boot_disks):
            assert not made.hyperdisk, name
