"""Uploads to the bucket by signed addresses: what each is good for, what goes wrong, and who looks at the bytes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from incl_registry.blobs import Place
from incl_registry.errors import CheckingError
from incl_registry.fakes.gcs import FakeStorage
from incl_registry.gcs.store import GcsBlobs
from incl_registry.http import DoorLimits
from incl_registry.testing.gcs import BUCKET, PART, blob_name, read, signing_blobs
from incl_registry.testing.running import Store, close_store, open_store, sha, upload_id
from incl_shared.artifacts import ArtifactClient
from incl_shared.auth.names import JOB_PREFIX
from incl_shared.errors import DeniedError, IntegrityError, UnavailableError
from incl_shared.ids import job_id, new_id
from incl_shared.subjects import Asker

DATA = os.urandom(7 * PART + 3)
LIMITS = DoorLimits(min_free=0, max_blob=1 << 40, idle_s=10, signed_ttl_s=60, direct_from=PART)


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    with FakeStorage(BUCKET, guarded=True) as running:
        yield running


@pytest.fixture
def blobs(storage: FakeStorage) -> Iterator[GcsBlobs]:
    made = signing_blobs(storage)
    yield made
    made.close()


@pytest.fixture
async def store(storage: FakeStorage, blobs: GcsBlobs, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    opened = await open_store(sqlite_url, tmp_path / "unused", LIMITS, blobs=blobs)
    yield opened
    await close_store(opened)


def stored(place: Place, data: bytes, **headers: str) -> int:
    piece = data[place.offset : place.offset + place.size]
    return requests.put(place.url, piece, headers={**place.headers, **headers}, timeout=5).status_code


async def put(store: Store, experiment: str, data: bytes = DATA, patience_s: float = 20.0) -> None:
    with ArtifactClient(await store.upload(experiment), patience_s=patience_s) as client:
        await asyncio.to_thread(client.put_bytes, data)


def counted(store: Store) -> tuple[int, int]:
    """Bytes that came (through the registry, directly)."""
    names = ("incl_registry_uploaded_bytes_total", "incl_registry_direct_bytes_total")
    through, direct = (int(store.metrics.get_sample_value(name) or 0) for name in names)
    return through, direct


# -- an address


def test_an_address_takes_exactly_these_bytes_once(storage: FakeStorage, blobs: GcsBlobs) -> None:
    first, second, *_ = blobs.places(sha(DATA), upload_id(), len(DATA), 60)
    assert (first.offset, first.size, second.offset) == (0, 2 * PART, 2 * PART)
    url, headers, piece = first.url, dict(first.headers), DATA[: 2 * PART]
    for sent, given, code in (
        (piece[:-1], headers, "EntityTooSmall"),
        (piece + b"x", headers, "EntityTooLarge"),
        (piece, headers | {"x-goog-content-length-range": "0,999999999"}, "SignatureDoesNotMatch"),
        (piece, {}, "SignatureDoesNotMatch"),
    ):
        answer = requests.put(url, sent, headers=given, timeout=5)
        assert code in answer.text
    assert requests.get(url, headers=headers, timeout=5).status_code == 403
    elsewhere = url.replace("/000000000000000?", "/000000000000001?")
    assert elsewhere != url
    assert requests.put(elsewhere, piece, headers=headers, timeout=5).status_code == 403
    assert storage.names(BUCKET) == []
    assert requests.put(url, piece, headers=headers, timeout=5).status_code == 200
    assert requests.put(url, bytes(len(piece)), headers=headers, timeout=5).status_code == 412
    storage.identity._clock = lambda: time.time() + 61
    late = requests.put(second.url, DATA[2 * PART : 4 * PART], headers=dict(second.headers), timeout=5)
    assert (late.status_code, "ExpiredToken" in late.text) == (400, True)


def test_only_what_is_missing_is_asked_for(blobs: GcsBlobs) -> None:
    """Parts have their places on a grid: a hole is filled, and what is behind it stays."""
    key = upload_id()
    places = blobs.places(sha(DATA), key, len(DATA), 60)
    assert [place.offset for place in places] == [0, 2 * PART, 4 * PART, 6 * PART]
    for place in (places[0], places[2], places[3]):
        assert stored(place, DATA) == 200
    (left,) = blobs.places(sha(DATA), key, len(DATA), 60)
    assert left.offset == 2 * PART
    assert stored(left, DATA) == 200
    assert blobs.places(sha(DATA), key, len(DATA), 60) == []
    assert read(blobs, sha(DATA)) == DATA


def test_other_bytes_than_the_name_says_become_nothing(storage: FakeStorage, blobs: GcsBlobs) -> None:
    key = upload_id()
    for place in blobs.places(sha(DATA), key, len(DATA), 60):
        assert stored(place, os.urandom(len(DATA))) == 200
    with pytest.raises(IntegrityError, match="not those of the name"):
        blobs.places(sha(DATA), key, len(DATA), 60)
    assert storage.names(BUCKET) == []


def test_what_is_written_by_clients_is_no_part_of_an_upload_through_us(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """Else a client could exchange bytes whose checksum was looked at already."""
    key = upload_id()
    for place in blobs.places(sha(DATA), key, len(DATA), 60):
        assert stored(place, bytes(len(DATA))) == 200
    assert blobs.partial(sha(DATA), key) == 0
    assert all("/direct/" in name for name in storage.names(BUCKET))


def test_the_checksum_of_a_large_one_is_looked_at_over_several_requests(storage: FakeStorage) -> None:
    late = signing_blobs(storage, catch_up_s=0.0)
    key, looked = upload_id(), []
    for place in late.places(sha(DATA), key, len(DATA), 60):
        assert stored(place, DATA) == 200
    while True:
        try:
            assert late.places(sha(DATA), key, len(DATA), 60) == []
            break
        except CheckingError as error:
            looked.append(error.checked)
    assert looked == [PART * number for number in range(1, 8)]
    assert storage.faults.calls["objects.media"] <= 8 + 3 * len(looked), "nothing is read from the beginning again"
    assert read(late, sha(DATA)) == DATA
    late.close()


def test_one_request_at_a_time_works_at_an_upload(storage: FakeStorage, blobs: GcsBlobs) -> None:
    key = upload_id()
    upload = blobs.resume(sha(DATA), key, 0)
    with pytest.raises(UnavailableError):
        blobs.places(sha(DATA), key, len(DATA), 60)
    upload.close()
    assert blobs.places(sha(DATA), key, len(DATA), 60)


def test_what_nobody_goes_on_with_is_swept(storage: FakeStorage, blobs: GcsBlobs) -> None:
    place = blobs.places(sha(DATA), upload_id(), len(DATA), 60)[0]
    assert stored(place, DATA) == 200
    assert blobs.sweep_partials(time.time() - 60) == 0
    assert blobs.sweep_partials(time.time() + 60) == 1
    assert [name for name in storage.names(BUCKET) if "direct" in name] == []


# -- the whole way


async def test_a_file_goes_to_the_bucket_itself(
    store: Store, storage: FakeStorage, experiment: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with ArtifactClient(await store.upload(experiment)) as client:
        blob = await asyncio.to_thread(client.put_file, tmp_path / "file")
        assert await asyncio.to_thread(client.has, blob)
    assert counted(store) == (0, len(DATA))
    assert storage.names(BUCKET) == [blob_name(DATA)]
    assert storage.model.get(BUCKET, blob_name(DATA), {}).data == DATA
    assert (storage.faults.calls["signed.put"], storage.faults.calls["objects.insert"]) == (4, 0)


async def test_a_small_file_comes_through_the_registry(store: Store, experiment: str) -> None:
    await put(store, experiment, b"small")
    assert counted(store) == (5, 0)


@pytest.mark.parametrize(
    ("kind", "effect"), [("cut", False), ("cut", True), ("partial", False), ("error", False), ("hang", True)]
)
async def test_a_part_whose_connection_breaks_is_sent_again_alone(
    store: Store, storage: FakeStorage, experiment: str, kind: str, effect: bool
) -> None:
    storage.fault(kind=kind, method="signed.put", nth=2, effect=effect, seconds=0.1)
    await put(store, experiment)
    assert counted(store) == (0, len(DATA))
    assert storage.faults.calls["signed.put"] <= 5
    assert storage.model.get(BUCKET, blob_name(DATA), {}).data == DATA


async def test_a_client_that_does_not_reach_the_bucket_sends_the_bytes_to_the_registry(
    store: Store, storage: FakeStorage, experiment: str
) -> None:
    storage.fault(kind="cut", method="signed.put", times=None)
    await put(store, experiment)
    assert counted(store) == (len(DATA), 0)
    assert storage.names(BUCKET) == [blob_name(DATA)]


async def test_where_nobody_signs_the_bytes_come_through_the_registry(
    store: Store, storage: FakeStorage, blobs: GcsBlobs, experiment: str
) -> None:
    """Credentials of a person have no key, and perhaps may not let IAM sign."""
    blobs._links._signing = None  # type: ignore[union-attr]
    await put(store, experiment)
    assert counted(store) == (len(DATA), 0)


async def test_a_node_has_addresses_of_its_own_experiment_only(store: Store, storage: FakeStorage) -> None:
    mine, other = new_id(), new_id()
    job = Asker("default", f"{JOB_PREFIX}{job_id(mine, 1, 0)}")
    with pytest.raises(DeniedError, match="its own experiment"):
        await store.upload(other, job)
    grant, theirs = await store.upload(mine, job), await store.upload(other)
    query = f"/blobs/{sha(DATA)}?upload={upload_id()}&size={len(DATA)}"
    async with httpx.AsyncClient(base_url=store.url, trust_env=False) as http:
        places = [
            (await http.post(query, headers={"Authorization": f"Bearer {token}"})).json()["parts"]
            for token in (grant.token, theirs.token)
        ]
        folders = [{part["url"].split("?")[0].rpartition("/")[0] for part in parts} for parts in places]
        assert len(folders[0]) == len(folders[1]) == 1
        assert folders[0] != folders[1], "the same id in another experiment's grant is another upload"
        assert (await http.post(query)).status_code == 401
        down = (await store.download(mine, job)).token
        assert (await http.post(query, headers={"Authorization": f"Bearer {down}"})).status_code == 403
    assert storage.names(BUCKET) == []


async def test_a_blob_that_is_too_large_has_no_address(store: Store, experiment: str) -> None:
    token = (await store.upload(experiment)).token
    query = f"/blobs/{sha(DATA)}?upload={upload_id()}&size={2 << 40}"
    async with httpx.AsyncClient(base_url=store.url, trust_env=False) as http:
        assert (await http.post(query, headers={"Authorization": f"Bearer {token}"})).status_code == 413


async def test_the_grant_is_never_shown_to_the_bucket(store: Store, storage: FakeStorage, experiment: str) -> None:
    seen: list[str | None] = []
    answer = storage.answer

    def watch(call: Any) -> Any:
        if call.method == "signed.put":
            seen.append(call.header("authorization"))
        return answer(call)

    storage.answer = watch  # type: ignore[method-assign]
    await put(store, experiment)
    assert seen == [None] * 4
