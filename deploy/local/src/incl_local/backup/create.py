"""Making a backup of a platform that runs, or of one that is stopped.

In this order, so that what is in the backup fits together (docs/mechanisms/backup.md says why):
artifacts; the work queues of the bus; then one moment in which nobody can write, with what came into the queues
meanwhile, and the end of EVENTS; then, while all goes on, the events up to there, the databases as they were at that
moment, and the artifacts that are new.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from incl_cli.text import size as size_text
from incl_local import __version__, bucket
from incl_local.alone import bus_alone
from incl_local.backup import databases, files, targets
from incl_local.backup.databases import Moment
from incl_local.backup.manifest import BLOBS, Manifest, Member, is_blob, is_member, sum_of
from incl_local.backup.targets import Target
from incl_local.layout import DATABASE_OWNERS, Layout
from incl_local.running import read
from incl_shared.archive.frames import FrameWriter
from incl_shared.bus import copying, topology
from incl_shared.bus.client import BusClient
from incl_shared.errors import NotFoundError, UnavailableError, UnsupportedError

QUEUES = (topology.REQUESTS, topology.REPORTS, topology.METRICS, topology.LOGS)
LOGS = (topology.EVENTS, topology.DEAD)
STREAMS = (*QUEUES, *LOGS)
SETTINGS = ("limits.json", "ports.json", "store.json")
_LATE_S = 5.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is to be in it."""

    secrets: bool = True
    artifacts: bool = True


@dataclass(frozen=True)
class Made:
    """A backup. held_s: for how long no service could write."""

    place: Path
    manifest: Manifest
    seconds: float
    held_s: float
    new_blobs: int


@dataclass
class _Work:
    layout: Layout
    target: Target
    options: Options
    say: Say
    blobs: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    held_s: float = 0.0
    moment: float = 0.0
    new_blobs: int = 0

    def path(self, name: str) -> Path:
        """Where a member is staged."""
        path = self.target.staging / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path


def create(layout: Layout, place: Path, options: Options, say: Say) -> Made:
    """Make a backup in a folder of backups, or as a .tar file. say: told of what is done, a line each.

    Raises:
        NotFoundError: there is no platform in the data folder.
        ConflictError: the platform is just starting; or the place is taken.
        UnavailableError: the bus or a database cannot be read now.
        OSError: the place cannot be written (full).
    """
    began = time.monotonic()
    if not (layout.root / "db").is_dir():
        raise NotFoundError(f"there is no platform in {layout.root}", hint="incl up makes one; or name it: --data DIR")
    _only_here(layout, options)
    with targets.opened(place) as target:
        work = _Work(layout, target, options, say)
        running = asyncio.run(_fill(work))
        manifest = Manifest(
            incl=__version__, created=work.moment, running=running, secrets=options.secrets,
            artifacts=options.artifacts, members=tuple(_members(work)), blobs=len(work.blobs),
            blob_bytes=sum(work.blobs.values()), missing=tuple(sorted(work.missing)),
        )  # fmt: skip
        made = target.finish(manifest)
    return Made(made, manifest, time.monotonic() - began, work.held_s, work.new_blobs)


def _only_here(layout: Layout, options: Options) -> None:
    """Refuse what lies in no file of this machine."""
    if options.artifacts and (where := bucket.chosen(layout)):
        raise UnsupportedError(
            "this backup has the artifacts of the data folder alone",
            cause=f"they lie in {where['store']}",
            hint="back the bucket up by itself, and the rest with: incl admin backup --no-artifacts",
        )
    away = [name for name in DATABASE_OWNERS if layout.database(name) != layout.own_database(name)]
    if away:
        raise UnsupportedError(
            "this backup has the databases of the data folder alone",
            cause=f"other ones were chosen for: {', '.join(away)}",
            hint="see docs/runbooks/backup.md, Databases elsewhere",
        )


async def _fill(work: _Work) -> bool:
    running = read(work.layout)
    alive = running is not None and running.identity.alive()
    if work.options.artifacts:
        await asyncio.to_thread(_store_all, work)
    async with contextlib.AsyncExitStack() as stack:
        if alive and running is not None:
            place = running.place
        else:
            stack.enter_context(work.layout.locked())
            place = await stack.enter_async_context(bus_alone(work.layout))
        client = await stack.enter_async_context(await BusClient.connect(place.bus("admin")))
        await _state(work, client)
    if work.options.artifacts:
        await asyncio.to_thread(_store_new, work)
    _settings(work)
    if work.options.secrets:
        _keys(work)
    return alive


async def _state(work: _Work, client: BusClient) -> None:
    """Streams and databases."""
    paths = sorted((work.layout.root / "db").glob("*.db"))
    with contextlib.ExitStack() as stack:
        copies = {stream: _Copy(stack, work, stream) for stream in STREAMS}
        for stream in QUEUES:
            await copies[stream].add(client, await copying.last_sequence(client, stream))
        with Moment(paths) as moment:
            work.moment = time.time()
            ends = await _at_the_moment(client, copies)
            moment.release()
            work.held_s = moment.held_s
            work.say(f"the databases and the bus at one moment; nobody could write for {moment.held_s * 1000:.0f} ms")
            for stream in LOGS:
                await copies[stream].add(client, ends[stream])
            for path in paths:
                await asyncio.to_thread(_database, work, moment, path)
    counts = ", ".join(f"{copy.count:,} {name}" for name, copy in copies.items() if copy.count)
    work.say(f"messages of the bus: {counts or 'none'}")


async def _at_the_moment(client: BusClient, copies: dict[str, _Copy]) -> dict[str, int]:
    """What came into the queues since they were read, and where the others end. Quick: all services wait for it."""
    try:
        async with asyncio.timeout(_LATE_S):
            for stream in QUEUES:
                await copies[stream].add(client, await copying.last_sequence(client, stream))
            return {stream: await copying.last_sequence(client, stream) for stream in LOGS}
    except TimeoutError:
        raise UnavailableError(
            "the bus is too slow to be read at one moment", hint="try again when less is going on"
        ) from None


class _Copy:
    """The copy of one stream, in several steps."""

    def __init__(self, stack: contextlib.ExitStack, work: _Work, stream: str) -> None:
        self._stream = stream
        self._last = 0
        self._file = stack.enter_context(FrameWriter(work.path(f"streams/{stream}.zst"), [copying.KIND, 1, stream]))

    @property
    def count(self) -> int:
        """Messages so far."""
        return self._file.count

    async def add(self, client: BusClient, upto: int) -> None:
        """All after the last one, up to a sequence."""
        found: AsyncIterator[copying.Message] = copying.messages(client, self._stream, after=self._last, upto=upto)
        async for message in found:
            self._file.add([message.sequence, message.subject, message.headers, message.payload])
        self._last = max(self._last, upto)


def _database(work: _Work, moment: Moment, path: Path) -> None:
    copied = work.path(f"db/{path.name}")
    try:
        moment.copy(path, copied)
        databases.pack(copied, work.path(f"db/{path.name}.zst"))
        work.say(f"{path.stem}: {size_text(copied.stat().st_size)}")
        if path.name == "registry.db":
            work.blobs = _listed(copied)
        work.path(f"db/{path.name}.size").write_text(str(copied.stat().st_size))
    finally:
        copied.unlink(missing_ok=True)


def _listed(registry: Path) -> dict[str, int]:
    """What the artifact store says that it has: sha256 -> bytes."""
    connection = sqlite3.connect(registry)
    try:
        rows = connection.execute("SELECT sha256, max(size) FROM blobs GROUP BY sha256").fetchall()
    finally:
        connection.close()
    return {str(sha256): int(size) for sha256, size in rows if is_blob(str(sha256))}


def _blob(layout: Layout, sha256: str) -> Path:
    return layout.artifacts / "sha256" / sha256[:2] / sha256


def _store_all(work: _Work) -> None:
    """Artifacts that lie there now: most of the work, before anybody has to wait."""
    count = size = 0
    for path in _lying(work.layout):
        if work.target.put_blob(path.name, path):
            count += 1
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
    work.say(f"artifacts: {count:,} files, {size_text(size)}")


def _lying(layout: Layout) -> Iterator[Path]:
    for folder in sorted((layout.artifacts / "sha256").glob("??")):
        for path in sorted(folder.iterdir()):
            if is_blob(path.name):
                yield path


def _store_new(work: _Work) -> None:
    """Artifacts that were listed meanwhile; and those that are listed and cannot be had."""
    for sha256 in list(work.blobs):
        if not work.target.put_blob(sha256, _blob(work.layout, sha256)):
            work.missing.append(sha256)
            del work.blobs[sha256]
            work.say(f"warning: the artifact {sha256[:12]} is missing or damaged in the store")
    text = "".join(f"{sha256} {size}\n" for sha256, size in sorted(work.blobs.items()))
    with files.created(work.path(BLOBS)) as file:
        file.write(text.encode())


def _settings(work: _Work) -> None:
    for name in SETTINGS:
        path = work.layout.root / name
        if path.exists():
            _take(path, work.path(f"settings/{name}"))


def _keys(work: _Work) -> None:
    """Signing keys, the vault's key, the key of grants. Credentials are made of these at every start."""
    places = {"platform": work.layout.keys, "bus": work.layout.nats / "keys"}
    found = [
        (f"keys/{kind}/{path.relative_to(folder)}", path)
        for kind, folder in places.items()
        for path in sorted(folder.rglob("*"))
    ]
    found.append(("keys/registry/grants.key", work.layout.artifacts / "grants.key"))
    for name, path in found:
        if is_member(name) and path.is_file() and not path.is_symlink():
            _take(path, work.path(name))


def _take(source: Path, target: Path) -> None:
    with source.open("rb") as file:
        files.copy(file, target)


def _members(work: _Work) -> Iterator[Member]:
    """Everything that was staged; the sizes that were noted are those of databases."""
    for path in sorted(work.target.staging.rglob("*")):
        name = path.relative_to(work.target.staging).as_posix()
        if not path.is_file() or not is_member(name):
            continue
        noted = path.with_suffix(".size")
        raw = int(noted.read_text()) if noted.exists() else path.stat().st_size
        noted.unlink(missing_ok=True)
        with path.open("rb") as file:
            sha256, size = sum_of(file)
        yield Member(name, size, sha256, raw)
