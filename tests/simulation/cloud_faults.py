"""What each kind of fault does to the cloud of a world, and how it heals."""

from __future__ import annotations

import asyncio
from typing import Any

from incl_provisioner.fakes.gce.call import Call
from incl_provisioner.fakes.gce.capacity import Limit
from incl_provisioner.fakes.gce.faults import Fault as Rule
from incl_provisioner.fakes.gce.model import Instance
from incl_shared.errors import DeniedError, UnavailableError
from simulation.cloud import LATEST_S, OPTIONS, Clouds
from simulation.plan import Fault
from simulation.vm import public_key
from simulation.world import World

_WAIT_S = 90.0
"""So long a fault of a VM waits for one."""
_MAKE, _DELETE = "regionInstances.bulkInsert", "*.delete"
_METHODS = (_MAKE, _MAKE, _MAKE, "regionOperations.*", "*.aggregatedList", _DELETE, "*")
_ANSWERS = (
    (500, "backendError"), (503, "backendError"), (429, "rateLimitExceeded"), (403, "rateLimitExceeded"),
    (503, "backendError"), (401, "authError"), (403, "forbidden"),
)  # fmt: skip
_ENDS = ("INTERNAL_ERROR", "RESOURCE_NOT_FOUND", "ZONE_RESOURCE_POOL_EXHAUSTED", "QUOTA_EXCEEDED", "SOMETHING_NEW")
_METRICS = ("N2_CPUS", "INSTANCES", "CPUS_ALL_REGIONS", "SSD_TOTAL_GB")


def _of(world: World) -> Clouds:
    assert world.clouds is not None
    return world.clouds


def _some(choice: tuple[Any, ...], fault: Fault) -> Any:
    return choice[fault.whom % len(choice)]


async def _lasting(world: World, fault: Fault, rule: Rule) -> None:
    """Until it has hit as often as it is to, or for a while."""
    rules = _of(world).cloud.faults.rules
    rules.append(rule)
    for _ in range(int(_WAIT_S)):
        if rule.times is not None and rule.hit >= rule.times:
            break
        await asyncio.sleep(1.0)
    rules.remove(rule)


async def _stockout(world: World, fault: Fault) -> None:
    """Of a zone, of a region, or everywhere; nothing at all, or all but one machine."""
    place = _some((*OPTIONS.zones, "us-central1-*", "*"), fault)
    limits, limit = _of(world).cloud.capacity.limits, Limit(place, "*", "*", int(fault.extra > 0.8))
    limits.insert(0, limit)
    await asyncio.sleep(fault.seconds)
    limits.remove(limit)


async def _quota(world: World, fault: Fault) -> None:
    metric = _some(_METRICS, fault)
    key = (None if metric.endswith("_ALL_REGIONS") else "*", metric)
    quotas = _of(world).cloud.capacity.quotas
    quotas[key] = _some((0.0, 4.0, 1.0), fault)
    await asyncio.sleep(fault.seconds)
    quotas.pop(key, None)


async def _call_fails(world: World, fault: Fault) -> None:
    status, reason = _ANSWERS[int(fault.extra * len(_ANSWERS))]
    effect = status >= 500 and fault.whom % 2 == 0
    rule = Rule("error", _some(_METHODS, fault), times=1 + fault.whom % 6, status=status, reason=reason, effect=effect)
    await _lasting(world, fault, rule)


async def _call_cut(world: World, fault: Fault) -> None:
    """Before its effect, or after it."""
    kind = _some(("cut", "cut", "hang", "garbage", "partial"), fault)
    rule = Rule(kind, _METHODS[int(fault.extra * len(_METHODS))], times=1 + fault.whom % 4, effect=fault.whom < 7)
    await _lasting(world, fault, rule)


async def _call_late(world: World, fault: Fault) -> None:
    """It is received, and has its effect, long after the caller has given it up."""
    rule = Rule("slow", _some(_METHODS, fault), times=1 + fault.whom % 4, seconds=LATEST_S * fault.extra)
    await _lasting(world, fault, rule)


async def _delete_fails(world: World, fault: Fault) -> None:
    """Accepted, and then it does not happen, or nobody says so."""
    kind = _some(("operation", "operation", "stuck", "cut"), fault)
    rule = Rule(kind, _DELETE, times=1 + fault.whom % 3, reason="INTERNAL_ERROR", effect=fault.extra > 0.7)
    await _lasting(world, fault, rule)


async def _operation_fails(world: World, fault: Fault) -> None:
    rule = Rule("operation", _MAKE, times=1 + fault.whom % 3, reason=_some(_ENDS, fault), effect=fault.extra > 0.5)
    await _lasting(world, fault, rule)


async def _operation_stuck(world: World, fault: Fault) -> None:
    await _lasting(world, fault, Rule("stuck", _MAKE, times=1, effect=False))


async def _operation_forgotten(world: World, fault: Fault) -> None:
    cloud = _of(world).cloud
    for scope, body in cloud.operations.everything():
        cloud.switches.forget(scope, body["name"])


async def _zone_unreachable(world: World, fault: Fault) -> None:
    unreachable, zone = _of(world).cloud.faults.unreachable, _some(OPTIONS.zones, fault)
    unreachable.add(zone)
    await asyncio.sleep(fault.seconds)
    unreachable.discard(zone)


async def _cloud_away(world: World, fault: Fault) -> None:
    _of(world).away = True
    await asyncio.sleep(fault.seconds)
    _of(world).away = False


async def _credentials_expired(world: World, fault: Fault) -> None:
    _of(world).cloud.faults.expired = True
    await asyncio.sleep(fault.seconds)
    _of(world).cloud.faults.expired = False


async def _rate_limit(world: World, fault: Fault) -> None:
    faults = _of(world).cloud.faults
    faults.limit(_some(("*", _MAKE, "*.aggregatedList"), fault), 1, 4.0, _some((403, 429), fault))
    rule = faults._limits[-1]
    await asyncio.sleep(fault.seconds)
    faults._limits.remove(rule)


async def _silent_machine(world: World, fault: Fault) -> None:
    """The next VM that is made hangs before its startup script, or has no network."""
    machines, made = _of(world).cloud.machines, set(_of(world).seen)
    names = machines.never_boots if fault.extra > 0.5 else machines.without_network
    vm = await _made(world, made)
    if vm is not None and vm.running is None:
        names.add(vm.name)
        await asyncio.sleep(20.0)
        names.discard(vm.name)


async def _made(world: World, before: set[tuple[str, str]]) -> Instance | None:
    """The next VM."""
    for _ in range(int(_WAIT_S * 2)):
        for vm in _of(world).cloud.state.instances.values():
            if (vm.name, vm.metadata()["incl-enroll-token"]) not in before:
                return vm
        await asyncio.sleep(0.5)
    return None


async def _struck(world: World, fault: Fault) -> Instance | None:
    """A VM that is there, some time after it was made, or at once."""
    vms: list[Instance] = []
    for _ in range(int(_WAIT_S * 2)):
        vms = list(_of(world).cloud.state.instances.values())
        if vms:
            break
        await asyncio.sleep(0.5)
    if not vms:
        return None
    vm = _some(tuple(vms), fault)
    if fault.extra > 0.3:
        await asyncio.sleep(fault.seconds)
    return vm if _of(world).cloud.state.instances.get((vm.zone, vm.name)) is vm else None


async def _preempted(world: World, fault: Fault) -> None:
    vm = await _struck(world, fault)
    if vm is not None and vm.spot:
        world.note(f"cloud: {vm.name} ({vm.status}) is preempted")
        _of(world).cloud.machines.preempt(vm)


async def _taken(world: World, fault: Fault) -> None:
    """The machine under it breaks: no notice, no signal."""
    vm = await _struck(world, fault)
    if vm is not None and vm.running is not None and vm.ending is None:
        world.note(f"cloud: {vm.name} breaks")
        await _of(world).cloud.machines.host_error(vm)


async def _deleted(world: World, fault: Fault) -> None:
    await _end(world, fault, remove=True)


async def _stopped(world: World, fault: Fault) -> None:
    await _end(world, fault, remove=False)


async def _end(world: World, fault: Fault, *, remove: bool) -> None:
    """Somebody does it in the provider's console."""
    vm = await _struck(world, fault)
    if vm is not None:
        world.note(f"cloud: {vm.name} ({vm.status}) is {'deleted' if remove else 'stopped'} by another")
        _of(world).cloud.machines.end(vm, remove=remove)


async def _disk_left(world: World, fault: Fault) -> None:
    """A disk of a gang that no VM has."""
    vm = await _struck(world, fault)
    if vm is not None:
        body = {"name": f"{vm.name}-data0", "sizeGb": "10", "labels": dict(vm.body["labels"])}
        await _of(world).cloud.api.answer(Call("disks.insert", "fake-project", vm.zone, "", {}, body))


async def _token_again(world: World, fault: Fault) -> None:
    """Whoever has read a token shows it, for that machine or for another one: at once, or much later."""
    vm = await _struck(world, fault)
    clouds = _of(world)
    if vm is None:
        return
    shown = list(clouds.seen)
    name, token = shown[fault.whom % len(shown)][0], shown[int(fault.extra * len(shown))][1]
    used = any((one.name, one.token) == (name, token) for one in clouds.admitted)
    if not used and clouds._fresh(name, token):
        return  # it would be let in, as nobody else has come: that is what a token is for
    try:
        await clouds.enroll(name, token, public_key(world.numbers))
    except (DeniedError, UnavailableError):
        return


async def _kill_at_call(world: World, fault: Fault) -> None:
    """Some steps after it has made its next call of the cloud: before that is received, before its answer, or later."""
    provisioner = world.provisioners[fault.whom % len(world.provisioners)]
    host = provisioner.host
    if host is None:
        return
    steps = 1 + int(fault.extra * 1000) % 40

    def called() -> None:
        host.on_fuse, host.fuse = lambda: provisioner.kill(fault.seconds), host.steps + steps

    _of(world).on_call[host] = called


FAULTS = {
    "stockout": _stockout,
    "quota": _quota,
    "call fails": _call_fails,
    "call cut": _call_cut,
    "call late": _call_late,
    "delete fails": _delete_fails,
    "operation fails": _operation_fails,
    "operation stuck": _operation_stuck,
    "operation forgotten": _operation_forgotten,
    "zone unreachable": _zone_unreachable,
    "cloud away": _cloud_away,
    "credentials expired": _credentials_expired,
    "rate limit": _rate_limit,
    "silent machine": _silent_machine,
    "preempted": _preempted,
    "taken without notice": _taken,
    "deleted by another": _deleted,
    "stopped by another": _stopped,
    "a disk is left": _disk_left,
    "token shown again": _token_again,
    "kill provisioner at a call": _kill_at_call,
}
