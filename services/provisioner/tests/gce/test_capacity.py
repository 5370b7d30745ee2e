"""Stockouts and quotas, in operations."""

from __future__ import annotations

from typing import Any

import pytest
from google.api_core import exceptions

from .conftest import PROJECT, REGION, ZONE, Cloud, Serve

GPU = {"machine": "g2-standard-8", "scheduling": {"on_host_maintenance": "TERMINATE"}}
SPOT_GPU = {"machine": "g2-standard-8", "spot": True}


def failed(cloud: Cloud, **more: Any) -> Any:
    """The operation of an insert that fails, and the error in it."""
    operation = cloud.done(cloud.insert(**more))
    assert len(operation.error.errors) == 1
    assert more.get("name", "vm-1") not in cloud.names()
    return operation, operation.error.errors[0]


def test_a_stockout_with_its_details(cloud: Cloud) -> None:
    cloud.switch("stockout", ZONE)
    cloud.switch("stockout", "us-central1-f")
    operation, error = failed(cloud)
    assert (error.code, operation.http_error_status_code) == ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", 503)
    assert operation.http_error_message == "SERVICE UNAVAILABLE"
    info = next(one.error_info for one in error.error_details if one.error_info.reason)
    assert (info.reason, info.domain) == ("resource_availability", "compute.googleapis.com")
    assert info.metadatas["zonesAvailable"] == "us-central1-b,us-central1-c"
    assert info.metadatas["vmType"] == "e2-small"
    assert cloud.made(zone="us-central1-b").status == "RUNNING"


def test_a_stockout_without_details_of_one_shape_only(cloud: Cloud) -> None:
    cloud.switch("stockout_form", details=False)
    cloud.switch("stockout", ZONE, "g2-*", "SPOT")
    _, error = failed(cloud, **SPOT_GPU)
    assert error.code == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert "Try a different zone" in error.message
    assert cloud.made(**GPU).status == "RUNNING"


def test_capacity_comes_back_with_what_is_deleted(cloud: Cloud) -> None:
    cloud.switch("capacity", 1, ZONE)
    cloud.made()
    failed(cloud, name="vm-2")
    cloud.done(cloud.delete())
    cloud.made(name="vm-2")


@pytest.mark.parametrize(
    ("metric", "where", "more", "words"),
    [
        ("NVIDIA_L4_GPUS", REGION, GPU, "in region us-central1."),
        ("PREEMPTIBLE_NVIDIA_L4_GPUS", REGION, SPOT_GPU, "in region us-central1."),
        ("GPUS_ALL_REGIONS", None, GPU, "globally."),
        ("CPUS", "*", {}, "in region us-central1."),
    ],
)
def test_quotas_in_an_operation(cloud: Cloud, metric: str, where: str | None, more: dict[str, Any], words: str) -> None:
    cloud.switch("quota", metric, 0, where)
    operation, error = failed(cloud, **more)
    assert error.code == "QUOTA_EXCEEDED"
    assert error.message == f"Quota '{metric}' exceeded.  Limit: 0.0 {words}"
    assert operation.http_error_status_code == 403
    assert error.error_details[0].quota_info.limit == 0


def test_quotas_count_what_is_there_and_give_it_back(cloud: Cloud) -> None:
    cloud.switch("quota", "NVIDIA_L4_GPUS", 2, REGION)
    for name in ("vm-1", "vm-2"):
        cloud.made(name=name, **GPU)
    failed(cloud, name="vm-3", **GPU)
    cloud.made(name="spot", **SPOT_GPU)
    regions = cloud.client("RegionsClient")
    quotas = {one.metric: one for one in regions.get(project=PROJECT, region=REGION, timeout=10).quotas}
    assert (quotas["NVIDIA_L4_GPUS"].usage, quotas["NVIDIA_L4_GPUS"].limit) == (2, 2)
    assert quotas["PREEMPTIBLE_NVIDIA_L4_GPUS"].usage == 1
    cloud.done(cloud.delete())
    cloud.done(cloud.instances.stop_unary(project=PROJECT, zone=ZONE, instance="vm-2", timeout=10))
    quotas = {one.metric: one for one in regions.get(project=PROJECT, region=REGION, timeout=10).quotas}
    assert quotas["NVIDIA_L4_GPUS"].usage == 0
    totals = {one.metric: one for one in cloud.client("ProjectsClient").get(project=PROJECT, timeout=10).quotas}
    assert totals["GPUS_ALL_REGIONS"].usage == 1


def test_a_quota_told_in_the_request(serve: Serve) -> None:
    cloud = serve()
    cloud.running.do(lambda inside: setattr(inside.capacity, "quota_in_request", True))
    cloud.switch("quota", "DISKS_TOTAL_GB", 5, REGION)
    with pytest.raises(exceptions.Forbidden) as error:
        cloud.insert()
    assert error.value.errors[0]["reason"] == "quotaExceeded"
    assert error.value.errors[0]["domain"] == "usageLimits"
