"""`incl status`."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import urllib.request
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from incl_cli.stuck import look
from incl_cli.text import size
from incl_local.cloud import read_said
from incl_local.layout import Layout, default_data
from incl_local.place import PROJECT, SERVICE_NAMES, Place, is_ready, local_user
from incl_local.running import Running, find, size_of
from incl_shared.bus.client import BusClient
from incl_shared.errors import InclError
from incl_shared.ids import short
from incl_shared.queries.provisioner import Cluster, GangView, GetCluster, GetMachines


def run(arguments: argparse.Namespace) -> int:
    """Show the services, the machine and the queue; 1 when a service is not well."""
    running = find(Layout((arguments.data or default_data()).expanduser().absolute()))
    state = gather(running)
    if arguments.json:
        print(json.dumps(state, indent=2))
    else:
        sys.stdout.write(render(state))
    return 0 if all(service["ready"] for service in state["services"]) else 1


def gather(running: Running) -> dict[str, Any]:
    """All of it as plain values (the form of --json)."""
    place = running.place
    with ThreadPoolExecutor(len(SERVICE_NAMES)) as pool:
        ready = dict(
            zip(SERVICE_NAMES, pool.map(lambda name: is_ready(place.ops_url(name), name), SERVICE_NAMES), strict=True)
        )
    services = [
        {
            "name": name,
            "ready": ready[name],
            "pid": running.pid_of(name),
            "restarts": running.restarts.get(name, 0),
            "metrics": f"{place.ops_url(name)}/metrics",
        }
        for name in SERVICE_NAMES
    ]
    cluster, gangs, problem = _cluster(place)
    cloud = read_said(running.layout.root)
    stuck = _stuck(place)
    return {
        "version": running.version,
        "data": str(running.layout.root),
        "up_s": round(running.since_s, 1),
        "bus": place.bus_url,
        "gateway": place.gateway_url,
        "registry": place.registry_url,
        "cloud": {"url": cloud["url"], "vms": cloud["vms"]} if cloud else None,
        "machines": [gang.model_dump(mode="json") for gang in gangs],
        "services": services,
        "cluster": cluster.model_dump(mode="json") if cluster else None,
        "problem": problem,
        "stuck": stuck,
        "waiting": _waiting(f"{place.ops_url('agent')}/metrics"),
        "disk": {
            "used": size_of(running.layout.root),
            "free": shutil.disk_usage(running.layout.root).free,
            "full": running.disk_full,
        },
    }


def _stuck(place: Place) -> int | None:
    """How many things `incl admin stuck` would name; none where that cannot be said."""
    try:
        return asyncio.run(look(lambda: _administrator(place), place.layout.root)).stuck
    except InclError:
        return None


@asynccontextmanager
async def _administrator(place: Place) -> AsyncIterator[BusClient]:
    async with await BusClient.connect(place.bus("admin")) as client:
        yield client


def _waiting(url: str) -> dict[str, int]:
    """Ended jobs of this machine whose telemetry the tracker has not stored yet: jobs, bytes, and those dropped."""
    found = {"jobs": 0, "bytes": 0, "dropped": 0}
    names = {"draining_jobs": "jobs", "draining_bytes": "bytes", "dropped_jobs_total": "dropped"}
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own address
            text = answer.read().decode()
    except (OSError, ValueError):
        return found
    for line in text.splitlines():
        name, _, value = line.removeprefix("incl_agent_").partition(" ")
        if line.startswith("incl_agent_") and name in names:
            found[names[name]] = int(float(value))
    return found


def _cluster(place: Place) -> tuple[Cluster | None, tuple[GangView, ...], str]:
    async def ask() -> tuple[Cluster, tuple[GangView, ...]]:
        async with await BusClient.connect(place.bus("user")) as client:
            cluster = await client.ask(GetCluster(), project=PROJECT, user=local_user())
            found = await client.ask(GetMachines(), project=PROJECT, user=local_user())
            return cluster, found.gangs

    try:
        return *asyncio.run(ask()), ""
    except InclError as error:
        return None, (), f"{error.message}; {error.hint}" if error.hint else error.message


def render(state: dict[str, Any]) -> str:
    """For people."""
    lines = [f"INCL {state['version']}, up for {duration(state['up_s'])}, data in {state['data']}", ""]
    lines.append(f"  bus          {state['bus']}")
    lines.append(f"  gateway      {state['gateway']}")
    lines.append(f"  artifacts    {state['registry']}")
    if state["cloud"] is not None:
        lines.append(f"  cloud        {state['cloud']['url']} (a fake one: {state['cloud']['vms']})")
    lines.append("")
    for service in state["services"]:
        mark = "ready   " if service["ready"] else "NOT WELL"
        again = f"  restarted {service['restarts']}x" if service["restarts"] else ""
        lines.append(f"  {service['name']:<12} {mark}  pid {service['pid']}{again}")
    lines.append("")
    cluster = state["cluster"]
    if cluster is None:
        lines.append(f"  the queue is not known: {state['problem']}")
    else:
        lines += [_node(node) for node in cluster["nodes"]] or ["  no machine has reported"]
        lines += [_gang(gang) for gang in state["machines"]]
        lines.append(f"  {cluster['running']} running, {cluster['queued']} queued")
    waiting = state["waiting"]
    if waiting["jobs"]:
        lines.append(f"  {count(waiting['jobs'], 'ended job')} to be stored yet, {size(waiting['bytes'])}")
    if waiting["dropped"]:
        lines.append(f"  {count(waiting['dropped'], 'job')} lost telemetry that could not be kept; see the agent's log")
    if state["stuck"]:
        lines.append(f"  {count(state['stuck'], 'thing')} stuck; see: incl admin stuck")
    disk = state["disk"]
    lines.append(f"  {size(disk['used'])} used, {size(disk['free'])} free on the disk")
    if disk["full"]:
        lines.append("  THE DISK IS FULL: nothing new is taken; make room there, it goes on by itself")
    return "\n".join(lines) + "\n"


def _node(node: dict[str, Any]) -> str:
    gpus = f", {node['gpus_used']}/{node['gpus']} GPUs" if node["gpus"] else ""
    alive = "" if node["alive"] else f"  SILENT for {duration(node['seen_s'])}"
    alive = f"  REFUSED: {node['refused']}" if node["refused"] else alive
    memory = f"{size(node['memory_used'])}/{size(node['memory'])}"
    cores = f"{node['cpu_used']:g}/{node['cpu']:g} cores"
    return f"  node {node['node']:<7} {cores}, {memory}{gpus}, {count(node['jobs'], 'job')}{alive}"


def _gang(gang: dict[str, Any]) -> str:
    machines = f"{len(gang['nodes'])} x {gang['machine']}{' spot' if gang['spot'] else ''}"
    place = gang["zone"] or ", ".join(gang["zones"]) or "nowhere yet"
    return f"  cloud  {machines} for {short(gang['experiment'])} in {place}: {gang['phase']}"


def count(number: int, noun: str) -> str:
    """Like 1 job, 3 jobs."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """Like 12 s, 3 min, 2.5 h, 4 d."""
    for limit, unit, divisor in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
