"""What runs: read from the run file, never guessed from process names."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incl_local.cloud import said, vms
from incl_local.layout import Layout
from incl_local.place import SERVICE_NAMES, Place
from incl_local.processes import Identity
from incl_shared.errors import NotFoundError

STOP_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Running:
    """One `incl up`."""

    layout: Layout
    identity: Identity
    version: str
    ports: dict[str, int]
    processes: bool
    ready: bool
    children: dict[str, Identity]
    restarts: dict[str, int]
    disk_full: bool = False
    """Whether the bus takes nothing new for want of room."""

    @property
    def place(self) -> Place:
        """Its folders, ports and credentials."""
        return Place(self.layout, self.ports, self.processes)

    @property
    def since_s(self) -> float:
        """Seconds since it started."""
        return time.time() - self.identity.started

    def pid_of(self, service: str) -> int:
        """The process that a service runs in."""
        child = self.children.get(service)
        return child.pid if child else self.identity.pid


def read(layout: Layout) -> Running | None:
    """What the run file says, whether or not it is alive; None where there is none."""
    try:
        saved: dict[str, Any] = json.loads(layout.run_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    children = {name: Identity(int(c["pid"]), float(c["started"])) for name, c in saved["children"].items()}
    return Running(
        layout,
        Identity(int(saved["pid"]), float(saved["started"])),
        str(saved["version"]),
        {name: int(port) for name, port in saved["ports"].items()},
        bool(saved["processes"]),
        bool(saved["ready"]),
        children,
        {name: int(count) for name, count in saved["restarts"].items()},
        bool(saved.get("disk_full")),
    )


def find(layout: Layout) -> Running:
    """The platform that runs on this data folder.

    Raises:
        NotFoundError: when none does.
    """
    running = read(layout)
    if running is None or not running.identity.alive():
        raise NotFoundError(
            "the platform does not run", cause=f"no platform has its data in {layout.root}", hint="incl up"
        )
    return running


def end_leftovers(layout: Layout) -> list[str]:
    """Stop what a killed `incl up` left behind: its bus and its services, known by pid and start time.

    Jobs are not among them: they go on.

    Returns:
        The names of what was stopped.
    """
    running = read(layout)
    if running is None:
        return []
    left = [
        name
        for name in (*SERVICE_NAMES, "cloud", "nats")
        if name in running.children and running.children[name].alive()
    ]
    for name in left:
        running.children[name].stop(patience=5.0)
    if "cloud" in running.children:
        shutil.rmtree(vms(layout.root), ignore_errors=True)
        said(layout.root).unlink(missing_ok=True)
    layout.run_file.unlink(missing_ok=True)
    return left


def size_of(folder: Path) -> int:
    """Bytes below a folder; what vanishes meanwhile is not counted."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
