"""From the library's messages (protocol buffers) to the port's types. Nothing that is missing or odd raises."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from incl_provisioner.backends.gce.port import DiskSeen, Operation, Vm, VmSeen
from incl_provisioner.domain.cloud.classify import classify
from incl_provisioner.domain.cloud.data_disks import Snapshot
from incl_provisioner.domain.cloud.errors import CloudError
from incl_provisioner.domain.cloud.zones import Advice

_EMPTY_SCOPE = "NO_RESULTS_ON_PAGE"
_SECONDS = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)s")


def last(url: str) -> str:
    """The last part of a URL."""
    return url.rstrip("/").rpartition("/")[2]


def when(text: str) -> float | None:
    """Epoch seconds of a time as the provider writes it; None where there is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else None
    except ValueError:
        return None


def operation_of(message: Any, done: int) -> Operation:
    """An operation. done: the number of the status DONE."""
    if message.zone:
        scope = f"zones/{last(message.zone)}"
    else:
        scope = f"regions/{last(message.region)}" if message.region else "global"
    errors = tuple(_error(one, message.http_error_status_code) for one in message.error.errors)
    if not errors and message.http_error_status_code >= 400:
        errors = (CloudError("", message.http_error_message, message.http_error_status_code),)
    return Operation(
        message.name, scope, message.operation_type, last(message.target_link), message.target_id,
        message.status == done, when(message.insert_time), errors, classify(errors) if errors else None,
        message.operation_group_id,
    )  # fmt: skip


def _error(one: Any, status: int) -> CloudError:
    words = [one.message, *(detail.localized_message.message for detail in one.error_details)]
    return CloudError(one.code, " ".join(word for word in words if word)[:600], status or None)


def vm_of(message: Any) -> Vm:
    """A VM."""
    interfaces = message.network_interfaces
    scheduling = message.scheduling
    return Vm(
        message.name, last(message.zone), message.id, message.status, dict(message.labels),
        interfaces[0].network_i_p if interfaces else "", last(message.machine_type),
        scheduling.provisioning_model == "SPOT" or scheduling.preemptible, when(message.creation_timestamp),
        when(message.resource_status.scheduling.termination_timestamp),
    )  # fmt: skip


def seen_of(message: Any) -> VmSeen:
    """A VM of a list."""
    return VmSeen(message.name, last(message.zone), message.id, message.status)


def disk_of(message: Any) -> DiskSeen:
    """A disk."""
    users = tuple(last(user) for user in message.users)
    return DiskSeen(
        message.name, last(message.zone), message.id, dict(message.labels), users, message.size_gb, message.status
    )


def snapshot_of(message: Any) -> Snapshot:
    """A snapshot."""
    return Snapshot(message.name, message.id, message.disk_size_gb, message.status == "READY", message.storage_bytes)


def unreachable(page: Any) -> Iterable[str]:
    """Zones that a page of an aggregated list says nothing about: those with a warning that is not emptiness."""
    for scope, one in page.items.items():
        if one.warning.code and one.warning.code != _EMPTY_SCOPE:
            yield last(scope)
    yield from (last(url) for url in page.unreachables)


def advice_of(message: Any) -> Advice:
    """What is said of one zone: the best of its recommendations."""
    if not message.recommendations:
        return Advice()
    best = max(message.recommendations, key=lambda one: one.scores.obtainability).scores
    found = _SECONDS.fullmatch(best.estimated_uptime)
    uptime = float(found[1]) if found is not None else 0.0
    obtainability = best.obtainability if math.isfinite(best.obtainability) else 0.0
    return Advice(min(1.0, max(0.0, obtainability)), 3600.0 / uptime if uptime > 0 else None)
