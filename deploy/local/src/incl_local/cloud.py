"""`incl up --cloud fake`: a Compute Engine on this machine, whose VMs are processes or namespaces of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from incl_local.processes import Identity
from incl_local.supervisor import Child
from incl_shared.errors import UnavailableError

PROJECT = "incl-fake"
READY_S = 20.0
ROUND_S, SWEEP_S, BOOT_S, DRAIN_S = 0.5, 5.0, 180.0, 120.0
NOTICE_S = 10
_PREFIX = "INCL_PROVISIONER_CLOUD__"
"""What the environment says of the cloud goes before what is chosen here."""
FORM_VARIABLE = "INCL_FAKE_VMS"
"""What VMs are: namespaces or groups; unset: namespaces where this machine allows them."""


@dataclass(frozen=True)
class CloudPlace:
    """Where the cloud is, and what its machines start with. port: of its API on loopback."""

    port: int
    archive: str
    sha256: str

    @property
    def url(self) -> str:
        """Of its API."""
        return f"http://127.0.0.1:{self.port}"

    def save(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def make_archive(root: Path) -> tuple[Path, str]:
    """(the agent's archive below a platform's folder, its sha256); made when something changed."""
    from incl_agent.archive import kept

    return kept(root / "agent-archive")


def child(root: Path, port: int, reach: list[int], log: Path) -> Child:
    """The process of the fake cloud. reach: ports of this machine that its VMs need."""
    folder = vms(root)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    command = [
        sys.executable, "-m", "incl_provisioner.fakes.gce", "--port", str(port), "--project", PROJECT,
        "--folder", str(folder), "--said", str(said(root)), "--disk", "2g",
        "--vms", os.environ.get(FORM_VARIABLE, "auto"),
    ]  # fmt: skip
    return Child("cloud", command + [f"--reach={each}" for each in reach], log)


def vms(root: Path) -> Path:
    """Where the fake VMs keep their files; nothing is in it while the platform is down."""
    return root / "cloud"


def said(root: Path) -> Path:
    """What the fake cloud said of itself: url, token of the switches, form of its VMs; 0600."""
    return root / "cloud.json"


def read_said(root: Path) -> dict[str, str]:
    """The same, read; empty where none runs."""
    try:
        found: dict[str, str] = json.loads(said(root).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def wait_until_said(root: Path, process: Callable[[], Identity | None], log: Path) -> dict[str, str]:
    """What it said once it listens.

    Raises:
        UnavailableError: it ended, or is not ready in time; with the end of its log.
    """
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        found, identity = read_said(root), process()
        if found and identity is not None and str(identity.pid) == found.get("pid"):
            return found
        time.sleep(0.02)
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-3:] if log.exists() else []
    raise UnavailableError("the fake cloud did not start", cause=" | ".join(tail), hint=f"see {log}")


def provisioner_options(place: CloudPlace, gateway: str, bus: str) -> dict[str, Any]:
    """The cloud as the provisioner is told of it."""
    from incl_provisioner.fakes.gce.catalog import REGIONS

    said = {
        "project": PROJECT, "regions": tuple(REGIONS), "endpoint": place.url, "agent_url": f"{gateway}/agent.tar.gz",
        "agent_sha256": place.sha256, "enroll_url": f"{gateway}/api/v1/nodes/enroll", "bus_urls": (bus,),
        "round_s": ROUND_S, "sweep_s": SWEEP_S, "boot_s": BOOT_S, "drain_s": DRAIN_S, "notice_s": NOTICE_S,
    }  # fmt: skip
    return {name: value for name, value in said.items() if f"{_PREFIX}{name.upper()}" not in os.environ}
