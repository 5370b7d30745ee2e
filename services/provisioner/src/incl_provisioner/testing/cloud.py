"""A cloud whose VMs have scripted agents: each trades its token and says hello, as the real one does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from incl_provisioner.backends.gce.calls import Calls, Limits
from incl_provisioner.backends.gce.port import Compute
from incl_provisioner.fakes.gce import FakeCloud
from incl_provisioner.fakes.gce.direct import DirectCompute
from incl_provisioner.fakes.gce.model import Instance
from incl_provisioner.settings import CloudOptions
from incl_provisioner.testing.agent import FakeAgent, Script
from incl_shared.auth import jwt
from incl_shared.bus.client import BusClient
from incl_shared.clock import SystemClock
from incl_shared.control import JobWanted
from incl_shared.errors import DeniedError
from incl_shared.protocol import PROTOCOL
from incl_shared.queries.provisioner import EnrollNode
from incl_shared.subjects import NODES_PROJECT
from incl_shared.tasks import end_all

QUICK_CLOUD = CloudOptions(
    project="fake-project", agent_url="http://127.0.0.1:1/agent.tar.gz", agent_sha256="0" * 64,
    enroll_url="http://127.0.0.1:1/enroll", regions=("us-central1", "europe-west4"),
    round_s=0.05, sweep_s=0.2, notice_s=0,
)  # fmt: skip
"""Looks at the cloud all the time."""
_UP = "RUNNING"


async def enroll(client: BusClient, node: str, token: str, key: str = "", protocol: int = PROTOCOL) -> float:
    """Trade a token as the gateway does; how long the credential lives, in seconds."""
    query = EnrollNode(node=node, token=token, key=key or jwt.Key.new(jwt.USER).public, protocol=protocol)
    return (await client.ask(query, project=NODES_PROJECT, user="gateway")).ttl_s


@dataclass
class Vms:
    """Boots what the cloud makes. `mute`: names whose guests say nothing."""

    client: BusClient
    cloud: FakeCloud
    script: Callable[[JobWanted], Script] = lambda _: Script()
    agents: dict[str, FakeAgent] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    mute: Callable[[str], bool] = lambda _: False
    protocol: int = PROTOCOL
    """What their agents speak when they enrol."""
    hello: int = PROTOCOL
    """What they speak when they say hello."""
    ahead: Callable[[str], float] = lambda _: 0.0
    """By how many seconds the clock of a guest is ahead."""
    ever: list[str] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None

    async def compute(self) -> Compute:
        """The port over this cloud, with a pace that no test waits for."""
        return DirectCompute(self.cloud, Calls(Limits(per_s=1000.0, first_s=0.01, longest_s=0.05), SystemClock()))

    def start(self) -> None:
        """Boot from now on."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """No guest speaks any more."""
        await end_all([self._task])
        await asyncio.gather(*(agent.stop() for agent in self.agents.values()))
        await self.cloud.stop()

    @property
    def names(self) -> list[str]:
        """Every VM that the cloud has."""
        return sorted(vm.name for vm in self.cloud.state.instances.values())

    @property
    def disks(self) -> int:
        """How many disks the cloud has."""
        return len(self.cloud.state.disks)

    async def _run(self) -> None:
        while True:
            all_vms = self.cloud.state.instances.values()
            up = {vm.name: vm for vm in all_vms if vm.status == _UP and vm.ending is None}
            for name in self.agents.keys() - up.keys():
                await self.agents.pop(name).stop()
            for name, vm in up.items():
                if name not in self.agents and not self.mute(name):
                    await self._boot(name, vm)
            await asyncio.sleep(0.01)

    async def _boot(self, name: str, vm: Instance) -> None:
        self.tokens[name] = vm.metadata()["incl-enroll-token"]
        self.ever.append(name)
        agent = self.agents[name] = FakeAgent(
            self.client,
            name,
            address=vm.address,
            cpu=4.0,
            script=self.script,
            ahead_s=self.ahead(name),
            protocol=self.hello,
        )
        try:
            await enroll(self.client, name, self.tokens[name], protocol=self.protocol)
        except DeniedError as error:
            words = f"incl-agent: the platform refuses {name}: {error.message}\nincl-vm: off the platform refused it\n"
            (self.cloud.machines.folder(vm) / "console").write_text(words)
            if vm.running is not None:
                vm.running.cut_power()
            return
        await agent.start()
