"""One running platform: its folders, ports and credentials, as each of its processes knows them."""

from __future__ import annotations

import asyncio
import getpass
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from incl_local.cloud import CloudPlace
from incl_local.layout import LOOPBACK, PORT_NAMES, Layout
from incl_local.processes import write_private
from incl_shared.auth.names import Role, inbox_prefix, user_name_of
from incl_shared.errors import UnavailableError
from incl_shared.settings import BusSettings

NODE = "local"
PROJECT = "default"
HEALTHY_WITHIN_S = 30.0
SERVICE_NAMES = ("provisioner", "tracker", "registry", "gateway", "hpo", "agent")


def local_user() -> str:
    """The person at this machine."""
    try:
        return user_name_of(getpass.getuser())
    except (KeyError, OSError):
        return "user"


@dataclass(frozen=True)
class Place:
    """Everything that a service's settings are made from. Saved, so that `--processes` reads the same."""

    layout: Layout
    ports: Mapping[str, int]
    processes: bool = False
    cloud: CloudPlace | None = None

    @property
    def bus_url(self) -> str:
        """Where the bus listens."""
        return f"nats://{LOOPBACK}:{self.ports['bus']}"

    @property
    def registry_url(self) -> str:
        """Where the artifact store listens."""
        return f"http://{LOOPBACK}:{self.ports['registry']}"

    @property
    def gateway_url(self) -> str:
        """Where the gateway listens."""
        return f"http://{LOOPBACK}:{self.ports['gateway']}"

    def creds(self, name: str) -> Path:
        """The credential of a service, of the node ('agent'), of the local person ('user') or of the administrator."""
        return self.layout.creds / f"{name}.creds"

    def bus(self, name: str) -> BusSettings:
        """How this party reaches the bus."""
        role, principal = self._principal(name)
        return BusSettings(
            urls=(self.bus_url,), creds=self.creds(name), name=principal, inbox_prefix=inbox_prefix(role, principal)
        )

    def _principal(self, name: str) -> tuple[Role, str]:
        if name == "agent":
            return Role.NODE, NODE
        if name == "user":
            return Role.PERSON, local_user()
        return Role(name), name

    def ops_port(self, name: str) -> int:
        """Where health and metrics are: one port for all, or one for each process."""
        return self.ports["ops"] + (SERVICE_NAMES.index(name) if self.processes else 0)

    def ops_url(self, name: str) -> str:
        """The address of a service's health and metrics."""
        return f"http://{LOOPBACK}:{self.ops_port(name)}"

    def detail(self, name: str) -> str:
        """What to show beside a service's name."""
        return {"registry": self.registry_url, "gateway": self.gateway_url, "agent": f"node {NODE}"}.get(name, "")

    async def wait_healthy(self, name: str) -> None:
        """Wait until a service of its own process says that it is ready.

        Raises:
            UnavailableError: when it does not in time.
        """
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while not await asyncio.to_thread(is_ready, self.ops_url(name), name):
            if time.monotonic() > deadline:
                log = self.layout.logs / f"{name}.log"
                raise UnavailableError(f"{name} did not become ready", hint=f"see {log}, or run: incl doctor")
            await asyncio.sleep(0.05)

    def save(self) -> None:
        """Write it down for the processes of `--processes`."""
        cloud = self.cloud.save() if self.cloud is not None else None
        text = json.dumps({"ports": dict(self.ports), "processes": self.processes, "cloud": cloud})
        write_private(self.layout.root / "place.json", text)

    @staticmethod
    def load(root: Path) -> Place:
        """What was saved below a data folder."""
        saved = json.loads((root / "place.json").read_text(encoding="utf-8"))
        ports = {name: int(saved["ports"][name]) for name in PORT_NAMES}
        cloud = CloudPlace(**saved["cloud"]) if saved.get("cloud") else None
        return Place(Layout(root), ports, bool(saved["processes"]), cloud)


def is_ready(url: str, name: str) -> bool:
    """Whether /readyz at this address says yes for this service."""
    try:
        with urllib.request.urlopen(f"{url}/{name}/readyz", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
