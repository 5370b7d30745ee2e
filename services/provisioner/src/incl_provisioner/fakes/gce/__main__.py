"""Runs the fake cloud by hand."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from incl_provisioner.fakes.gce.cloud import FORMS, CloudSettings, FakeCloud
from incl_provisioner.fakes.gce.pace import QUICK, REAL
from incl_shared.auth.files import write_private
from incl_shared.errors import InclError


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m incl_provisioner.fakes.gce",
        description="A Compute Engine on this machine. Prints a line of JSON: its url and its token.",
    )
    parser.add_argument("--port", type=int, default=0, help="of the API on 127.0.0.1 (default: a free one)")
    parser.add_argument("--project", default="fake-project")
    parser.add_argument(
        "--vms", choices=FORMS, default="auto", help="what VMs are (default: namespaces where that is possible)"
    )
    parser.add_argument(
        "--reach",
        type=int,
        action="append",
        default=[],
        metavar="PORT",
        help="of this machine's loopback, reachable from VMs; may be repeated",
    )
    parser.add_argument("--folder", type=Path, help="of the VMs' consoles and files (default: a temporary one)")
    parser.add_argument(
        "--disk", default="512m", help="how much a VM in namespaces can write (default: 512m, of memory)"
    )
    parser.add_argument(
        "--realistic", action="store_true", help="operations, boots and preemptions take as long as the provider's"
    )
    parser.add_argument(
        "--said", type=Path, metavar="FILE", help="write what it says of itself there, 0600, and not to stdout"
    )
    return parser.parse_args()


async def run(given: argparse.Namespace) -> None:
    """Until SIGINT or SIGTERM."""
    settings = CloudSettings(
        project=given.project, port=given.port, vms=given.vms, ports=tuple(given.reach), folder=given.folder,
        disk=given.disk, pace=REAL if given.realistic else QUICK,
    )  # fmt: skip
    cloud = FakeCloud(settings)
    end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    await cloud.start()
    said = {
        "url": cloud.url,
        "token": cloud.token,
        "project": given.project,
        "vms": cloud.host.kind,
        "folder": str(cloud.folder),
    }
    _say({**said, "pid": str(os.getpid())}, given.said)
    try:
        await end.wait()
    finally:
        await cloud.stop()
        if given.said is not None:
            given.said.unlink(missing_ok=True)


def _say(said: dict[str, str], file: Path | None) -> None:
    if file is not None:
        write_private(file, json.dumps(said).encode())
        return
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def main() -> int:
    """0, or 1 with the error on stderr."""
    try:
        asyncio.run(run(arguments()))
    except InclError as error:
        sys.stderr.write(f"error: {error.message}\ncause: {error.cause}\nhint: {error.hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
