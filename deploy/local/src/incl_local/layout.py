"""Where everything of one machine's platform lies, and the ports it keeps from start to start."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from incl_local.processes import write_private
from incl_shared.archive import PLATFORM_MARKER
from incl_shared.bus.topology import Limits
from incl_shared.errors import ConflictError, InvalidInput

LOOPBACK = "127.0.0.1"
PORT_NAMES = ("bus", "registry", "gateway", "ops")
DATABASE_OWNERS = ("provisioner", "tracker", "registry", "gateway", "hpo")
"""Services with a database of their own."""
OPS_PORTS = 6
BUS_SHARE = 0.6
"""The part of the free disk that the bus may reserve: the rest is for databases, artifacts and jobs."""
FIRST_PORT = 4422
"""The usual first port: bus, artifact store, gateway, and a row for health and metrics. INCL_PORT names another."""


def default_data() -> Path:
    """INCL_DATA, or the folder that the XDG rules name."""
    if given := os.environ.get("INCL_DATA"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or Path("~/.local/share").expanduser()
    return Path(base) / "incl"


@dataclass(frozen=True)
class Layout:
    """The folders of one platform; `root` is --data."""

    root: Path

    @property
    def keys(self) -> Path:
        """Operator, account and signing keys; 0700."""
        return self.root / "keys"

    @property
    def nats(self) -> Path:
        """The bus: its configuration and its store."""
        return self.root / "nats"

    @property
    def creds(self) -> Path:
        """The credentials of the services, the node and the local user."""
        return self.root / "creds"

    @property
    def artifacts(self) -> Path:
        """The blobs of the artifact store."""
        return self.root / "artifacts"

    @property
    def agent(self) -> Path:
        """The jobs of the local node."""
        return self.root / "agent"

    @property
    def logs(self) -> Path:
        """What the services and the bus say."""
        return self.root / "logs"

    @property
    def run_file(self) -> Path:
        """Who runs now: pid, start time, ports."""
        return self.root / "run.json"

    def database(self, service: str) -> str:
        """The URL of a service's own database: the one that was chosen, else SQLite below the data folder."""
        return self._databases().get(service) or self.own_database(service)

    def own_database(self, service: str) -> str:
        """The URL of a service's SQLite database below the data folder."""
        return f"sqlite:///{self.root / 'db' / f'{service}.db'}"

    def choose_databases(self, environment: Mapping[str, str]) -> None:
        """Keep what INCL_<SERVICE>_DATABASE_URL says for this start and all later ones; empty: SQLite again.

        Without the variable the choice of an earlier start holds, so that no start takes another database by mistake.
        """
        kept = self._databases()
        names = {service: f"INCL_{service.upper()}_DATABASE_URL" for service in DATABASE_OWNERS}
        chosen = {service: environment.get(name, kept.get(service, "")) for service, name in names.items()}
        if chosen := {service: url for service, url in chosen.items() if url}:
            write_private(self.root / "databases.json", json.dumps(chosen))
        else:
            (self.root / "databases.json").unlink(missing_ok=True)

    def _databases(self) -> dict[str, str]:
        try:
            kept: dict[str, str] = json.loads((self.root / "databases.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return kept

    def prepare(self) -> None:
        """Make the folders, for their owner alone.

        Raises:
            InvalidInput: when the place cannot be written.
        """
        try:
            for folder in (
                self.root,
                self.keys,
                self.nats,
                self.creds,
                self.artifacts,
                self.agent,
                self.logs,
                self.root / "db",
            ):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            (self.root / PLATFORM_MARKER).touch(mode=0o600)
        except OSError as error:
            raise InvalidInput(
                f"the data folder {self.root} cannot be used",
                cause=f"{error.strerror}: {error.filename}",
                hint="choose another one: incl up --data DIR",
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the platform's lock: one `incl up` a data folder.

        Raises:
            ConflictError: when another one holds it.
        """
        with (self.root / "lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    "the platform runs already",
                    cause=f"another `incl up` holds {self.root}",
                    hint="incl status, or incl down to stop it",
                ) from None
            yield

    def ports(self, wanted: Mapping[str, int]) -> dict[str, int]:
        """The ports of this platform: those given, else those of the last time, else the usual ones, else free ones.

        Raises:
            ConflictError: when a port that was given is taken.
        """
        file = self.root / "ports.json"
        kept = json.loads(file.read_text()) if file.exists() else {}
        first = int(os.environ.get("INCL_PORT") or FIRST_PORT)
        usual = {name: first + place for place, name in enumerate(PORT_NAMES)}
        chosen: dict[str, int] = {}
        taken: set[int] = set()
        for name in PORT_NAMES:
            if name in wanted and not _usable(wanted[name], name, taken):
                raise ConflictError(
                    f"port {wanted[name]} for {name} is taken", hint="choose another one, or leave it out"
                )
            candidates = [wanted[name]] if name in wanted else [kept.get(name, 0), usual[name]]
            port = next((p for p in candidates if p and _usable(p, name, taken)), 0)
            while not port:
                offered = free_port(taken)
                port = offered if _usable(offered, name, taken) else 0
            chosen[name] = port
            taken.update(_block(port, name))
        file.write_text(json.dumps(chosen))
        return chosen

    def limits(self) -> Limits:
        """How much the streams may take: chosen at the first start by the room on the disk, and kept.

        Raises:
            UnavailableError: when the disk has too little room.
        """
        file = self.root / "limits.json"
        if file.exists():
            return Limits(**json.loads(file.read_text(encoding="utf-8")))
        chosen = Limits().within(int(shutil.disk_usage(self.root).free * BUS_SHARE))
        file.write_text(json.dumps(asdict(chosen)), encoding="utf-8")
        return chosen


def _block(port: int, name: str) -> range:
    """The ops port is the first of a row: one for each process of `--processes`."""
    return range(port, port + (OPS_PORTS if name == "ops" else 1))


def _usable(port: int, name: str, taken: set[int]) -> bool:
    return all(p < 65_536 and p not in taken and is_free(p) for p in _block(port, name))


def is_free(port: int) -> bool:
    """Whether a listener could bind to the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(taken: set[int]) -> int:
    """A port that the system offers and that is not in `taken`."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
