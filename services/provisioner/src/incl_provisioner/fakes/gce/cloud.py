"""The fake cloud: the only place that builds it."""

from __future__ import annotations

import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import Receive, Scope, Send

from incl_provisioner.fakes.gce.api import Api
from incl_provisioner.fakes.gce.bulk import Bulk
from incl_provisioner.fakes.gce.capacity import Capacity
from incl_provisioner.fakes.gce.control import PREFIX, Control
from incl_provisioner.fakes.gce.disks import Disks
from incl_provisioner.fakes.gce.faults import Faults
from incl_provisioner.fakes.gce.hosts.groups import GroupHost
from incl_provisioner.fakes.gce.hosts.namespaces import NamespaceHost, why_not
from incl_provisioner.fakes.gce.hosts.port import Host, NoProcesses
from incl_provisioner.fakes.gce.identity import Identity
from incl_provisioner.fakes.gce.instances import Instances
from incl_provisioner.fakes.gce.machines import Machines, among
from incl_provisioner.fakes.gce.metadata import MetadataServer
from incl_provisioner.fakes.gce.model import Instance, State
from incl_provisioner.fakes.gce.operations import Operations
from incl_provisioner.fakes.gce.pace import QUICK, Pace
from incl_provisioner.fakes.gce.reads import Reads
from incl_provisioner.fakes.gce.switches import Switches
from incl_provisioner.fakes.gce.wire import Listeners, bind, respond_json
from incl_shared.errors import ConflictError, InclError

FORMS = ("auto", "namespaces", "groups", "none")
CERTIFICATES = "/oauth2/v3/certs"


@dataclass(frozen=True)
class CloudSettings:
    """How the cloud is.

    Attributes:
        project: the only project that there is.
        host, port: where the API listens; port 0 takes a free one.
        vms: what VMs are: namespaces, groups, none, or auto (namespaces where this machine allows them).
        ports: of this machine's loopback that VMs reach by the same address.
        folder: of the VMs' consoles and files; None: a temporary one, removed at the end.
        disk: how much a VM in namespaces can write.
        token: of the control API; None: a new one.
        clock: epoch seconds.
        monotonic: of rate limits.
    """

    project: str = "fake-project"
    host: str = "127.0.0.1"
    port: int = 0
    vms: str = "auto"
    ports: tuple[int, ...] = ()
    pace: Pace = QUICK
    folder: Path | None = None
    disk: str = "512m"
    token: str | None = None
    seed: int = 0
    clock: Callable[[], float] = field(default=time.time)
    monotonic: Callable[[], float] = field(default=time.monotonic)


class FakeCloud:
    """A Compute Engine in the running event loop.

    Attributes:
        url: of the API, for `api_endpoint`.
        token: of the control API.
        switches: what can be done to it.
    """

    def __init__(self, settings: CloudSettings) -> None:
        self.settings = settings
        self.token = settings.token or secrets.token_urlsafe(24)
        self.identity = Identity()
        self.host = self._make_host()
        self._own_folder = settings.folder is None
        self.folder = settings.folder or Path(tempfile.mkdtemp(prefix="incl-fake-cloud-"))
        pace = settings.pace
        self.state = State(settings.project, settings.clock, self.host.new_address, settings.seed)
        self.faults = Faults(settings.monotonic)
        self.capacity = Capacity(self.state)
        self.operations = Operations(self.state, pace, self.faults)
        self.machines = Machines(self.state, self.operations, self.capacity, self.host, pace, self.folder)
        instances = Instances(self.state, self.operations, self.machines, self.capacity, self.faults, pace)
        bulk = Bulk(self.state, self.operations, self.machines, self.capacity, instances, pace)
        disks = Disks(self.state, self.operations, self.capacity, self.faults, pace)
        reads = Reads(self.state, self.operations, self.capacity)
        self.switches = Switches(
            self.state, self.operations, self.machines, self.capacity, self.faults, bulk, disks, reads
        )  # fmt: skip
        handlers = {**instances.methods(), **bulk.methods(), **disks.methods(), **reads.methods()}
        self.api = Api(self.state, self.operations, self.faults, handlers)
        self._control = Control(self.switches, self.token)
        self._listeners = Listeners(self._answer)
        self._metadata = Listeners(self._metadata_server())
        self._at: dict[str, Instance] = {}
        self._sockets: dict[Instance, socket.socket] = {}
        self.url = ""
        self.machines.attach = self._attach
        self.machines.detach = self._detach

    def _metadata_server(self) -> MetadataServer:
        return MetadataServer(self.settings.project, self._find, self.identity)

    def _make_host(self) -> Host:
        form = self.settings.vms
        if form not in FORMS:
            raise ValueError(f"vms is one of {', '.join(FORMS)}")
        if form == "auto":
            form = "groups" if why_not() else "namespaces"
        if form == "namespaces":
            return NamespaceHost(self._metadata_server(), self.settings.ports, self.settings.disk)
        return GroupHost() if form == "groups" else NoProcesses()

    def _find(self, scope: Scope) -> Instance | None:
        """Whose metadata: by the address that asks, or (process groups) by the address that is asked."""
        return self._at.get(scope["client" if self.host.kind == "namespaces" else "server"][0])

    async def _attach(self, vm: Instance) -> dict[str, str]:
        self._at[vm.address] = vm
        if self.host.kind != "groups":
            return {}
        if among(vm.name, self.machines.without_network):
            return {"GCE_METADATA_HOST": f"{vm.address}:9", "GCE_METADATA_IP": f"{vm.address}:9"}
        sock = self._sockets[vm] = bind(vm.address, 0)
        await self._metadata.listen(sock)
        there = f"{vm.address}:{sock.getsockname()[1]}"
        return {"GCE_METADATA_HOST": there, "GCE_METADATA_IP": there}

    def _detach(self, vm: Instance) -> None:
        self._at.pop(vm.address, None)
        sock = self._sockets.pop(vm, None)
        if sock is not None:
            self._metadata.close(sock)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path.startswith(PREFIX):
            await self._control(scope, receive, send)
        elif path == CERTIFICATES:
            await respond_json(send, 200, self.identity.certificates())
        else:
            await self.api(scope, receive, send)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConflictError: the port is taken.
            UnavailableError: this machine does not allow such VMs.
        """
        try:
            await self._start()
        except InclError:
            self._clean()
            raise

    async def _start(self) -> None:
        await self.host.start()
        where = (self.settings.host, self.settings.port)
        try:
            sock = bind(*where)
        except OSError as error:
            await self.host.stop()
            raise ConflictError(
                f"the fake cloud cannot listen on {where[0]}:{where[1]}",
                cause=error.strerror or str(error),
                hint="choose another port, or end what uses this one",
            ) from error
        await self._listeners.listen(sock)
        self.url = f"http://{where[0]}:{sock.getsockname()[1]}"

    async def stop(self) -> None:
        """No VM, no process and no file is left."""
        await self._listeners.stop()
        await self.operations.stop()
        await self.host.stop()
        await self._metadata.stop()
        await self.operations.stop()
        self._clean()

    def _clean(self) -> None:
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
