"""Putting a backup into a data folder: all of it is made beside, compared, and only then swapped in.

How it is swapped: `swap`. What was there before lies in `before-restore-…` until its owner removes it. The folder of
the agent stays: jobs of this machine may still run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from incl_cli.text import size as size_text
from incl_local.alone import bus_alone
from incl_local.backup import databases, files, swap
from incl_local.backup.create import SETTINGS, STREAMS
from incl_local.backup.manifest import BLOBS, Manifest, read_blobs, sum_of
from incl_local.backup.sources import Source, opened
from incl_local.layout import Layout
from incl_local.platform import declare
from incl_local.running import end_leftovers, read
from incl_shared.archive.frames import BadFrames
from incl_shared.bus import copying
from incl_shared.bus.client import BusClient
from incl_shared.errors import ConflictError, IntegrityError, UnavailableError

_AHEAD = 1_000_000
"""So many wanted states may have been written since the backup: the next generation is above all that a node saw."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Restored:
    """What was done. aside: where the old data lies, if there was any."""

    place: Path
    manifest: Manifest
    data: Path
    aside: Path | None
    seconds: float


def restore(place: Path, layout: Layout, say: Say) -> Restored:
    """Make a data folder what it was at the moment of a backup.

    Raises:
        ConflictError: the platform runs.
        NotFoundError, IntegrityError, UnsupportedError: there is no such backup, or it is damaged, or too new.
        UnavailableError: there is too little room, or the bus does not start.
    """
    began = time.monotonic()
    _not_running(layout)
    with opened(place) as source:
        layout.prepare()
        with layout.locked():
            swap.finish(layout)
            end_leftovers(layout)
            fresh = Layout(layout.root / f".restoring-{os.getpid()}")
            _clear(layout)
            try:
                _room(sum(member.raw + member.size for member in source.manifest.members), layout.root)
                _make(source, fresh, layout, say)
                aside = swap.swap(layout, fresh, _names(source.manifest))
            finally:
                shutil.rmtree(fresh.root, ignore_errors=True)
    return Restored(source.place, source.manifest, layout.root, aside, time.monotonic() - began)


def set_bus_aside(layout: Layout) -> Path:
    """Move the store of a bus that does not start out of the way; the next `incl up` makes a new one.

    Raises:
        ConflictError: the platform runs.
    """
    _not_running(layout)
    layout.prepare()
    with layout.locked():
        end_leftovers(layout)
        store = layout.nats / "jetstream"
        aside = layout.nats / f"jetstream.lost-{swap.stamp()}"
        if store.exists():
            store.rename(aside)
    return aside


def _not_running(layout: Layout) -> None:
    running = read(layout)
    if running is not None and running.identity.alive():
        raise ConflictError(f"the platform in {layout.root} runs", hint="incl down; jobs go on, and are found again")


def _clear(layout: Layout) -> None:
    """What a restore that was killed left: nothing of it was used."""
    for left in layout.root.glob(".restoring-*"):
        shutil.rmtree(left)


def _room(needed: int, root: Path) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise UnavailableError(
            f"the restore needs {size_text(needed)}, the disk has {size_text(free)}",
            hint="make room, or restore elsewhere: --data DIR",
        )


def _make(source: Source, fresh: Layout, old: Layout, say: Say) -> None:
    """The whole data folder, beside."""
    fresh.prepare()
    staged = fresh.root / "members"
    source.unpack(staged)
    manifest = source.manifest
    say(f"{len(manifest.members)} files are what the backup says")
    for member in manifest.members:
        if member.name.startswith("db/"):
            path = fresh.root / member.name.removesuffix(".zst")
            databases.unpack(staged / member.name, path, member.raw)
            databases.check(path)
            _renew(path)
    for name in SETTINGS:
        if (staged / "settings" / name).exists():
            (staged / "settings" / name).rename(fresh.root / name)
    _place_keys(staged, fresh, old)
    if manifest.artifacts:
        _artifacts(source, staged, fresh, old, say)
    asyncio.run(_fill_bus(staged, fresh, say))
    shutil.rmtree(staged)
    shutil.rmtree(fresh.agent)
    shutil.rmtree(fresh.logs)
    files.sync_files(fresh.root)


def _renew(path: Path) -> None:
    """What must not be as it was: leases are free, ids in inboxes are young, wanted states above those that were seen.

    The bus keeps what is sent to it again for as long as new events; so must the inboxes.
    """
    connection = sqlite3.connect(path)
    try:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        with connection:
            if "inbox" in tables:
                connection.execute("UPDATE inbox SET seen = ?", (time.time(),))
            if "leases" in tables:
                connection.execute("UPDATE leases SET expires = 0, fence = fence + ?", (_AHEAD,))
            if path.name == "provisioner.db" and "nodes" in tables:
                connection.execute("UPDATE nodes SET generation = generation + ?", (_AHEAD,))
    except sqlite3.Error as error:
        raise IntegrityError(f"{path.name} of the backup cannot be used", cause=str(error)) from error
    finally:
        connection.close()


def _place_keys(staged: Path, fresh: Layout, old: Layout) -> None:
    """The backup's keys; where it has none, those that are here."""
    for kind, target, here in (
        ("platform", fresh.keys, old.keys),
        ("bus", fresh.nats / "keys", old.nats / "keys"),
    ):
        for source in (staged / "keys" / kind, here):
            if source.is_dir() and any(source.iterdir()):
                shutil.copytree(source, target, dirs_exist_ok=True)
                break
    for path in (staged / "keys" / "registry" / "grants.key", old.artifacts / "grants.key"):
        if path.exists():
            shutil.copy2(path, fresh.artifacts / "grants.key")
            break


def _artifacts(source: Source, staged: Path, fresh: Layout, old: Layout, say: Say) -> None:
    """From the store that is here where it has them undamaged, else from the backup."""
    left = read_blobs(staged / BLOBS)
    linked = 0
    for sha256, size in list(left.items()):
        here = old.artifacts / "sha256" / sha256[:2] / sha256
        target = _blob(fresh, sha256)
        if here.is_file() and here.stat().st_size == size:
            with here.open("rb") as file:
                sound = sum_of(file) == (sha256, size)
            if sound:
                os.link(here, target)
                del left[sha256]
                linked += 1
    _room(sum(left.values()), fresh.root)
    for sha256, opened_file in source.blobs(left):
        found = files.copy(opened_file, _blob(fresh, sha256), limit=left[sha256])
        if found != (sha256, left[sha256]):
            raise IntegrityError(f"the artifact {sha256[:12]} of the backup is damaged", hint="use another backup")
    say(f"artifacts: {len(left):,} from the backup, {linked:,} were here")


def _blob(layout: Layout, sha256: str) -> Path:
    path = layout.artifacts / "sha256" / sha256[:2] / sha256
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


async def _fill_bus(staged: Path, fresh: Layout, say: Say) -> None:
    async with bus_alone(fresh) as place:
        await declare(place, fresh.limits())
        async with await BusClient.connect(place.bus("admin")) as client:
            for stream in STREAMS:
                path = staged / "streams" / f"{stream}.zst"
                if not path.exists():
                    continue
                try:
                    count = await copying.fill(client, copying.read_copy(path, stream))
                except BadFrames as error:
                    raise IntegrityError(f"the stream {stream} of the backup is damaged", cause=str(error)) from error
                if count:
                    say(f"{stream}: {count:,} messages")


def _names(manifest: Manifest) -> list[str]:
    """What of a data folder is swapped."""
    return ["db", "nats", "keys", "creds", *SETTINGS, *(["artifacts"] if manifest.artifacts else [])]
