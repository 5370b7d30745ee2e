"""The cloud of a world: the fake Compute Engine in virtual time, its VMs, a gateway that passes tokens on, a tracker.

What is on the wire goes on when the caller is killed: the cloud is a host of its own, which nobody kills. Whatever is
wrong at a moment and not at the end alone is noted in `wrong`.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from incl_provisioner import store_gangs
from incl_provisioner.backends.gce.calls import Calls, Limits
from incl_provisioner.domain.cloud import gangs
from incl_provisioner.domain.cloud.names import rank_of
from incl_provisioner.fakes.gce import CloudSettings, FakeCloud
from incl_provisioner.fakes.gce.api import Outcome
from incl_provisioner.fakes.gce.call import Call
from incl_provisioner.fakes.gce.direct import DirectCompute
from incl_provisioner.fakes.gce.hosts.port import Guest, NoProcesses
from incl_provisioner.fakes.gce.model import Instance
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.settings import CloudOptions
from incl_shared.bus import envelope as wire
from incl_shared.clock import SystemClock
from incl_shared.errors import DeniedError, InclError, NotFoundError, UnavailableError
from incl_shared.events import REGISTER
from incl_shared.events.experiments import AttemptEnded, AttemptSettled
from incl_shared.ids import derived_id
from incl_shared.protocol import PROTOCOL
from incl_shared.queries.provisioner import EnrollNode
from incl_shared.subjects import NODES_PROJECT
from incl_shared.testing.virtual import HOST, Host
from simulation.cloud_plan import SNAPSHOT
from simulation.vm import VirtualMachine, public_key

if TYPE_CHECKING:
    from simulation.world import World

PACE = Pace(
    pending=0.3, create=3.0, delete=5.0, change=0.5, staging=2.0, spot_grace=10.0, standard_grace=15.0,
    shown_running=15.0,
)  # fmt: skip
CALLS = Limits(read_s=6.0, write_s=8.0, tries=3, first_s=0.5, longest_s=3.0)
"""A call with its tries lasts 28 s at most."""
GANGS = gangs.Limits(settle_s=45.0, call_s=30.0, make_s=90.0, again_s=8.0, round_s=3.0)
"""All of the product's durations about a quarter of what they are, so that little time passes in which nothing does."""
LATEST_S = 35.0
"""So late a call is received at most: the product counts on settle_s."""
COOLS = 0.05
OPTIONS = CloudOptions(
    project="fake-project", agent_url="http://gateway/agent.tar.gz", agent_sha256="0" * 64,
    enroll_url="http://gateway/enroll", zones=("us-central1-a", "us-central1-b", "europe-west4-a"), spot_count=2,
    round_s=4.0, sweep_s=20.0, boot_s=90.0, drain_s=25.0, notice_s=5, data_idle_s=60.0, data_make_s=90.0,
    advice=False,
)  # fmt: skip
_TRACKER_S = 3.0


@dataclass(frozen=True)
class Admitted:
    """A machine that was let in. at: virtual s."""

    name: str
    token: str
    key: str
    instance: int
    at: float


class _Power(NoProcesses):
    """What VMs run on: machines of the world."""

    kind = "simulated"

    def __init__(self, cloud: Cloud) -> None:
        super().__init__()
        self._cloud = cloud

    async def boot(self, guest: Guest) -> VirtualMachine:
        """Its VM is up; what it says comes later."""
        (guest.folder / "console").write_text("incl-vm: booted\n")
        mute = guest.script is None or not guest.network
        machine = VirtualMachine(self._cloud.world, self._cloud.at(guest.address), mute=mute)
        machine.power_on()
        return machine


class Cloud(FakeCloud):
    """Compute Engine as a part of a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.owner = Host("cloud")
        super().__init__(
            CloudSettings(
                vms="none", pace=PACE, folder=world.folder / "cloud", token="none", seed=world.plan.seed,
                clock=world.wall, monotonic=world.loop.time,
            )
        )  # fmt: skip

    def _make_host(self) -> Any:
        return _Power(self)

    def at(self, address: str) -> Instance:
        """The VM with this address."""
        return self._at[address]


class Clouds:
    """Everything of a world that has to do with its cloud."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cloud = Cloud(world)
        self.wrong: list[str] = []
        self.admitted: list[Admitted] = []
        self.seen: dict[tuple[str, str], None] = {}
        """Every (name, token) that a VM was made with."""
        self.made = 0
        self.away = False
        """Whether the API cannot be reached."""
        self.under_way = 0
        """Calls that were sent, and have not had their effect yet: whoever made them may have given them up."""
        self.on_call: dict[Host | None, Any] = {}
        """Told of the next call that a host makes."""
        self._read = 0
        enter = self.cloud.machines.enter
        self.cloud.machines.enter = lambda vm, disks: (self._enters(vm), enter(vm, disks))[1]  # type: ignore[method-assign, func-returns-value]
        self.cloud.switches.snapshot(SNAPSHOT, 100)
        delete = self.cloud.api._handlers["disks.delete"]
        self.cloud.api._handlers["disks.delete"] = lambda call: (self._deletes(call), delete(call))[1]  # type: ignore[func-returns-value]
        if world.plan.cloud is not None:
            self.cloud.switches.stockout_form(bulk=world.plan.cloud.stockouts)

    # --- the way of a call

    async def opened(self) -> DirectCompute:
        """The port of the provisioner whose step this is."""
        door = SimpleNamespace(settings=self.cloud.settings, api=self)
        return DirectCompute(door, Calls(CALLS, SystemClock(), self.world.numbers.random))  # type: ignore[arg-type]

    async def outcome(self, call: Call) -> Outcome:
        """Send a call to the cloud, which has it from then on whatever becomes of the caller."""
        host, numbers = HOST.get(), self.world.numbers
        self.cloud.switches.prefer(*numbers.sample(OPTIONS.zones, len(OPTIONS.zones)))
        told = self.on_call.pop(host, None)
        if told is not None:
            told()
        answer: asyncio.Future[Outcome] = self.world.loop.create_future()
        self.under_way += 1
        self.cloud.owner.run(self._received(call, answer, host.name if host else ""), self.world.loop)
        outcome = await answer
        await asyncio.sleep(numbers.uniform(0.01, 0.2))
        return outcome

    async def _received(self, call: Call, answer: asyncio.Future[Outcome], place: str) -> None:
        await asyncio.sleep(self.world.numbers.uniform(0.01, 0.2))
        if self.away or place in self.world.server.cut_off:
            outcome = Outcome("cut", 0, {})
        else:
            outcome = await self.cloud.api.outcome(call)
        self.under_way -= 1
        if not answer.done():
            answer.set_result(outcome)

    # --- what must hold at a moment

    def _enters(self, vm: Instance) -> None:
        """A VM is made: a row says that it was asked for, and no other has its name."""
        self.made += 1
        self.seen[vm.name, vm.metadata()["incl-enroll-token"]] = None
        self.world.note(f"cloud: {vm.name} is made in {vm.zone}{' (spot)' if vm.spot else ''}")
        place = rank_of(vm.name)
        if place is None:
            self.wrong.append(f"VM {vm.name} has a name that says nothing")
            return
        rows = self.world.rows(
            f"SELECT phase, live FROM gangs WHERE experiment = '{place.experiment}' AND attempt = {place.attempt}"
        )
        if not rows or rows[0]["phase"] == gangs.Phase.PLANNED:
            self.wrong.append(f"VM {vm.name} is made, and no row says that it was asked for")
        elif not rows[0]["live"]:
            self.wrong.append(f"VM {vm.name} is made, though its gang is said to be gone")
        others = [one.zone for one in self.cloud.state.instances.values() if one.name == vm.name]
        if others:
            self.wrong.append(f"VM {vm.name} is made in {vm.zone}, and is there in {', '.join(others)}")

    def _deletes(self, call: Call) -> None:
        """A disk of data is to be deleted: no gang has it, or is about to."""
        having = f"SELECT experiment FROM gangs WHERE live = 1 AND state LIKE '%\"{call.name}\"%'"
        for row in self.world.rows(having) if call.name.startswith(gangs.DATA_PREFIX) else ():
            self.wrong.append(f"the disk {call.name} is deleted while {row['experiment']} has it")

    def said_gone(self, gang: gangs.Gang) -> None:
        """Somebody says that nothing is left of a gang."""
        state, names = self.cloud.state, set(gang.owned)
        left = [f"VM {name} in {zone}" for zone, name in state.instances if name in names]
        left += [f"disk {name} in {zone}" for zone, name in state.disks if name in names]
        self.world.note(f"gang {gang.experiment}-{gang.attempt} is {gang.phase}")
        if left:
            self.wrong.append(f"{gang.experiment}-{gang.attempt} is said to be {gang.phase}: {', '.join(left)}")

    # --- the gateway

    async def enroll(self, name: str, token: str, key: str, instance: Instance | None = None) -> None:
        """Trade a token, as the gateway does it.

        Raises:
            DeniedError: the platform says no.
            UnavailableError: it does not answer now.
        """
        query = EnrollNode(node=name, token=token, key=key, protocol=PROTOCOL)
        asking = self.world.people.run(self._ask(query), self.world.loop)
        await asyncio.wait({asking})
        try:
            asking.result()
        except (DeniedError, UnavailableError):
            raise
        except InclError as error:
            raise UnavailableError("the platform does not answer", cause=str(error)) from error
        used = next((one for one in self.admitted if (one.name, one.token) == (name, token)), None)
        if used is not None and used.key != key:
            self.wrong.append(f"the token of {name} was used twice, by two machines")
        if not self._fresh(name, token):
            self.wrong.append(f"{name} was let in with a token that is not that of a VM which is there")
        self.admitted.append(Admitted(name, token, key, instance.id if instance else 0, self.world.loop.time()))

    async def _ask(self, query: EnrollNode) -> None:
        client = await self.world.client()
        await client.ask(query, project=NODES_PROJECT, user="gateway", timeout=5.0)

    def _fresh(self, name: str, token: str) -> bool:
        """Whether this is the token of a VM that is there, or was a moment ago."""
        newest = [t for n, t in self.seen if n == name]
        return bool(newest) and newest[-1] == token

    # --- the tracker

    async def settle(self) -> None:
        """Say of most attempts that ended that all of them is stored."""
        stored = self.world.server.jetstream.stored
        while True:
            await asyncio.sleep(_TRACKER_S)
            fresh, self._read = stored[self._read :], len(stored)
            for stream, message in fresh:
                said = wire.decode(message.headers) if stream == "EVENTS" else None
                if said is not None and said.type == AttemptEnded.type_name() and self.world.numbers.random() < 0.7:
                    ended: Any = REGISTER[said.type].read(message.payload)
                    event = AttemptSettled(
                        experiment=ended.experiment, attempt=ended.attempt, points=0, lines=0, gaps=0
                    )
                    await self.world.say(event, derived_id("settled", ended.experiment, ended.attempt))

    # --- the end

    def settled(self) -> bool:
        """Whether the cloud is empty, no call can fill it any more, and every row is closed."""
        if self.cloud.state.instances or self.cloud.state.disks or self.under_way:
            return False
        drains = "SELECT 1 FROM timers WHERE kind = 'drain' LIMIT 1"
        if self.world.rows("SELECT 1 FROM data_disks WHERE live = 1 LIMIT 1"):
            return False
        return not self.world.rows("SELECT 1 FROM gangs WHERE live = 1 LIMIT 1") and not self.world.rows(drains)

    async def probe(self) -> None:
        """At the end: no token that ever was lets anybody in."""
        for name, token in self.seen:
            try:
                key = public_key(self.world.numbers)
                query = EnrollNode(node=name, token=token, key=key, protocol=PROTOCOL)
                await asyncio.wait_for(asyncio.shield(self.world.people.run(self._ask(query), self.world.loop)), 30.0)
            except (DeniedError, NotFoundError, UnavailableError, TimeoutError):
                continue
            self.wrong.append(f"the token of {name} still lets a machine in when all is over")


def exchanges(world: World) -> list[tuple[Any, str, Any]]:
    """Names of the product that are exchanged where a world has a cloud."""
    import incl_agent.vm
    import incl_provisioner.cloud.loop as loop
    import incl_provisioner.planner as planner
    from incl_provisioner.domain.cloud.cooldowns import CooldownBook
    from incl_shared.testing.virtual import VirtualLoop
    from simulation.machine import machine_now

    save, failed = store_gangs.save, CooldownBook.failed

    def saved(connection: Any, before: gangs.Gang, after: gangs.Gang, now: float) -> bool:
        done = save(connection, before, after, now)
        if done and after.phase in gangs.LAST and world.clouds is not None:
            world.clouds.said_gone(after)
        return done

    def cooled(self: Any, target: Any, verdict: Any, now: float) -> Any:
        from dataclasses import replace

        return failed(self, target, replace(verdict, ttl_s=verdict.ttl_s * COOLS), now)

    def handler(loop: Any, number: int, call: Any) -> None:
        machine_now().handlers[number] = call  # type: ignore[attr-defined]

    return [
        (loop, "Limits", lambda: GANGS),
        (planner, "load_catalog", _catalog),
        (store_gangs, "save", saved),
        (CooldownBook, "failed", cooled),
        (VirtualLoop, "add_signal_handler", handler),
        (incl_agent.vm, "_say", lambda text: None),
    ]


@functools.cache
def _catalog(provider: str, **_: Any) -> Any:
    """Read once."""
    from incl_provisioner.catalog import load_catalog

    return load_catalog(provider)
