"""bulkInsert: N VMs or none."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from incl_provisioner.fakes.gce import Pace

from .conftest import PROJECT, REGION, Cloud, Serve, properties


def bulk(cloud: Cloud, count: int = 3, request_id: str | None = None, **more: Any) -> Any:
    """The operation of a regional bulkInsert."""
    body = {"count": count, "name_pattern": "gang-####", "instance_properties": properties(), **more}
    request = compute_v1.BulkInsertRegionInstanceRequest(
        project=PROJECT, region=REGION, request_id=request_id, bulk_insert_instance_resource_resource=body
    )
    return cloud.region_instances.bulk_insert_unary(request, timeout=10, retry=None)


def counts(operation: Any) -> dict[str, tuple[int, int, int, int]]:
    """zone -> (target, created, failed, deleted)."""
    status = operation.instances_bulk_insert_operation_metadata.per_location_status
    return {
        zone: (one.target_vm_count, one.created_vm_count, one.failed_to_create_vm_count, one.deleted_vm_count)
        for zone, one in status.items()
    }


def zones(cloud: Cloud) -> list[str]:
    """The zone of every VM."""
    return sorted(one["zone"] for one in cloud.running.do(lambda inside: inside.switches.summary())["instances"])


def test_all_are_made_in_one_zone_with_names_by_pattern(cloud: Cloud) -> None:
    operation = cloud.done(bulk(cloud, location_policy={"target_shape": "ANY_SINGLE_ZONE"}))
    assert not operation.error.errors
    assert counts(operation) == {"zones/us-central1-a": (3, 3, 0, 0)}
    assert cloud.names() == ["gang-0001", "gang-0002", "gang-0003"]
    cloud.done(bulk(cloud, 1))
    assert "gang-0004" in cloud.names()


def test_names_given_one_by_one_and_the_insert_of_each(cloud: Cloud) -> None:
    given = {"a-0": {"name": "a-0"}, "a-1": {}}
    operation = cloud.done(bulk(cloud, 2, name_pattern="", per_instance_properties=given))
    assert cloud.names() == ["a-0", "a-1"]
    every = cloud.zone_operations.list(project=PROJECT, zone="us-central1-a", timeout=10)
    own = [one for one in every if one.operation_group_id == operation.operation_group_id]
    assert sorted(one.target_link.rpartition("/")[2] for one in own) == ["a-0", "a-1"]


def test_a_zone_that_has_them_all_is_taken(cloud: Cloud) -> None:
    cloud.switch("capacity", 2, "us-central1-a")
    cloud.done(bulk(cloud, location_policy={"target_shape": "ANY_SINGLE_ZONE"}))
    assert zones(cloud) == ["us-central1-b"] * 3


def test_only_zones_that_are_allowed(cloud: Cloud) -> None:
    locations = {"zones/us-central1-c": {"preference": "ALLOW"}, "zones/us-central1-f": {"preference": "ALLOW"}}
    cloud.done(bulk(cloud, location_policy={"locations": locations}))
    denied = {f"zones/us-central1-{letter}": {"preference": "DENY"} for letter in "abc"}
    cloud.done(bulk(cloud, 1, location_policy={"locations": denied}))
    named = [{"zone": "zones/us-central1-b"}]
    cloud.done(bulk(cloud, 1, location_policy={"zones": named}))
    assert zones(cloud) == ["us-central1-b", *["us-central1-c"] * 3, "us-central1-f"]
    with pytest.raises(exceptions.BadRequest, match="not a zone"):
        bulk(cloud, location_policy={"locations": {"zones/us-east1-b": {"preference": "ALLOW"}}})


def test_balanced_and_any_spread(cloud: Cloud) -> None:
    cloud.done(bulk(cloud, 4, location_policy={"target_shape": "BALANCED"}))
    assert zones(cloud) == [f"us-central1-{letter}" for letter in "abcf"]
    cloud.switch("capacity", 2, "us-central1-a")
    cloud.done(bulk(cloud, 3, location_policy={"target_shape": "ANY"}))
    assert zones(cloud) == [f"us-central1-{letter}" for letter in "aabbbcf"]


def test_a_stockout_is_a_503_that_looks_as_if_it_could_be_tried_again(cloud: Cloud) -> None:
    cloud.switch("stockout", "us-central1-*", "e2-*")
    with pytest.raises(exceptions.ServiceUnavailable) as error:
        bulk(cloud)
    assert error.value.errors[0]["reason"] == "insufficientCapacity"
    assert cloud.names() == []
    cloud.switch("restock")
    assert not cloud.done(bulk(cloud)).error.errors


def test_a_shortfall_in_the_operation_is_rolled_back(cloud: Cloud) -> None:
    cloud.switch("stockout_form", bulk="operation")
    cloud.switch("capacity", 2, "us-central1-*")
    operation = cloud.done(bulk(cloud))
    assert [one.code for one in operation.error.errors] == ["VM_MIN_COUNT_NOT_REACHED"]
    assert operation.http_error_status_code == 503
    assert counts(operation) == {"zones/us-central1-a": (3, 2, 1, 2)}
    assert cloud.names() == []
    assert list(cloud.disks.list(project=PROJECT, zone="us-central1-a", timeout=10)) == []
    every = cloud.zone_operations.list(project=PROJECT, zone="us-central1-a", timeout=10)
    codes = [
        e.code for one in every if one.operation_group_id == operation.operation_group_id for e in one.error.errors
    ]
    assert codes == ["ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"]


def test_min_count_keeps_what_could_be_made(cloud: Cloud) -> None:
    cloud.switch("capacity", 2, "us-central1-*")
    operation = cloud.done(bulk(cloud, min_count=2))
    assert not operation.error.errors
    assert len(cloud.names()) == 2


def test_a_quota_that_is_full_is_told_before_anything_is_made(cloud: Cloud) -> None:
    cloud.switch("quota", "CPUS", 5, REGION)
    with pytest.raises(
        exceptions.Forbidden, match=r"Quota 'CPUS' exceeded\.  Limit: 5\.0 in region us-central1\."
    ) as error:
        bulk(cloud)
    assert error.value.errors[0]["reason"] == "quotaExceeded"
    assert cloud.names() == []


def test_one_name_that_is_taken_stops_all(cloud: Cloud) -> None:
    cloud.made(name="a-1")
    with pytest.raises(exceptions.Conflict):
        bulk(cloud, 2, name_pattern="", per_instance_properties={"a-0": {}, "a-1": {}})
    assert cloud.names() == ["a-1"]


def test_the_same_request_id_makes_them_once(serve: Serve) -> None:
    cloud = serve(pace=Pace(create=0.2))
    request_id = str(uuid.uuid4())
    first = bulk(cloud, request_id=request_id)
    second = bulk(cloud, request_id=request_id)
    assert first.name == second.name
    cloud.done(second)
    assert len(cloud.names()) == 3
    with pytest.raises(exceptions.BadRequest):
        bulk(cloud, 4, request_id=request_id)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"count": 0}, "count"),
        ({"min_count": 4}, "count"),
        ({"name_pattern": "gang"}, "namePattern"),
        ({"name_pattern": "", "per_instance_properties": {"a": {}}}, "perInstanceProperties"),
        ({"instance_properties": properties("a4-huge")}, "machineType"),
        (
            {"location_policy": {"locations": {f"zones/us-central1-{z}": {"preference": "DENY"} for z in "abcf"}}},
            "zone",
        ),
    ],
)
def test_what_cannot_be_is_refused(cloud: Cloud, more: dict[str, Any], message: str) -> None:
    with pytest.raises(exceptions.BadRequest, match=message):
        bulk(cloud, **more)


def test_the_zonal_form(cloud: Cloud) -> None:
    body = {"count": 2, "name_pattern": "z-#", "instance_properties": properties()}
    request = compute_v1.BulkInsertInstanceRequest(
        project=PROJECT, zone="us-central1-b", bulk_insert_instance_resource_resource=body
    )
    operation = cloud.done(cloud.instances.bulk_insert_unary(request, timeout=10, retry=None))
    assert counts(operation) == {"zones/us-central1-b": (2, 2, 0, 0)}


def test_only_so_many_operations_at_once(serve: Serve) -> None:
    cloud = serve(pace=Pace(create=0.3))
    cloud.switch("bulk_limit", 2)
    first, _ = bulk(cloud, name_pattern="a-##"), bulk(cloud, name_pattern="b-##")
    with pytest.raises(exceptions.Forbidden) as error:
        bulk(cloud, name_pattern="c-##")
    assert error.value.errors[0]["reason"] == "rateLimitExceeded"
    cloud.done(first)
    assert not cloud.done(bulk(cloud, name_pattern="c-##")).error.errors
