"""The client of shared/ against the real door, with connections that break."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from incl_registry.grants import Verb
from incl_registry.http import DoorLimits
from incl_registry.testing.running import Store, close_store, open_store, sha
from incl_shared.artifacts import ArtifactClient, Blob, Wanted
from incl_shared.errors import DeniedError, InclError, IntegrityError, InvalidInput, NotFoundError, UnavailableError
from incl_shared.queries.registry import Grant


class CuttingProxy:
    """Passes bytes on; cuts the next connections after so many bytes (up, down) as `cuts` says."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.cuts: list[tuple[int, int]] = []
        self.connections = 0
        self.sent_up = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up, down = self.cuts.pop(0) if self.cuts else (1 << 60, 1 << 60)
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pumps = {
            asyncio.create_task(self._pump(reader, forth, up)),
            asyncio.create_task(self._pump(back, writer, down)),
        }
        _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for side in (forth, writer):
            side.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, limit: int) -> None:
        with contextlib.suppress(OSError):
            while limit > 0 and (data := await source.read(65_536)):
                data = data[:limit]
                limit -= len(data)
                target.write(data)
                self.sent_up += len(data)
                await target.drain()


@pytest.fixture
async def proxy(store: Store) -> AsyncIterator[CuttingProxy]:
    made = CuttingProxy(store.server.port)
    await made.start()
    yield made
    await made.stop()


def through(proxy: CuttingProxy, grant: Grant) -> Grant:
    return grant.model_copy(update={"url": f"http://127.0.0.1:{proxy.port}"})


async def stored(store: Store, experiment: str, data: bytes) -> Grant:
    """Store it; a grant to read it."""
    with ArtifactClient(await store.upload(experiment), patience_s=10) as client:
        await asyncio.to_thread(client.put_bytes, data)
    return await store.download(experiment)


async def test_up_and_down(any_store: Store, experiment: str, tmp_path: Path) -> None:
    source = tmp_path / "new\nline ü.bin"
    source.write_bytes(os.urandom(2_500_000))
    with ArtifactClient(await any_store.upload(experiment)) as client:
        blob = await asyncio.to_thread(client.put_file, source)
        assert await asyncio.to_thread(client.put_file, source, sha256=blob.sha256) == blob
        assert await asyncio.to_thread(client.has, blob)
        assert not await asyncio.to_thread(client.has, Blob(sha(b"?"), 1))
    assert blob == Blob(sha(source.read_bytes()), 2_500_000)
    target = tmp_path / "deep" / "copy ü\n.bin"
    with ArtifactClient(await any_store.download(experiment)) as client:
        assert await asyncio.to_thread(client.get, blob.sha256, target, mode=0o755) == 2_500_000
        assert await asyncio.to_thread(client.get_bytes, blob.sha256) == source.read_bytes()
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in target.parent.iterdir()] == [target.name]


async def test_an_empty_file(store: Store, experiment: str, tmp_path: Path) -> None:
    grant = await stored(store, experiment, b"")
    with ArtifactClient(grant) as client:
        assert await asyncio.to_thread(client.get, sha(b""), tmp_path / "empty") == 0
    assert (tmp_path / "empty").read_bytes() == b""


async def test_what_is_there_is_not_sent_again(store: Store, proxy: CuttingProxy, experiment: str) -> None:
    data = os.urandom(1_000_000)
    await stored(store, experiment, data)
    with ArtifactClient(through(proxy, await store.upload(experiment))) as client:
        await asyncio.to_thread(client.put_bytes, data)
    assert proxy.sent_up < 5000


async def test_many_at_once(store: Store, experiment: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"f{i}" for i in range(40)]
    for index, path in enumerate(paths):
        path.write_bytes(os.urandom(1000) if index % 10 else b"the same")
    with ArtifactClient(await store.upload(experiment)) as client:
        blobs = await asyncio.to_thread(client.put_many, paths, 4)
    assert blobs == [Blob(sha(path.read_bytes()), path.stat().st_size) for path in paths]
    wanted = [Wanted(blob.sha256, tmp_path / "back" / path.name) for blob, path in zip(blobs, paths, strict=True)]
    with ArtifactClient(await store.download(experiment)) as client:
        assert await asyncio.to_thread(client.get_many, wanted) == sum(blob.size for blob in blobs)
    assert all((tmp_path / "back" / path.name).read_bytes() == path.read_bytes() for path in paths)


async def test_an_upload_over_a_line_that_breaks(store: Store, proxy: CuttingProxy, experiment: str) -> None:
    data = os.urandom(8_000_000)
    proxy.cuts = [(3_000_000, 1 << 60), (100, 1 << 60), (2_000_000, 1 << 60), (1 << 60, 10)]
    with ArtifactClient(through(proxy, await store.upload(experiment)), patience_s=20) as client:
        assert await asyncio.to_thread(client.put_bytes, data) == Blob(sha(data), len(data))
    assert proxy.cuts == []
    assert proxy.sent_up < 11_000_000, "it went on, and did not begin again each time"
    with ArtifactClient(await store.download(experiment)) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(data)) == data


async def test_a_download_over_a_line_that_breaks(
    store: Store, proxy: CuttingProxy, experiment: str, tmp_path: Path
) -> None:
    data = os.urandom(8_000_000)
    grant = await stored(store, experiment, data)
    proxy.cuts, proxy.sent_up = [(1 << 60, 3_000_000), (1 << 60, 50), (1 << 60, 2_000_000)], 0
    with ArtifactClient(through(proxy, grant), patience_s=20) as client:
        assert await asyncio.to_thread(client.get, sha(data), tmp_path / "x") == len(data)
    assert (tmp_path / "x").read_bytes() == data
    assert proxy.cuts == []
    assert proxy.sent_up < 9_000_000


async def test_a_store_that_is_away(store: Store, experiment: str) -> None:
    grant = (await store.upload(experiment)).model_copy(update={"url": "http://127.0.0.1:9"})
    with ArtifactClient(grant, patience_s=0.2) as client, pytest.raises(UnavailableError) as caught:
        await asyncio.to_thread(client.put_bytes, b"x")
    assert caught.value.hint == "incl status"


async def test_a_store_that_comes_back(sqlite_url: str, tmp_path: Path, experiment: str) -> None:
    first = await open_store(sqlite_url, tmp_path / "b")
    grant, port = await first.upload(experiment), first.server.port
    await close_store(first)
    with ArtifactClient(grant, patience_s=20) as client:
        waiting = asyncio.create_task(asyncio.to_thread(client.put_bytes, b"patience"))
        second = await open_store(sqlite_url, tmp_path / "b", port=port)
        try:
            assert (await waiting).sha256 == sha(b"patience")
        finally:
            await close_store(second)


async def test_closing_ends_what_hangs(experiment: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        grant = Grant(url=f"http://127.0.0.1:{silent.getsockname()[1]}", token="t", expires=2e9)
        client = ArtifactClient(grant)
        fetch = asyncio.create_task(asyncio.to_thread(client.get, "0" * 64, tmp_path / "x"))
        held, _ = await asyncio.to_thread(silent.accept)
        client.close()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(fetch, 5)
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asyncio.to_thread(client.get, "0" * 64, tmp_path / "x"), 5)
        held.close()


async def test_expired_grants(store: Store, experiment: str) -> None:
    fresh = await store.upload(experiment)
    stale = fresh.model_copy(update={"token": store.forged(experiment, Verb.PUT, expires=1.0)})
    with ArtifactClient(stale) as client, pytest.raises(DeniedError, match="does not allow") as caught:
        await asyncio.to_thread(client.put_bytes, b"x")
    assert caught.value.hint == "ask for a new grant"
    asked = []

    def renew() -> Grant:
        asked.append(threading.current_thread().name)
        return fresh

    with ArtifactClient(stale, renew=renew) as client:
        await asyncio.to_thread(client.put_bytes, b"x")
        await asyncio.to_thread(client.put_bytes, b"y")
    assert len(asked) == 1


async def test_what_is_not_there_and_what_is_not_mine(store: Store, experiment: str, tmp_path: Path) -> None:
    grant = await stored(store, experiment, b"x")
    with ArtifactClient(grant) as client:
        with pytest.raises(DeniedError):
            await asyncio.to_thread(client.get, sha(b"never"), tmp_path / "y")
        (store.folder / "sha256" / sha(b"x")[:2] / sha(b"x")).unlink()
        with pytest.raises(NotFoundError):
            await asyncio.to_thread(client.get, sha(b"x"), tmp_path / "y")
    assert list(tmp_path.glob("*y*")) == []


async def test_a_damaged_store_is_noticed(store: Store, experiment: str, tmp_path: Path) -> None:
    grant = await stored(store, experiment, b"precious")
    (store.folder / "sha256" / sha(b"precious")[:2] / sha(b"precious")).write_bytes(b"rotten!!")
    with ArtifactClient(grant) as client, pytest.raises(IntegrityError, match="not what they were"):
        await asyncio.to_thread(client.get, sha(b"precious"), tmp_path / "y")
    assert not (tmp_path / "y").exists()


async def test_a_wrong_checksum_given(store: Store, experiment: str, tmp_path: Path) -> None:
    """The caller's checksum was of an older content: the file is hashed again, and stored as it is."""
    source = tmp_path / "f"
    source.write_bytes(b"newer")
    with ArtifactClient(await store.upload(experiment)) as client:
        assert await asyncio.to_thread(client.put_file, source, sha256=sha(b"older")) == Blob(sha(b"newer"), 5)


async def test_a_file_that_cannot_be_read(store: Store, experiment: str, tmp_path: Path) -> None:
    with ArtifactClient(await store.upload(experiment)) as client:
        with pytest.raises(InvalidInput, match="cannot read"):
            await asyncio.to_thread(client.put_file, tmp_path / "missing")
        with pytest.raises(InvalidInput, match="cannot read"):
            await asyncio.to_thread(client.put_file, tmp_path)


async def test_a_full_store_is_said_at_once(sqlite_url: str, tmp_path: Path, experiment: str) -> None:
    store = await open_store(sqlite_url, tmp_path / "b", DoorLimits(min_free=1 << 60, max_blob=1 << 40, idle_s=5))
    try:
        grant = await store.upload(experiment)
        with ArtifactClient(grant, patience_s=60) as client, pytest.raises(UnavailableError, match="full") as caught:
            await asyncio.to_thread(client.put_bytes, b"x")
        assert "incl doctor" in caught.value.hint
    finally:
        await close_store(store)


async def test_no_place_for_a_download(store: Store, experiment: str, tmp_path: Path) -> None:
    grant = await stored(store, experiment, b"x")
    (tmp_path / "file").write_bytes(b"")
    with ArtifactClient(grant) as client, pytest.raises(InclError, match="cannot write"):
        await asyncio.to_thread(client.get, sha(b"x"), tmp_path / "file" / "x")


async def test_memory_stays_flat(store: Store, experiment: str, tmp_path: Path) -> None:
    """60 MB up and down through this one process, client and store: no more than some buffers."""
    size, source = 60 << 20, tmp_path / "big"
    with source.open("wb") as out:
        out.truncate(size)
    process = psutil.Process()
    await stored(store, experiment, b"warm" * 1_000_000)
    before, peak, done = process.memory_info().rss, 0, asyncio.Event()

    async def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), 0.02)

    watcher = asyncio.create_task(watch())
    with ArtifactClient(await store.upload(experiment)) as client:
        blob = await asyncio.to_thread(client.put_file, source)
    with ArtifactClient(await store.download(experiment)) as client:
        await asyncio.to_thread(client.get, blob.sha256, tmp_path / "copy")
    done.set()
    await watcher
    assert (tmp_path / "copy").stat().st_size == size
    with source.open("rb") as whole:
        assert blob.sha256 == hashlib.file_digest(whole, "sha256").hexdigest()
    assert peak - before < 24 << 20


async def test_a_store_that_has_no_room_says_so_before_anything_is_sent(
    sqlite_url: str, tmp_path: Path, experiment: str
) -> None:
    """The answer to a HEAD has no body; its reason comes all the same."""
    store = await open_store(sqlite_url, tmp_path / "b", DoorLimits(min_free=1 << 60, max_blob=1 << 30, idle_s=5))
    try:
        with ArtifactClient(await store.upload(experiment)) as client, pytest.raises(UnavailableError) as caught:
            await asyncio.to_thread(client.put_bytes, b"x")
        assert "are needed" in caught.value.cause
    finally:
        await close_store(store)
