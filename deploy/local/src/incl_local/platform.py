"""The whole platform of one machine: the bus, its streams and credentials, and every service.

Jobs are no children of it: their shims go on when it stops, and the next start finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from incl_local import __version__, bucket, cloud
from incl_local.backup import swap
from incl_local.bus import end_strays, server_binary, wait_until_ready
from incl_local.credentials import issue, write_context
from incl_local.diskwatch import DiskWatch
from incl_local.layout import LOOPBACK, Layout, free_port
from incl_local.ops import serve
from incl_local.place import NODE, PROJECT, SERVICE_NAMES, Place, local_user
from incl_local.processes import own, write_private
from incl_local.running import end_leftovers
from incl_local.services import App, build, preload
from incl_local.supervisor import Child, Supervisor
from incl_local.watchdog import Watchdog, greets, lives
from incl_shared.auth.server_config import BusPaths, prepare
from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.errors import UnavailableError
from incl_shared.queries.provisioner import GetCluster
from incl_shared.tasks import end_all

_log = structlog.get_logger("incl.platform")
NODE_PATIENCE = 15.0


class Progress(Protocol):
    """Who is told what happens while the platform starts."""

    def __call__(self, name: str, detail: str, seconds: float) -> None:
        """One part is ready after this long."""
        ...


@dataclass(frozen=True)
class Options:
    """What `incl up` was asked for."""

    processes: bool = False
    ports: Mapping[str, int] = field(default_factory=dict)
    context: bool = True
    """Whether the user's context is to point here."""
    cloud: str = ""
    """fake: a cloud on this machine; empty: none, but for what the provisioner's own settings name."""


class Platform:
    """Start, watch and stop all of it."""

    def __init__(self, layout: Layout, options: Options, progress: Progress) -> None:
        self._layout = layout
        self._options = options
        self._progress = progress
        self._supervisors: dict[str, Supervisor] = {}
        self._apps: dict[str, App] = {}
        self._exit = contextlib.AsyncExitStack()
        self._ready = False
        self._declare_again: Callable[[], Coroutine[None, None, None]] | None = None
        self._declaring: asyncio.Task[None] | None = None
        self._disk: DiskWatch | None = None
        self.place: Place | None = None

    async def start(self) -> Place:
        """Bring everything up.

        Raises:
            InclError: when something cannot be started; what was started is stopped again.
        """
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self.stop)
            await self._start()
            undo.pop_all()
        assert self.place is not None
        return self.place

    async def stop(self) -> None:
        """Stop services first, the bus last. Jobs go on."""
        await end_all([self._declaring])
        await self._exit.aclose()

    async def _start(self) -> None:
        loading = None if self._options.processes else asyncio.create_task(asyncio.to_thread(preload))
        self._layout.prepare()
        self._exit.enter_context(self._layout.locked())
        swap.finish(self._layout)
        self._layout.choose_databases(os.environ)
        bucket.choose(self._layout, os.environ)
        await asyncio.to_thread(end_leftovers, self._layout)
        self._exit.callback(lambda: self._layout.run_file.unlink(missing_ok=True))
        ports = self._layout.ports(dict(self._options.ports))
        limits = self._layout.limits()
        bus = await asyncio.to_thread(prepare, self._layout.nats, ports["bus"], reserved=limits.file_bytes)
        place = Place(self._layout, ports, self._options.processes)
        self.place = place
        await self._start_bus(bus, place)
        if self._options.cloud:
            self.place = place = await self._start_cloud(place)
        if loading is not None:
            await loading
        start = self._start_processes if self._options.processes else self._start_services
        await start(place)
        if self._options.context:
            write_context(place)
        await self._timed("node", NODE, self._wait_for_node(place))
        self._ready = True
        self._write_run_file()

    async def _timed(self, name: str, detail: str, work: Awaitable[None]) -> None:
        began = time.monotonic()
        await work
        self._progress(name, detail, time.monotonic() - began)

    async def _start_bus(self, bus: BusPaths, place: Place) -> None:
        log = self._layout.logs / "nats.log"
        child = Child("nats", [str(server_binary()), "-c", str(bus.config)], log)

        async def up() -> None:
            await asyncio.to_thread(end_strays, bus)
            await self._supervise(child, self._bus_changed, partial(greets, LOOPBACK, place.ports["bus"]))
            await wait_until_ready(bus.ports_dir, lambda: self._supervisors["nats"].identity, log)
            issue(place, bus.minter)
            await declare(place, self._layout.limits())
            self._declare_again = lambda: self._declared_again(place, bus, log)
            self._watch_disk(bus, log)

        await self._timed("bus", bus.url, up())

    async def _start_cloud(self, place: Place) -> Place:
        """A fake cloud beside the platform; it ends with it, and all of its machines do."""
        root, log = self._layout.root, self._layout.logs / "cloud.log"
        port = free_port(set(place.ports.values()))
        reach = [place.ports[name] for name in ("bus", "registry", "gateway")]
        began = time.monotonic()
        archive, sha256 = await asyncio.to_thread(cloud.make_archive, root)
        self._exit.callback(lambda: shutil.rmtree(cloud.vms(root), ignore_errors=True))
        await self._supervise(cloud.child(root, port, reach, log))
        supervisor = self._supervisors["cloud"]
        said = await asyncio.to_thread(cloud.wait_until_said, root, lambda: supervisor.identity, log)
        self._progress("cloud", f"{said['url']} ({said['vms']})", time.monotonic() - began)
        return replace(place, cloud=cloud.CloudPlace(port, str(archive), sha256))

    def _watch_disk(self, bus: BusPaths, log: Path) -> None:
        supervisor = self._supervisors["nats"]
        self._disk = DiskWatch(bus, log, reload=supervisor.reload, restart=supervisor.restart)
        task = asyncio.create_task(self._disk.run(self._write_run_file), name="disk of the bus")
        self._exit.push_async_callback(lambda: end_all([task]))

    def _bus_changed(self) -> None:
        """The bus was started. When it is not for the first time, it may have lost its streams."""
        self._write_run_file()
        if self._declare_again is not None:
            self._declaring = asyncio.create_task(self._declare_again(), name="declare again")

    async def _declared_again(self, place: Place, bus: BusPaths, log: Path) -> None:
        try:
            await wait_until_ready(bus.ports_dir, lambda: self._supervisors["nats"].identity, log)
            await declare(place, self._layout.limits())
        except Exception:  # noqa: BLE001 - the edge: the bus is restarted, and asked, again
            _log.exception("the streams could not be declared again")

    async def _supervise(
        self,
        child: Child,
        changed: Callable[[], None] | None = None,
        answers: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """answers: whether it does; a child that hangs is killed, and started again."""
        supervisor = Supervisor(child, changed or self._write_run_file)
        self._supervisors[child.name] = supervisor
        await supervisor.start()
        self._exit.push_async_callback(supervisor.stop)
        if answers is not None:
            watching = asyncio.create_task(Watchdog(child.name, supervisor, answers).run(), name=f"ask {child.name}")
            self._exit.push_async_callback(lambda: end_all([watching]))

    async def _start_services(self, place: Place) -> None:
        async def up(name: str) -> None:
            app = build(name, place)
            await app.start()
            self._apps[name] = app
            self._exit.push_async_callback(_quietly, name, app.stop)

        await _all_of(self._timed(name, place.detail(name), up(name)) for name in SERVICE_NAMES)
        await self._exit.enter_async_context(serve(self._apps, place.ports["ops"]))

    async def _start_processes(self, place: Place) -> None:
        place.save()
        for name in SERVICE_NAMES:
            command = [sys.executable, "-m", "incl_local.service", name, "--data", str(self._layout.root)]
            child = Child(name, command, self._layout.logs / f"{name}.log")
            await self._supervise(child, answers=partial(lives, place.ops_url(name), name))
        await _all_of(self._timed(name, place.detail(name), place.wait_healthy(name)) for name in SERVICE_NAMES)

    async def _wait_for_node(self, place: Place) -> None:
        deadline = time.monotonic() + NODE_PATIENCE
        async with await BusClient.connect(place.bus("user")) as client:
            while True:
                cluster = await client.ask(GetCluster(), project=PROJECT, user=local_user())
                if any(node.node == NODE and node.alive for node in cluster.nodes):
                    return
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        "this machine's agent did not report", hint=f"see {self._layout.logs}, or run: incl doctor"
                    )
                await asyncio.sleep(0.02)

    def _write_run_file(self) -> None:
        if self.place is None:
            return
        me = own()
        children = {name: supervisor.identity for name, supervisor in self._supervisors.items()}
        text = json.dumps(
            {
                "version": __version__,
                "pid": me.pid,
                "started": me.started,
                "ports": dict(self.place.ports),
                "processes": self._options.processes,
                "ready": self._ready,
                "children": {n: {"pid": i.pid, "started": i.started} for n, i in children.items() if i is not None},
                "disk_full": self._disk is not None and (self._disk.refusing or self._disk.hit),
                "refused": 0 if self._disk is None else self._disk.refused,
                "restarts": {n: s.restarts for n, s in self._supervisors.items()},
            }
        )
        write_private(self._layout.run_file, text)


async def _all_of(works: Iterable[Coroutine[None, None, None]]) -> None:
    """All at once; the first error ends the others and is raised by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def declare(place: Place, limits: topology.Limits) -> None:
    """Declare the streams and durables, as the administrator."""
    async with await BusClient.connect(place.bus("admin")) as client:
        await topology.apply(client.jetstream(), limits=limits)
        await topology.ensure_all(client.jetstream(), topology.DURABLES)


async def _quietly(name: str, stop: Callable[[], Awaitable[None]]) -> None:
    try:
        await stop()
    except Exception:  # noqa: BLE001 - one service that cannot stop must not keep the others up
        _log.exception("could not stop", service=name)
