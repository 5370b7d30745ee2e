"""The whole door with the store in a bucket: the client of shared/, HTTP, grants, signed addresses, the provider."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from google.oauth2 import service_account

from incl_registry.fakes.gcs import FakeStorage
from incl_registry.fakes.gcs.identity import EMAIL
from incl_registry.gcs.connect import connect
from incl_registry.gcs.links import Links
from incl_registry.gcs.opening import open_store as open_bucket
from incl_registry.http import DoorLimits
from incl_registry.settings import RegistrySettings
from incl_registry.testing.gcs import BUCKET, PART, PREFIX, SHORT, anonymous, blob_name, signing_blobs
from incl_registry.testing.running import ANN, Store, close_store, entry, open_store, sha, upload_id
from incl_shared.artifacts import ArtifactClient, Wanted
from incl_shared.errors import DeniedError, InclError, InvalidInput, UnavailableError
from incl_shared.ids import new_id
from incl_shared.queries.registry import CommitArtifacts
from incl_shared.testing.wait import until

DATA = os.urandom(6 * PART + 3)
LIMITS = DoorLimits(min_free=0, max_blob=1 << 40, idle_s=10, signed_ttl_s=60)


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    with FakeStorage(BUCKET, guarded=True) as running:
        yield running


@pytest.fixture
async def store(storage: FakeStorage, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(sqlite_url, tmp_path / "unused", LIMITS, blobs=signing_blobs(storage))
    yield opened
    await close_store(opened)


async def put(store: Store, experiment: str, data: bytes = DATA) -> None:
    grant = await store.upload(experiment)
    with ArtifactClient(grant, patience_s=20) as client:
        await asyncio.to_thread(client.put_bytes, data)
    await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=(entry(data),)))


async def get(store: Store, experiment: str, folder: Path, data: bytes = DATA) -> None:
    """Download it, checked."""
    with ArtifactClient(await store.download(experiment), patience_s=20) as client:
        size = await asyncio.to_thread(client.get, sha(data), folder / "out")
    assert size == len(data)
    assert (folder / "out").read_bytes() == data


def sent_on(store: Store) -> int:
    return int(store.metrics.get_sample_value("incl_registry_sent_on_total") or 0)


def refused(store: Store) -> int:
    return int(store.metrics.get_sample_value("incl_registry_http_errors_total", {"status": "503"}) or 0)


def handed_out(store: Store) -> int:
    return int(store.metrics.get_sample_value("incl_registry_downloaded_bytes_total") or 0)


async def test_up_and_down(store: Store, storage: FakeStorage, experiment: str, tmp_path: Path) -> None:
    await put(store, experiment)
    assert storage.names(BUCKET) == [blob_name(DATA)]
    await get(store, experiment, tmp_path)
    assert (sent_on(store), handed_out(store)) == (1, 0)
    assert storage.faults.calls["signed.get"] == 1


async def test_many_at_once(store: Store, experiment: str, tmp_path: Path) -> None:
    files = [os.urandom(PART * 2 + number) for number in range(12)]
    for number, data in enumerate(files):
        (tmp_path / str(number)).write_bytes(data)
    with ArtifactClient(await store.upload(experiment)) as client:
        blobs = await asyncio.to_thread(client.put_many, [tmp_path / str(number) for number in range(12)])
    entries = tuple(entry(data, path=str(number)) for number, data in enumerate(files))
    assert (await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=entries))).new == 12
    wanted = [Wanted(blob.sha256, tmp_path / "down" / str(number)) for number, blob in enumerate(blobs)]
    with ArtifactClient(await store.download(experiment)) as client:
        await asyncio.to_thread(client.get_many, wanted)
    assert [(tmp_path / "down" / str(number)).read_bytes() for number in range(12)] == files


async def test_the_grant_is_never_shown_to_the_bucket(store: Store, storage: FakeStorage, experiment: str) -> None:
    seen: list[str | None] = []
    answer = storage.answer

    def watch(call: Any) -> Any:
        if call.method == "signed.get":
            seen.append(call.header("authorization"))
        return answer(call)

    storage.answer = watch  # type: ignore[method-assign]
    await put(store, experiment)
    with ArtifactClient(await store.download(experiment)) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(DATA)) == DATA
    assert seen == [None]


async def test_an_address_is_for_one_blob_and_for_minutes(store: Store, experiment: str, storage: FakeStorage) -> None:
    other = b"of somebody else"
    await put(store, experiment)
    await put(store, new_id(), other)
    grant = await store.download(experiment)
    headers = {"Authorization": f"Bearer {grant.token}", "Incl-Follows": "yes"}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{store.url}/blobs/{sha(DATA)}", headers=headers)
        assert (answer.status_code, answer.content, answer.headers["cache-control"]) == (307, b"", "no-store")
        address = answer.headers["location"]
        assert (await http.get(address)).content == DATA
        part = await http.get(address, headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, DATA[5:10])
        assert (await http.get(address.replace(sha(DATA), sha(other)))).status_code == 403
        assert (await http.put(address, content=b"x")).status_code == 403
        assert (await http.get(address.replace("X-Goog-Expires=60", "X-Goog-Expires=6000"))).status_code == 403
        storage.identity._clock = lambda: time.time() + 61
        late = await http.get(address)
        assert (late.status_code, b"ExpiredToken" in late.content) == (400, True)
        for bad in ({}, {"Authorization": "Bearer x.y"}, headers | {"Authorization": "Bearer x.y"}):
            assert (await http.get(f"{store.url}/blobs/{sha(DATA)}", headers=bad)).status_code == 401
        assert (await http.get(f"{store.url}/blobs/{sha(other)}", headers=headers)).status_code == 403


async def test_a_client_that_does_not_follow_gets_the_bytes(store: Store, experiment: str) -> None:
    """One of an older version."""
    await put(store, experiment)
    headers = {"Authorization": f"Bearer {(await store.download(experiment)).token}"}
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{store.url}/blobs/{sha(DATA)}", headers=headers)
        assert (answer.status_code, answer.content == DATA) == (200, True)
        part = await http.get(f"{store.url}/blobs/{sha(DATA)}", headers=headers | {"Range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, DATA[5:10])
        head = await http.head(f"{store.url}/blobs/{sha(DATA)}", headers=headers | {"Incl-Follows": "yes"})
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))


@pytest.mark.parametrize("kind", ["partial", "cut", "error"])
async def test_a_download_asks_anew(
    store: Store, storage: FakeStorage, experiment: str, tmp_path: Path, kind: str
) -> None:
    """Cut in the middle, or refused because it took too long to begin: a new address, and it goes on where it was."""
    await put(store, experiment)
    storage.fault(kind=kind, method="signed.get", status=400, reason="ExpiredToken")
    await get(store, experiment, tmp_path)
    assert (sent_on(store), handed_out(store)) == (2, 0)


async def test_every_step_of_a_long_download_has_an_address_of_its_own(
    store: Store, storage: FakeStorage, experiment: str, tmp_path: Path
) -> None:
    """Cut again and again, only the rest is read each time; by the end no address of it is good any more."""
    await put(store, experiment)
    storage.fault(kind="partial", method="signed.get", times=3)
    addresses: list[tuple[str, str | None]] = []
    answer = storage.answer

    def watch(call: Any) -> Any:
        if call.method == "signed.get":
            addresses.append((f"{storage.url}{call.path}?{call.text}", call.header("range")))
        return answer(call)

    storage.answer = watch  # type: ignore[method-assign]
    await get(store, experiment, tmp_path)
    assert (sent_on(store), handed_out(store)) == (4, 0)
    half = len(DATA) // 2
    assert [asked for _, asked in addresses][:2] == [None, f"bytes={half}-"]
    storage.identity._clock = lambda: time.time() + 61
    assert {requests.get(address, timeout=5).status_code for address, _ in addresses[:4]} == {400}


async def test_nobody_reaches_the_bucket_but_the_registry(
    store: Store, storage: FakeStorage, experiment: str, tmp_path: Path
) -> None:
    """A node without a way there: after two tries the store itself hands out the bytes."""
    await put(store, experiment)
    storage.fault(kind="cut", method="signed.get", times=None)
    await get(store, experiment, tmp_path)
    assert (sent_on(store), handed_out(store)) == (2, len(DATA))


async def test_wrong_bytes_in_the_bucket(store: Store, storage: FakeStorage, experiment: str, tmp_path: Path) -> None:
    await put(store, experiment)
    storage.model.insert(BUCKET, blob_name(DATA), b"x" * len(DATA), {}, {})
    with pytest.raises(InclError, match="not what they were"):
        await get(store, experiment, tmp_path)
    assert not (tmp_path / "out").exists()


async def test_the_provider_is_away_for_a_while(
    store: Store, storage: FakeStorage, experiment: str, tmp_path: Path
) -> None:
    """During an upload and during a download: both wait, and end."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    storage.fault(kind="slow", method="signed.put", seconds=0.1, times=None)
    with ArtifactClient(await store.upload(experiment), patience_s=30) as client:
        uploading = asyncio.create_task(asyncio.to_thread(client.put_file, source))
        await until(lambda: storage.faults.calls["signed.put"] >= 2)
        storage.stop()
        await until(lambda: refused(store) >= 1)
        assert not uploading.done()
        storage.start()
        await uploading
    await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=(entry(DATA),)))
    storage.stop()
    before = refused(store)
    downloading = asyncio.create_task(get(store, experiment, tmp_path))
    await until(lambda: refused(store) > before)
    storage.start()
    await downloading
    assert storage.names(BUCKET) == [blob_name(DATA)]


async def test_what_a_client_hears_when_the_bucket_refuses(store: Store, storage: FakeStorage, experiment: str) -> None:
    storage.fault(kind="error", status=403, reason="forbidden", message="no access", method="objects.*", times=None)
    with (
        ArtifactClient(await store.upload(experiment), patience_s=0.2) as client,
        pytest.raises(UnavailableError, match="cannot be used") as caught,
    ):
        await asyncio.to_thread(client.put_bytes, DATA)
    assert "roles/storage.objectUser" in caught.value.hint


async def test_a_slow_provider_holds_nobody_else_up(store: Store, storage: FakeStorage, experiment: str) -> None:
    """Its calls wait in threads of the store; those of the loop are free."""
    storage.fault(kind="slow", method="objects.*", seconds=1.0, times=None)
    asking = [asyncio.create_task(store.threads.run(store.blobs.size, sha(b"x"))) for _ in range(20)]
    await until(lambda: storage.faults.calls["objects.get"] >= 8)
    began = time.monotonic()
    await asyncio.gather(*(asyncio.to_thread(os.getpid) for _ in range(50)))
    assert time.monotonic() - began < 0.5
    await asyncio.gather(*asking)


async def test_no_secret_is_written_down(
    store: Store, storage: FakeStorage, experiment: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await put(store, experiment)
        storage.fault(kind="partial", method="signed.get")
        storage.fault(kind="error", method="objects.*", times=2)
        await get(store, experiment, tmp_path)
    text = "".join(record.getMessage() for record in caplog.records if record.name.startswith("incl"))
    assert "X-Goog-Signature" not in text
    assert "PRIVATE KEY" not in text


def iam(storage: FakeStorage) -> Callable[..., Any]:
    """The provider's IAM, on the fake."""

    class Answer:
        def __init__(self, found: requests.Response) -> None:
            self.status, self.data, self.headers = found.status_code, found.content, found.headers

    def call(url: str, method: str = "GET", body: Any = None, headers: Any = None, **_: Any) -> Answer:
        path = url.removeprefix("https://iamcredentials.googleapis.com")
        where = storage.url + path if path != url else url
        return Answer(requests.request(method, where, data=body, headers=headers, timeout=5))

    return call


async def test_iam_signs_where_there_is_no_key(storage: FakeStorage, caplog: pytest.LogCaptureFixture) -> None:
    key = service_account.Credentials.from_service_account_info(json.loads(storage.key_file), scopes=["x"])
    bucket = connect(f"gs://{BUCKET}", storage.url, found=key, patience=SHORT)
    links = Links(key, storage.url, EMAIL, iam(storage))
    bucket.put("a b/ü", b"hello")
    address = links.of(bucket.blob("a b/ü"), 60, 'täble "1".csv')
    assert address is not None
    answer = requests.get(address, timeout=5)
    assert (answer.status_code, answer.content) == (200, b"hello")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''t%C3%A4ble%20%221%22.csv"
    storage.identity.may_sign = False
    assert links.of(bucket.blob("a b/ü"), 60, None) is None
    assert "all bytes go through the store itself" in caplog.text
    storage.identity.may_sign = True
    assert links.of(bucket.blob("a b/ü"), 60, None) is None
    assert storage.faults.calls["iam.signBlob"] == 2


def test_nobody_to_sign() -> None:
    links = Links(anonymous(), None, None)
    assert not links.can
    assert links.of(None, 60, None) is None


def settings(storage: FakeStorage, tmp_path: Path, **more: Any) -> RegistrySettings:
    given = {"store": f"gs://{BUCKET}/{PREFIX}", "store_endpoint": storage.url, "data": tmp_path, **more}
    return RegistrySettings(database_url="sqlite://", **given)


def test_opening_by_settings(storage: FakeStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(InvalidInput, match="no credentials"):
        open_bucket(settings(storage, tmp_path))
    (tmp_path / "key.json").write_text(storage.key_file)
    blobs = open_bucket(settings(storage, tmp_path))
    assert (blobs.link(sha(b"x"), 60) or "").startswith(f"{storage.url}/{BUCKET}/{PREFIX}/sha256/")
    blobs.close()
    with pytest.raises(UnavailableError, match="cannot be used"):
        open_bucket(settings(storage, tmp_path, store="gs://another-one"))
    quiet = open_bucket(settings(storage, tmp_path, signed=False))
    assert quiet.link(sha(b"x"), 60) is None
    quiet.close()


def test_the_provider_may_be_away_at_the_start(
    storage: FakeStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    (tmp_path / "key.json").write_text(storage.key_file)
    storage.fault(kind="error", method="objects.get", times=None)
    blobs = open_bucket(settings(storage, tmp_path))
    assert "starts all the same" in caplog.text
    assert storage.names(BUCKET) == []
    storage.faults.clear()
    assert blobs.sweep_partials(0.0) == 0
    assert storage.names(BUCKET) == [f"{PREFIX}/owner"]
    blobs.close()


def test_settings_that_make_no_sense(storage: FakeStorage, tmp_path: Path) -> None:
    assert settings(storage, tmp_path, store="").store is None
    for wrong in ({"store": "s3://x"}, {"store_endpoint": "file:///etc"}, {"store_endpoint": "http://u:p@x"},
                  {"signer": "x"}, {"signed_ttl_s": 1e6}):  # fmt: skip
        with pytest.raises((InvalidInput, ValueError)):
            settings(storage, tmp_path, **wrong)


async def test_a_grant_that_expired_is_renewed_first(store: Store, experiment: str) -> None:
    await put(store, experiment)
    good = await store.download(experiment)
    stale = good.model_copy(update={"token": "x.y"})
    with ArtifactClient(stale, renew=lambda: good) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(DATA)) == DATA
    with ArtifactClient(stale) as client, pytest.raises(DeniedError):
        await asyncio.to_thread(client.get_bytes, sha(DATA))


async def test_uploads_go_on_after_a_restart_of_the_registry(
    store: Store, storage: FakeStorage, experiment: str, sqlite_url: str, tmp_path: Path
) -> None:
    data = os.urandom(8 * PART)
    grant, key = await store.upload(experiment), upload_id()
    query = f"/blobs/{sha(data)}?upload={key}&size={len(data)}"
    head = (
        f"PUT {query}&offset=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {grant.token}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", store.server.port)
    writer.write(head.encode() + data[: 5 * PART])
    await writer.drain()
    await until(lambda: storage.faults.calls["objects.insert"] >= 4)
    await close_store(store)
    writer.close()
    again = await open_store(sqlite_url, tmp_path / "unused", LIMITS, blobs=signing_blobs(storage))
    try:
        headers = {"Authorization": f"Bearer {grant.token}"}
        async with httpx.AsyncClient(base_url=again.url, trust_env=False) as http:
            offset = int((await http.head(query, headers=headers)).headers["upload-offset"])
            assert offset >= 4 * PART
            answer = await http.put(f"{query}&offset={offset}", content=data[offset:], headers=headers)
            assert answer.status_code == 201
    finally:
        await close_store(again)
    assert storage.names(BUCKET) == [blob_name(data)]
