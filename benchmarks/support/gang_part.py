"""The other process of `gang`: the fake cloud over HTTP, VMs with scripted agents, who submits, who says it is stored.

`python gang_part.py BUS EXPERIMENTS NODES` says where its cloud listens as a line of JSON, begins at a line on its
standard input, and answers each further one with a line of JSON: what the cloud was asked, and what it has.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from incl_provisioner.fakes.gce import CloudSettings, FakeCloud, Pace
from incl_provisioner.fakes.gce.model import Instance
from incl_provisioner.testing.agent import FakeAgent
from incl_provisioner.testing.cloud import enroll
from incl_shared.bus.client import BusClient
from incl_shared.errors import DeniedError, InclError
from incl_shared.events.base import REGISTER
from incl_shared.events.experiments import AttemptEnded, AttemptSettled, ExperimentFinished, ExperimentSubmitted
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings
from incl_shared.spec import ExperimentSpec
from incl_shared.tasks import end_all

MACHINE = "n2-standard-4"
A_MINUTE = {"*.aggregatedList": 750, "*Operations.*": 1500, "*.delete": 1500, "*.bulkInsert": 1500}
"""What the provider allows a project by default, by group of methods; one more is refused, and is a miss."""
_BULK_AT_ONCE = 10
_SUBMITTED_AT_ONCE = 64
_LOOK_S = 0.1
_BEAT_S = 3.0
"""As the real agent. The real one reads its list every second besides, which nobody but the bus notices."""
_READ_S = 20.0


class Guests:
    """What is inside of the VMs: a token is traded, an agent says hello; it ends with its VM."""

    def __init__(self, client: BusClient, cloud: FakeCloud) -> None:
        self._client, self._cloud = client, cloud
        self._agents: dict[str, FakeAgent] = {}
        self._booting: dict[str, asyncio.Task[None]] = {}
        self.most = 0

    async def run(self) -> None:
        """Boot and end them as the cloud does."""
        while True:
            up = {
                vm.name: vm for vm in self._cloud.state.instances.values()
                if vm.status == "RUNNING" and vm.ending is None
            }  # fmt: skip
            self.most = max(self.most, len(up))
            for name in self._booting.keys() - up.keys():
                await end_all([self._booting.pop(name)])
                await self._agents.pop(name).stop()
            for name in up.keys() - self._booting.keys():
                self._agents[name] = agent = FakeAgent(
                    self._client, name, address=up[name].address, cpu=4.0, beat_s=_BEAT_S, look_s=_READ_S
                )
                self._booting[name] = asyncio.create_task(self._boot(agent, up[name]))
            await asyncio.sleep(_LOOK_S)

    async def _boot(self, agent: FakeAgent, vm: Instance) -> None:
        while True:
            try:
                await enroll(self._client, vm.name, vm.metadata()["incl-enroll-token"])
                break
            except DeniedError:
                return
            except InclError:
                await asyncio.sleep(1.0)
        await agent.start()


class Part:
    """Everything but the provisioner."""

    def __init__(self, client: BusClient, cloud: FakeCloud) -> None:
        self._client, self._cloud = client, cloud
        self.guests = Guests(client, cloud)
        self._finished: dict[str, str] = {}
        self._seen: set[str] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._seconds: Counter[int] = Counter()
        self._count_calls()

    def _count_calls(self) -> None:
        admit = self._cloud.faults.admit

        def counted(method: str, resource: str) -> None:
            self._seconds[int(time.monotonic())] += 1
            admit(method, resource)

        self._cloud.faults.admit = counted  # type: ignore[method-assign]

    async def heard(self, _: str, payload: bytes, headers: Mapping[str, str]) -> None:
        """What the provisioner says. Once an attempt has ended, the tracker would say that all of it is stored."""
        if headers["ce-id"] in self._seen:
            return
        self._seen.add(headers["ce-id"])
        event = REGISTER[headers["ce-type"]].read(payload)
        if isinstance(event, ExperimentFinished):
            self._finished[event.experiment] = event.state
        elif isinstance(event, AttemptEnded):
            task = asyncio.create_task(self._settle(event))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _settle(self, ended: AttemptEnded) -> None:
        event = AttemptSettled(experiment=ended.experiment, attempt=ended.attempt, points=0, lines=0, gaps=0)
        await self._client.publish_event(event, project="default", version=1, timeout=60)

    async def submit(self, experiments: int, nodes: int) -> None:
        """All at once."""
        gate = asyncio.Semaphore(_SUBMITTED_AT_ONCE)
        spec = ExperimentSpec(command=["true"], instance=MACHINE, nodes=nodes, name="gang")

        async def one() -> None:
            async with gate:
                event = ExperimentSubmitted(experiment=new_id(), spec=spec)
                await self._client.publish_event(event, project="default", user="ann", timeout=60)

        await asyncio.gather(*(one() for _ in range(experiments)))

    def said(self) -> dict[str, Any]:
        """What the cloud was asked, and what it has."""
        return {
            "finished": sum(state == "finished" for state in self._finished.values()), "ended": len(self._finished),
            "vms": len(self._cloud.state.instances), "disks": len(self._cloud.state.disks),
            "most_vms": self.guests.most, "calls": dict(self._cloud.faults.calls),
            "refused": sum(self._cloud.faults.refused.values()), "peak": max(self._seconds.values(), default=0),
        }  # fmt: skip


async def _serve(url: str, experiments: int, nodes: int) -> None:
    cloud = FakeCloud(CloudSettings(vms="none", pace=Pace(create=3.0, delete=3.0, staging=1.0)))
    for method, calls in A_MINUTE.items():
        cloud.switches.limit(method, calls, 60.0)
    cloud.switches.bulk_limit(_BULK_AT_ONCE)
    await cloud.start()
    sys.stdout.write(json.dumps({"url": cloud.url}) + "\n")
    sys.stdout.flush()
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with await BusClient.connect(BusSettings(urls=(url,), name="gang")) as client:
        part = Part(client, cloud)
        await client.subscribe("incl.event.>", part.heard)
        await lines.readline()
        tasks = [asyncio.create_task(part.guests.run()), asyncio.create_task(part.submit(experiments, nodes))]
        while await lines.readline():
            sys.stdout.write(json.dumps(part.said()) + "\n")
            sys.stdout.flush()
            for task in tasks:
                if task.done():
                    task.result()
        await end_all(tasks)
    await cloud.stop()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
