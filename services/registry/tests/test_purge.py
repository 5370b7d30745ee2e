"""What a purge deletes, what it spares, and that it ends whatever happens in between."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from incl_registry import store_purge
from incl_registry.folder import FolderBlobs
from incl_registry.purge import Purged, purge
from incl_registry.tables import blobs as blobs_table
from incl_registry.tables import claims, doomed, entries, purges, uses
from incl_registry.testing.running import ANN, Store, entry, sha, upload_id
from incl_shared.artifacts import ArtifactClient
from incl_shared.bus.delivery import Delivery
from incl_shared.errors import DeniedError, InclError, NotFoundError
from incl_shared.events import ExperimentPurged, ExperimentQueued, Medium, Thumbnail
from incl_shared.ids import new_id
from incl_shared.queries.registry import CommitArtifacts, ListArtifacts
from incl_shared.spec import ExperimentSpec
from incl_shared.subjects import event
from incl_shared.testing.clock import FakeClock
from incl_shared.testing.wait import until

LATER = 10 * 86_400.0
GRACE, USED_GRACE = 900.0, 86_400.0


def told(experiment: str, project: str = "default") -> Delivery:
    said = ExperimentPurged(experiment=experiment)
    return Delivery(
        subject=event(project, "trash", experiment), payload=said.model_dump_json().encode(), headers={},
        id=new_id(), type=said.type_name(), time=0.0, version=1, stream="EVENTS", sequence=1, deliveries=1,
        traceparent=None,
    )  # fmt: skip


async def purged(store: Store, experiment: str, project: str = "default") -> None:
    await store.database.write(lambda tx: store.handlers.event(tx, told(experiment, project)))


async def kept(store: Store, experiment: str, *contents: bytes, kind: str = "output") -> None:
    """Upload and list files."""
    with ArtifactClient(await store.upload(experiment)) as client:
        for content in contents:
            await asyncio.to_thread(client.put_bytes, content)
    listed = tuple(entry(content, f"{content.decode()}.bin", kind) for content in contents)
    await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=listed))


async def round_at(store: Store, seconds: float) -> Purged:
    """A round of the purge, that much later than now."""
    import time

    clock = FakeClock(time.time() + seconds)
    return await purge(store.database, store.blobs, clock, grace_s=GRACE, used_grace_s=USED_GRACE)


async def left(store: Store) -> dict[str, int]:
    """Rows that are left, by table."""

    def read(connection: sa.Connection) -> dict[str, int]:
        count = sa.func.count()
        tables = (entries, uses, purges, doomed, blobs_table)
        return {t.name: connection.execute(sa.select(count).select_from(t)).scalar_one() for t in tables}

    return await store.database.read(read)


async def test_a_purge_deletes_what_nobody_else_needs(any_store: Store, experiment: str) -> None:
    """Files, thumbnails, code, and what was uploaded but never listed; not what another experiment lists."""
    store, other = any_store, new_id()
    await kept(store, experiment, b"mine", b"shared")
    await kept(store, other, b"shared", b"theirs")
    with ArtifactClient(await store.upload(experiment)) as client:
        for content in (b"picture", b"small", b"never listed"):
            await asyncio.to_thread(client.put_bytes, content)
    small = Thumbnail(sha256=sha(b"small"), size=5, format="webp", width=9, height=9)
    picture = entry(b"picture", "x/1/x.png", "media", medium=Medium(type="image", key="x", thumbnail=small))
    await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=(picture,)))
    with ArtifactClient(await store.download(experiment)) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(b"small")) == b"small"
    for _ in range(2):
        await purged(store, experiment)
    assert await round_at(store, 60) == Purged(0, 0)
    assert store.blobs.size(sha(b"mine")) is not None, "an upload of the same bytes may be under way"
    done = await round_at(store, LATER)
    assert done == Purged(4, len(b"mine") + len(b"picture") + len(b"small") + len(b"never listed"))
    for content in (b"mine", b"picture", b"small", b"never listed"):
        assert store.blobs.size(sha(content)) is None
    for content in (b"shared", b"theirs"):
        assert store.blobs.size(sha(content)) == len(content)
    assert await left(store) == {"entries": 2, "uses": 2, "purges": 0, "doomed": 0, "blobs": 2}
    await purged(store, other)
    assert (await round_at(store, LATER)).blobs == 2
    assert await left(store) == {"entries": 0, "uses": 0, "purges": 0, "doomed": 0, "blobs": 0}
    assert await round_at(store, LATER) == Purged(0, 0)


async def test_a_purged_experiment_is_closed_at_once(any_store: Store, experiment: str) -> None:
    """Also one that had no files yet: neither a late job nor a late event brings it back."""
    store, unknown = any_store, new_id()
    await kept(store, experiment, b"mine")
    get, put = await store.download(experiment), await store.upload(experiment)
    for purged_one in (experiment, unknown):
        await purged(store, purged_one)
        with pytest.raises(NotFoundError, match="purged"):
            await store.upload(purged_one)
        with pytest.raises(NotFoundError, match="purged"):
            await store.handlers.files(ANN, ListArtifacts(experiment=purged_one))
        commit = CommitArtifacts(experiment=purged_one, entries=(entry(b"mine"),))
        with pytest.raises(NotFoundError, match="purged"):
            await store.handlers.commit(ANN, commit)
    with ArtifactClient(get, patience_s=1) as client, pytest.raises(DeniedError):
        await asyncio.to_thread(client.get_bytes, sha(b"mine"))
    with ArtifactClient(put, patience_s=1) as client:
        await asyncio.to_thread(client.put_bytes, b"late")
    said = ExperimentQueued(experiment=experiment, user="ann", spec=ExperimentSpec(command=["true"]))
    late = told(experiment)
    queued = Delivery(
        subject=event("default", "experiment", experiment), payload=said.model_dump_json().encode(), headers={},
        id=late.id, type=said.type_name(), time=0.0, version=1, stream="EVENTS", sequence=2, deliveries=1,
        traceparent=None,
    )  # fmt: skip
    await store.database.write(lambda tx: store.handlers.event(tx, queued))
    await round_at(store, LATER)
    assert (await left(store))["entries"] == 0


async def test_another_project_cannot_purge(store: Store, experiment: str) -> None:
    await kept(store, experiment, b"mine")
    await purged(store, experiment, "other")
    await round_at(store, LATER)
    assert (await left(store))["entries"] == 1
    assert store.blobs.size(sha(b"mine")) == 4


async def test_what_another_experiment_has_just_found_waits_for_its_listing(any_store: Store, experiment: str) -> None:
    """A submission whose code the store has already lists it only when it is admitted, which may be hours later."""
    store, submitted = any_store, new_id()
    await kept(store, experiment, b"code")
    with ArtifactClient(await store.upload(submitted)) as client:
        await asyncio.to_thread(client.put_bytes, b"code")
    await purged(store, experiment)
    assert await round_at(store, 3600 * 12) == Purged(0, 0)
    assert store.blobs.size(sha(b"code")) == 4
    await kept(store, submitted, b"code")
    assert await round_at(store, LATER) == Purged(0, 0)
    assert await left(store) == {"entries": 1, "uses": 1, "purges": 0, "doomed": 0, "blobs": 1}


async def test_an_upload_of_the_same_bytes_meanwhile_is_safe(store: Store, experiment: str) -> None:
    """Between the database's word and the file's end somebody uploads the bytes again: the file is theirs."""
    other = new_id()
    await kept(store, experiment, b"same")
    await purged(store, experiment)
    import time

    now = time.time() + LATER
    await store.database.write(lambda tx: store_purge.drop_some(tx.connection, experiment, now))
    await store.database.write(lambda tx: store_purge.drop_some(tx.connection, experiment, now))
    names = await store.database.read(lambda connection: store_purge.due(connection, now))
    gone = await store.database.write(lambda tx: store_purge.condemn(tx.connection, names, now, now - USED_GRACE))
    assert gone.names == (sha(b"same"),)
    await kept(store, other, b"same")
    assert not store.blobs.delete(sha(b"same"), time.time() - GRACE)
    await round_at(store, LATER)
    assert store.blobs.size(sha(b"same")) == 4
    with ArtifactClient(await store.download(other)) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(b"same")) == b"same"


async def test_many_uploads_and_purges_at_once_lose_nothing(store: Store) -> None:
    """Uploaders of the same bytes and rounds without any grace: what was committed can be read, always."""
    content = b"contested"
    stop = asyncio.Event()

    async def purging() -> None:
        while not stop.is_set():
            await round_at(store, 0.0)

    async def one(number: int) -> None:
        experiment = new_id()
        for _ in range(20):
            try:
                await kept(store, experiment, content)
                break
            except InclError:
                continue  # refused, as its claim had just gone: the uploader sends the bytes again
        with ArtifactClient(await store.download(experiment)) as client:
            assert await asyncio.to_thread(client.get_bytes, sha(content)) == content
        await purged(store, experiment)

    rounds = asyncio.create_task(purging())
    for start in range(0, 12, 4):
        await asyncio.gather(*(one(number) for number in range(start, start + 4)))
    stop.set()
    await rounds
    assert (await round_at(store, LATER)).blobs <= 1
    assert store.blobs.size(sha(content)) is None


_ROUND = """
import asyncio, os, sys, time
from pathlib import Path
from incl_registry.folder import FolderBlobs
from incl_registry.purge import purge
from incl_shared.db import Database
from incl_shared.testing.clock import FakeClock

class Slow(FolderBlobs):
    def delete(self, sha256, touched_before):
        Path(sys.argv[3]).touch()
        while True:
            time.sleep(1)

async def main():
    database = Database(sys.argv[1])
    await database.start()
    clock = FakeClock(time.time() + 86400.0)
    await purge(database, Slow(Path(sys.argv[2])), clock, grace_s=900.0, used_grace_s=86400.0)

asyncio.run(main())
"""


async def test_a_kill_between_the_database_and_the_file(
    store: Store, sqlite_url: str, experiment: str, tmp_path: Path
) -> None:
    """The row of the blob is gone, its file is there: the next round deletes it."""
    await kept(store, experiment, b"mine", b"more")
    await purged(store, experiment)
    mark = tmp_path / "at the file"
    command = [sys.executable, "-c", _ROUND, sqlite_url, str(store.folder), str(mark)]
    process = subprocess.Popen(command)
    try:
        await until(mark.exists, timeout=20)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    counts = await left(store)
    assert (counts["blobs"], counts["entries"], counts["doomed"]) == (0, 0, 2)
    assert store.blobs.size(sha(b"mine")) == 4
    assert (await round_at(store, LATER)).blobs == 2
    assert list(store.blobs.blobs()) == []
    assert (await left(store))["doomed"] == 0


async def test_ten_thousand_files_go_in_short_transactions(store: Store, experiment: str) -> None:
    await kept(store, experiment, b"one")
    rows = [
        {
            "experiment": experiment, "key": f"{n}", "attempt": 1, "rank": 0, "kind": "output", "path": f"{n}",
            "step": -1, "sha256": sha(b"%d" % n), "size": 1, "mode": 0o644, "stored": 1.0,
        }
        for n in range(10_000)
    ]  # fmt: skip
    await store.database.write(lambda tx: tx.connection.execute(sa.insert(entries), rows))
    await purged(store, experiment)
    assert (await left(store))["entries"] == 10_001, "the event itself deletes nothing"
    done = await round_at(store, LATER)
    assert done == Purged(1, 3)
    assert await left(store) == {"entries": 0, "uses": 0, "purges": 0, "doomed": 0, "blobs": 0}
    closed = await store.database.read(lambda c: c.execute(sa.select(claims.c.purged)).scalar_one())
    assert closed is not None


def test_a_blob_is_not_deleted_while_it_is_made_young(tmp_path: Path) -> None:
    """Deleting looks at the age and unlinks in one step, as others see it."""
    import threading
    import time

    blobs = FolderBlobs(tmp_path / "blobs")
    name = sha(b"x")
    lost = 0
    for _ in range(100):
        with_upload = blobs.resume(name, upload_id(), 0)
        with_upload.write(b"x")
        with_upload.finish()
        with_upload.close()
        os.utime(tmp_path / "blobs" / "sha256" / name[:2] / name, (1, 1))
        touched: list[bool] = []
        thread = threading.Thread(target=lambda seen: seen.append(blobs.touch(name)), args=(touched,))
        thread.start()
        deleted = blobs.delete(name, time.time() - 60)
        thread.join()
        lost += deleted and touched[0]
    assert lost == 0
