"""A cloud in virtual time: an hour of preemptions and deadlines in a moment, the same each time."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
import uuid

from incl_provisioner.backends.gce.calls import Calls, Limits
from incl_provisioner.backends.gce.port import Order
from incl_provisioner.domain.cloud.plan import Image
from incl_provisioner.domain.cloud.prices import Disk
from incl_provisioner.fakes.gce import CloudSettings, FakeCloud
from incl_provisioner.fakes.gce.direct import DirectCompute
from incl_provisioner.fakes.gce.pace import REAL
from incl_shared.clock import SystemClock
from incl_shared.testing import virtual

ZONE = "us-central1-a"
ORDER = Order(
    machine="a2-highgpu-1g", image=Image("debian-cloud", "debian-12"), disks=[Disk("pd-balanced", 20)], metadata={},
    labels={"incl-platform": "p"}, spot=True, longest_s=3600, notice_s=60, terminates=True,
)  # fmt: skip


async def _day(seed: int) -> list[tuple[float, str, str]]:
    """What happens to a VM that is preempted and one that reaches its deadline: (seconds, name, what is seen)."""
    clock = SystemClock()
    began = clock.monotonic()
    settings = CloudSettings(vms="none", pace=REAL, clock=clock.now, monotonic=clock.monotonic, seed=seed)
    cloud = FakeCloud(settings)
    chance = random.Random(seed).random
    compute = DirectCompute(cloud, Calls(Limits(), clock, chance))
    counter = itertools.count(1)
    seen: list[tuple[float, str, str]] = []

    async def follow(name: str) -> None:
        operation = await compute.insert(name, ZONE, ORDER, str(uuid.UUID(int=next(counter))))
        while not operation.done:
            await asyncio.sleep(2)
            operation = await compute.operation(operation.scope, operation.name) or operation
        before = ""
        while before != "gone":
            vm = await compute.vm(ZONE, name)
            status = vm.status if vm is not None else "gone"
            if status != before:
                seen.append((round(clock.monotonic() - began), name, status))
                before = status
            await asyncio.sleep(5)

    async def take_back() -> None:
        await asyncio.sleep(600)
        cloud.switches.preempt(ZONE, "taken")

    await asyncio.gather(follow("taken"), follow("old"), take_back())
    assert (await compute.disks("labels.incl-platform=p")).items == ()
    assert cloud.operations.failures == 0
    await cloud.stop()
    return sorted(seen)


def test_a_preemption_and_a_deadline_take_the_time_that_they_take() -> None:
    begin = time.perf_counter()
    seen = virtual.run(_day(1))
    assert time.perf_counter() - begin < 10
    times = {(name, status): at for at, name, status in seen}
    # 60 s of notice, and 60 s more in which a VM that is dead is still shown RUNNING.
    assert 720 <= times["taken", "TERMINATED"] <= 730
    assert times["taken", "gone"] <= 755
    assert 3600 <= times["old", "gone"] <= 3650
    assert virtual.run(_day(1)) == seen
