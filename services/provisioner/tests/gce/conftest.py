"""The real google-cloud-compute, pointed at the fake cloud."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials, Credentials
from google.cloud import compute_v1

from incl_provisioner.fakes.gce import CloudSettings, Pace, ThreadedCloud

PROJECT, REGION, ZONE = "fake-project", "us-central1", "us-central1-a"
IMAGE = "projects/debian-cloud/global/images/family/debian-12"
Serve = Callable[..., "Cloud"]


class Cloud:
    """A cloud, and every real client that is needed, by name: `cloud.instances`."""

    def __init__(self, running: ThreadedCloud) -> None:
        self.running = running
        self._made: list[Any] = []

    def client(self, kind: str, credentials: Credentials | None = None) -> Any:
        """A client of google-cloud-compute."""
        options = ClientOptions(api_endpoint=self.running.url)
        made = getattr(compute_v1, kind)(
            credentials=credentials or AnonymousCredentials(), client_options=options, transport="rest"
        )
        self._made.append(made)
        return made

    instances = functools.cached_property(lambda self: self.client("InstancesClient"))
    region_instances = functools.cached_property(lambda self: self.client("RegionInstancesClient"))
    zone_operations = functools.cached_property(lambda self: self.client("ZoneOperationsClient"))
    region_operations = functools.cached_property(lambda self: self.client("RegionOperationsClient"))
    disks = functools.cached_property(lambda self: self.client("DisksClient"))

    def close(self) -> None:
        """Close the connections of all clients."""
        for client in self._made:
            client.transport.close()

    def switch(self, name: str, *given: Any, **more: Any) -> Any:
        """Use a switch of the cloud."""
        return self.running.do(lambda cloud: getattr(cloud.switches, name)(*given, **more))

    def insert(self, request_id: str | None = None, zone: str = ZONE, timeout: float = 10, **more: Any) -> Any:
        """The operation of an insert."""
        request = compute_v1.InsertInstanceRequest(
            project=PROJECT, zone=zone, request_id=request_id, instance_resource=vm(**more)
        )
        return self.instances.insert_unary(request, timeout=timeout, retry=None)

    def made(self, **more: Any) -> Any:
        """A VM that is there."""
        zone = more.get("zone", ZONE)
        operation = self.done(self.insert(**more))
        assert not operation.error.errors, operation.error
        return self.get(more.get("name", "vm-1"), zone)

    def get(self, name: str = "vm-1", zone: str = ZONE) -> Any:
        """A VM as it is now."""
        return self.instances.get(project=PROJECT, zone=zone, instance=name, timeout=10, retry=None)

    def delete(self, name: str = "vm-1", zone: str = ZONE) -> Any:
        """The operation of a delete."""
        return self.instances.delete_unary(project=PROJECT, zone=zone, instance=name, timeout=10, retry=None)

    def done(self, operation: Any) -> Any:
        """The operation once it is DONE."""
        if operation.region:
            client, where = self.region_operations, {"region": operation.region.rpartition("/")[2]}
        else:
            client, where = self.zone_operations, {"zone": operation.zone.rpartition("/")[2]}
        found = client.wait(project=PROJECT, operation=operation.name, **where, timeout=30, retry=None)
        assert found.status == compute_v1.Operation.Status.DONE
        return found

    def names(self) -> list[str]:
        """Every VM that the cloud has."""
        return sorted(one["name"] for one in self.running.do(lambda cloud: cloud.switches.summary())["instances"])


def vm(name: str = "vm-1", zone: str = ZONE, machine: str = "e2-small", **more: Any) -> dict[str, Any]:
    """The body of an insert."""
    return {
        "name": name,
        **properties(machine=f"zones/{zone}/machineTypes/{machine}", **more),
    }


def properties(machine: str = "e2-small", spot: bool = False, script: str = "", **more: Any) -> dict[str, Any]:
    """The properties that insert and bulkInsert share."""
    boot = {"boot": True, "auto_delete": True, "initialize_params": {"source_image": IMAGE, "labels": {"incl": "x"}}}
    items = [{"key": "enable-guest-attributes", "value": "TRUE"}]
    items += [{"key": "startup-script", "value": script}] if script else []
    scheduling = {"provisioning_model": "SPOT", "instance_termination_action": "DELETE"} if spot else {}
    return {
        "machine_type": machine,
        "disks": [boot],
        "network_interfaces": [{"network": "global/networks/default"}],
        "scheduling": scheduling,
        "metadata": {"items": items},
        "labels": {"incl": "x"},
        **more,
    }


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a cloud: serve(vms="none", pace=…)."""
    made: list[Cloud] = []

    def start(vms: str = "none", pace: Pace | None = None, **settings: Any) -> Cloud:
        running = ThreadedCloud(CloudSettings(vms=vms, pace=pace or Pace(), **settings)).__enter__()
        made.append(Cloud(running))
        return made[-1]

    yield start
    for cloud in made:
        failures = cloud.running.do(lambda inside: inside.operations.failures)
        cloud.close()
        cloud.running.__exit__(None, None, None)
        assert failures == 0


@pytest.fixture
def cloud(serve: Serve) -> Cloud:
    """A cloud whose VMs have no processes."""
    return serve()
