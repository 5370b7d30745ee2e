"""One VM at a time: operations, request ids, names, labels, lists, errors as the real client raises them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from incl_provisioner.fakes.gce import Pace
from incl_shared.testing.wait import until_sync

from .conftest import IMAGE, PROJECT, ZONE, Cloud, Serve


def reason(error: Any) -> str:
    """The reason in the error that the client raised."""
    return str(error.value.errors[0]["reason"])


def test_an_operation_goes_from_pending_to_done_and_the_vm_runs(serve: Serve) -> None:
    cloud = serve(pace=Pace(pending=0.2, create=0.2))
    operation = cloud.insert()
    assert operation.status == compute_v1.Operation.Status.PENDING
    assert (operation.operation_type, operation.progress) == ("insert", 0)
    with pytest.raises(exceptions.NotFound):
        cloud.get()
    done = cloud.done(operation)
    assert done.id == operation.id > 2**53
    assert done.end_time
    made = cloud.get()
    assert made.status == "RUNNING"
    assert made.id == done.target_id > 2**53
    assert made.labels == {"incl": "x"}
    assert made.disks[0].source.endswith("/disks/vm-1")
    polled = cloud.zone_operations.get(project=PROJECT, zone=ZONE, operation=operation.name, timeout=10)
    assert polled.status == compute_v1.Operation.Status.DONE


def test_wait_comes_back_before_the_end_when_it_takes_too_long(serve: Serve) -> None:
    cloud = serve(pace=Pace(create=30, wait=0.05))
    operation = cloud.insert()
    found = cloud.zone_operations.wait(project=PROJECT, zone=ZONE, operation=operation.name, timeout=10)
    assert found.status == compute_v1.Operation.Status.RUNNING


def test_the_same_request_id_gives_the_same_operation(cloud: Cloud) -> None:
    request_id = str(uuid.uuid4())
    first = cloud.done(cloud.insert(request_id))
    again = cloud.insert(request_id)
    assert (again.name, again.status) == (first.name, compute_v1.Operation.Status.DONE)
    with pytest.raises(exceptions.BadRequest, match="requestId") as error:
        cloud.insert(request_id, labels={"incl": "other"})
    assert reason(error) == "invalid"
    with pytest.raises(exceptions.BadRequest, match="requestId"):
        cloud.insert("no-uuid", name="vm-2")
    cloud.done(cloud.delete())
    assert cloud.insert(request_id).name == first.name
    assert cloud.names() == []


def test_a_name_that_is_taken_is_a_conflict(cloud: Cloud) -> None:
    cloud.made()
    with pytest.raises(exceptions.Conflict, match="already exists") as error:
        cloud.insert()
    assert reason(error) == "alreadyExists"


def test_two_inserts_at_once_make_one_vm(serve: Serve) -> None:
    cloud = serve(pace=Pace(pending=0.2))
    first, second = cloud.insert(), cloud.insert()
    codes = [[one.code for one in cloud.done(operation).error.errors] for operation in (first, second)]
    assert codes == [[], ["RESOURCE_ALREADY_EXISTS"]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"machine": "n9-huge-1"}, "resource.machineType"),
        ({"machine": "a4-highgpu-8g"}, "resource.machineType"),
        ({"name": "Vm_1"}, "resource.name"),
        ({"labels": {"Incl": "x"}}, "resource.labels"),
        ({"disks": []}, "resource.disks"),
        ({"network_interfaces": []}, "resource.networkInterfaces"),
        ({"machine": "g2-standard-4"}, "do not support live migration"),
        ({"scheduling": {"max_run_duration": {"seconds": 60}}}, "instanceTerminationAction"),
        ({"scheduling": {"provisioning_model": "SPOT", "automatic_restart": True}}, "automaticRestart"),
        ({"scheduling": {"preemption_notice_duration": {"seconds": 120}}}, "preemptionNoticeDuration"),
    ],
)
def test_what_cannot_be_is_refused(cloud: Cloud, more: dict[str, Any], message: str) -> None:
    with pytest.raises(exceptions.BadRequest, match=message):
        cloud.insert(**more)
    assert cloud.names() == []


def test_unknown_zones_images_projects_and_vms(cloud: Cloud) -> None:
    with pytest.raises(exceptions.BadRequest, match="Unknown zone"):
        cloud.insert(zone="us-central1-z")
    boot = {"boot": True, "initialize_params": {"source_image": IMAGE.replace("debian-12", "debian-1")}}
    with pytest.raises(exceptions.NotFound, match="debian-1'"):
        cloud.insert(disks=[boot])
    with pytest.raises(exceptions.NotFound) as error:
        cloud.get("nobody")
    assert reason(error) == "notFound"
    with pytest.raises(exceptions.NotFound):
        cloud.instances.get(project="another", zone=ZONE, instance="vm-1", timeout=10)
    with pytest.raises(exceptions.NotFound):
        cloud.delete("nobody")


def test_gpus_come_with_the_machine_or_are_attached(cloud: Cloud) -> None:
    terminate = {"on_host_maintenance": "TERMINATE"}
    made = cloud.made(name="g2", machine="g2-standard-24", scheduling=terminate)
    assert made.guest_accelerators[0].accelerator_count == 2
    t4 = [{"accelerator_type": f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4", "accelerator_count": 1}]
    made = cloud.made(name="t4", machine="n1-standard-4", scheduling=terminate, guest_accelerators=t4)
    assert made.guest_accelerators[0].accelerator_type.endswith("nvidia-tesla-t4")
    with pytest.raises(exceptions.BadRequest, match="not compatible"):
        cloud.insert(name="e2", scheduling=terminate, guest_accelerators=t4)


def test_an_a4_with_a_disk_of_the_wrong_kind_fails_while_it_is_created(cloud: Cloud) -> None:
    more = {"machine": "a4-highgpu-8g", "zone": "us-central1-b", "scheduling": {"on_host_maintenance": "TERMINATE"}}
    operation = cloud.done(cloud.insert(**more))
    assert [one.code for one in operation.error.errors] == ["UNSUPPORTED_OPERATION"]
    boot = {"boot": True, "auto_delete": True}
    boot["initialize_params"] = {"source_image": IMAGE, "disk_type": "zones/us-central1-b/diskTypes/hyperdisk-balanced"}
    assert cloud.made(**more, disks=[boot]).status == "RUNNING"


def test_delete_takes_the_disks_that_go_with_it_and_can_be_asked_for_twice(serve: Serve) -> None:
    cloud = serve(pace=Pace(delete=0.2))
    boot = {"boot": True, "auto_delete": True, "initialize_params": {"source_image": IMAGE}}
    data = {"auto_delete": False, "initialize_params": {"disk_name": "data", "disk_size_gb": 50}}
    cloud.made(disks=[boot, data])
    first = cloud.delete()
    assert cloud.get().status in ("RUNNING", "STOPPING", "TERMINATED")
    second = cloud.delete()
    assert not cloud.done(first).error.errors
    assert not cloud.done(second).error.errors
    with pytest.raises(exceptions.NotFound):
        cloud.get()
    left = list(cloud.disks.list(project=PROJECT, zone=ZONE, timeout=10))
    assert [(one.name, one.size_gb, list(one.users)) for one in left] == [("data", 50, [])]


def test_a_vm_deleted_while_it_is_made_is_gone_and_its_insert_says_so(serve: Serve) -> None:
    cloud = serve(pace=Pace(create=0.3))
    insert = cloud.insert()
    until_sync(cloud.names, what="the VM shows")
    cloud.done(cloud.delete())
    assert [one.code for one in cloud.done(insert).error.errors] == ["RESOURCE_NOT_FOUND"]
    assert cloud.names() == []


def test_stop_keeps_the_vm_and_its_disk_and_start_boots_it(cloud: Cloud) -> None:
    cloud.made()
    cloud.done(cloud.instances.stop_unary(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10))
    assert cloud.get().status == "TERMINATED"
    assert len(list(cloud.disks.list(project=PROJECT, zone=ZONE, timeout=10))) == 1
    cloud.done(cloud.instances.start_unary(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10))
    assert cloud.get().status == "RUNNING"


def test_labels_and_metadata_need_the_newest_fingerprint(cloud: Cloud) -> None:
    made = cloud.made()
    where = {"project": PROJECT, "zone": ZONE, "instance": "vm-1", "timeout": 10}
    labels = {"labels": {"incl": "y"}, "label_fingerprint": made.label_fingerprint}
    cloud.done(cloud.instances.set_labels_unary(instances_set_labels_request_resource=labels, **where))
    assert cloud.get().labels == {"incl": "y"}
    with pytest.raises(exceptions.PreconditionFailed) as error:
        cloud.instances.set_labels_unary(instances_set_labels_request_resource=labels, **where)
    assert reason(error) == "conditionNotMet"
    metadata = {"items": [{"key": "a", "value": "b"}], "fingerprint": made.metadata.fingerprint}
    cloud.done(cloud.instances.set_metadata_unary(metadata_resource=metadata, **where))
    assert [(one.key, one.value) for one in cloud.get().metadata.items] == [("a", "b")]
    with pytest.raises(exceptions.PreconditionFailed):
        cloud.instances.set_metadata_unary(metadata_resource=metadata, **where)


def listed(cloud: Cloud, **query: Any) -> list[str]:
    """Names in a list of one zone."""
    request = compute_v1.ListInstancesRequest(project=PROJECT, zone=ZONE, **query)
    return sorted(one.name for one in cloud.instances.list(request, timeout=10))


def test_lists_in_pages_and_with_filters(cloud: Cloud) -> None:
    for index in range(7):
        cloud.done(cloud.insert(name=f"vm-{index}", labels={"incl": "x", "n": str(index % 2)}))
    assert listed(cloud) == [f"vm-{index}" for index in range(7)]
    before = cloud.running.do(lambda inside: inside.faults.calls["instances.list"])
    assert len(listed(cloud, max_results=3)) == 7
    assert cloud.running.do(lambda inside: inside.faults.calls["instances.list"]) == before + 3
    assert listed(cloud, filter="labels.n=1") == ["vm-1", "vm-3", "vm-5"]
    assert listed(cloud, filter="(labels.n=1) (name!=vm-3)") == ["vm-1", "vm-5"]
    assert listed(cloud, filter='labels.n="0" AND name:vm-*') == ["vm-0", "vm-2", "vm-4", "vm-6"]
    assert listed(cloud, filter="name=vm-1 OR name eq vm-[45]") == ["vm-1", "vm-4", "vm-5"]
    assert listed(cloud, filter="labels.other:*") == []
    assert listed(cloud, filter="status=RUNNING AND machineType=e2-small") == [f"vm-{index}" for index in range(7)]
    with pytest.raises(exceptions.BadRequest, match="filter"):
        listed(cloud, filter="=")


def aggregated(cloud: Cloud) -> dict[str, Any]:
    """scope -> what aggregatedList says."""
    request = compute_v1.AggregatedListInstancesRequest(project=PROJECT, max_results=2, filter="labels.incl=x")
    found: dict[str, Any] = {}
    for scope, one in cloud.instances.aggregated_list(request, timeout=10):
        names, warning = found.get(scope, ([], ""))
        found[scope] = (names + [each.name for each in one.instances], one.warning.code or warning)
    return found


def test_a_zone_that_cannot_be_reached_is_not_an_empty_zone(cloud: Cloud) -> None:
    for index, zone in enumerate(["us-central1-a", "us-central1-a", "us-central1-b", "europe-west4-a"]):
        cloud.made(name=f"vm-{index}", zone=zone)
    found = aggregated(cloud)
    assert found["zones/us-central1-a"][0] == ["vm-0", "vm-1"]
    assert found["zones/us-west1-a"] == ([], "NO_RESULTS_ON_PAGE")
    cloud.switch("unreachable", "us-west1-a")
    assert aggregated(cloud)["zones/us-west1-a"] == ([], "UNREACHABLE")
    with pytest.raises(exceptions.ServiceUnavailable):
        list(cloud.instances.list(project=PROJECT, zone="us-west1-a", timeout=10, retry=None))


def test_max_run_duration_deletes_the_vm(serve: Serve) -> None:
    cloud = serve(pace=Pace(speed=100))
    cloud.made(scheduling={"max_run_duration": {"seconds": 30}, "instance_termination_action": "DELETE"})
    assert cloud.get().resource_status.scheduling.termination_timestamp
    until_sync(lambda: not cloud.names(), what="the VM is gone")
    assert list(cloud.disks.list(project=PROJECT, zone=ZONE, timeout=10)) == []


def test_an_operation_past_its_retention_is_not_found(cloud: Cloud) -> None:
    operation = cloud.done(cloud.insert())
    cloud.switch("forget", f"zones/{ZONE}", operation.name)
    with pytest.raises(exceptions.NotFound):
        cloud.zone_operations.get(project=PROJECT, zone=ZONE, operation=operation.name, timeout=10)
