"""The contract of a blob store, kept by the folder, by buckets and by the fake; then what only a folder has."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import requests
from google.auth.credentials import AnonymousCredentials

from incl_registry.blobs import BlobStore, Place
from incl_registry.errors import StorageFullError, WrongOffsetError
from incl_registry.fakes.gcs import FakeStorage
from incl_registry.folder import FolderBlobs
from incl_registry.gcs.bucket import Bucket
from incl_registry.gcs.connect import connect
from incl_registry.gcs.store import GcsBlobs
from incl_registry.testing.gcs import BUCKET, PART, PREFIX, fake_blobs, signing_blobs
from incl_registry.testing.memory import MemoryBlobs
from incl_registry.testing.running import sha, upload_id
from incl_shared.errors import IntegrityError, NotFoundError, UnavailableError


@pytest.fixture(params=["folder", "memory", "bucket", "signing", "emulator"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    if request.param == "folder":
        yield FolderBlobs(tmp_path / "b")
    elif request.param == "memory":
        yield MemoryBlobs()
    elif request.param == "bucket":
        with FakeStorage(BUCKET, guarded=True) as storage, fake_blobs(storage) as stored:
            yield stored
    elif request.param == "signing":
        with FakeStorage(BUCKET, guarded=True) as storage, closing(signing_blobs(storage)) as stored:
            yield stored
    else:
        with emulator() as bucket, closing(GcsBlobs(bucket, part_size=PART, fresh_s=0.0)) as stored:
            yield stored


@contextmanager
def emulator() -> Iterator[Bucket]:
    """A bucket of gcp-storage-emulator. It knows no preconditions and gives lists in one page: what needs those is in
    test_gcs.py, on our fake."""
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    try:
        port = server._api._httpd.server_address[1]
        yield connect(f"gs://{BUCKET}/{PREFIX}", f"http://127.0.0.1:{port}", found=AnonymousCredentials())
    finally:
        server.stop()


def put(blobs: BlobStore, data: bytes) -> str:
    upload = blobs.resume(sha(data), upload_id(), 0)
    try:
        upload.write(data)
        upload.finish()
    finally:
        upload.close()
    return sha(data)


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3_000_000)], ids=["empty", "one", "large"])
def test_what_is_put_is_read(blobs: BlobStore, data: bytes) -> None:
    assert blobs.size(sha(data)) is None
    name = put(blobs, data)
    assert blobs.size(name) == len(data)
    with blobs.open(name) as source:
        assert source.read() == data
    assert put(blobs, data) == name
    assert [(blob.sha256, blob.size) for blob in blobs.blobs()] == [(name, len(data))]


def test_a_blob_is_read_from_anywhere(blobs: BlobStore) -> None:
    data = os.urandom(700_000)
    with blobs.open(put(blobs, data)) as source:
        for start, count in ((0, 10), (699_990, 100), (262_000, 300_000), (5, 0), (700_000, 1)):
            source.seek(start)
            assert source.read(count) == data[start : start + count]


def test_what_is_missing(blobs: BlobStore) -> None:
    there = {put(blobs, bytes([number])) for number in range(3)}
    assert blobs.missing([*there, sha(b"no"), sha(b"none")]) == {sha(b"no"), sha(b"none")}
    assert blobs.missing(set()) == set()


def send(places: list[Place], data: bytes) -> list[int]:
    """What a client does with the places of an upload; the answers."""
    answers = []
    for place in places:
        piece = data[place.offset : place.offset + place.size]
        answers.append(requests.put(place.url, piece, headers=dict(place.headers), timeout=5).status_code)
    return answers


@pytest.mark.parametrize("size", [1, PART, 40 * PART + 7], ids=["one", "small", "large"])
def test_bytes_that_do_not_come_through_us(blobs: BlobStore, size: int) -> None:
    """A store takes them at places of its own, or says that it has none."""
    data, key = os.urandom(size), upload_id()
    if not blobs.direct():
        with pytest.raises(UnavailableError):
            blobs.places(sha(data), key, size, 60)
        return
    while places := blobs.places(sha(data), key, size, 60):
        assert blobs.size(sha(data)) is None
        assert set(send(places, data)) == {200}
    with blobs.open(sha(data)) as source:
        assert source.read() == data
    assert [blob.sha256 for blob in blobs.blobs()] == [sha(data)]


def test_nothing_is_seen_before_the_end(blobs: BlobStore) -> None:
    data, key = b"hello world", upload_id()
    upload = blobs.resume(sha(data), key, 0)
    upload.write(data[:5])
    assert upload.offset == 5
    upload.close()
    assert blobs.size(sha(data)) is None
    assert list(blobs.blobs()) == []
    assert blobs.partial(sha(data), key) == 5
    with pytest.raises(NotFoundError):
        blobs.open(sha(data))


def test_an_upload_goes_on(blobs: BlobStore) -> None:
    data, key = b"hello world", upload_id()
    first = blobs.resume(sha(data), key, 0)
    first.write(data[:5])
    first.close()
    for wrong in (0, 4, 6):
        with pytest.raises(WrongOffsetError) as caught:
            blobs.resume(sha(data), key, wrong)
        assert caught.value.offset == 5
    second = blobs.resume(sha(data), key, 5)
    second.write(data[5:])
    second.finish()
    second.close()
    with blobs.open(sha(data)) as source:
        assert source.read() == data
    assert blobs.partial(sha(data), key) == 0


def test_wrong_bytes_are_refused_and_forgotten(blobs: BlobStore) -> None:
    key = upload_id()
    upload = blobs.resume(sha(b"right"), key, 0)
    upload.write(b"wrong")
    with pytest.raises(IntegrityError):
        upload.finish()
    upload.close()
    assert blobs.size(sha(b"right")) is None
    assert blobs.partial(sha(b"right"), key) == 0


def test_two_uploads_of_the_same_bytes_do_not_meet(blobs: BlobStore) -> None:
    data = b"hello world"
    one, two = blobs.resume(sha(data), upload_id(), 0), blobs.resume(sha(data), upload_id(), 0)
    one.write(data)
    two.write(data[:3])
    one.finish()
    one.close()
    two.write(data[3:])
    two.finish()
    two.close()
    assert blobs.size(sha(data)) == len(data)


def test_one_upload_has_one_writer(blobs: BlobStore) -> None:
    key = upload_id()
    first = blobs.resume(sha(b"x"), key, 0)
    with pytest.raises(UnavailableError):
        blobs.resume(sha(b"x"), key, 0)
    first.close()
    blobs.resume(sha(b"x"), key, 0).close()


def test_only_what_is_old_is_deleted(blobs: BlobStore) -> None:
    name = put(blobs, b"x")
    assert not blobs.delete(name, time.time() - 60)
    assert blobs.touch(name)
    assert blobs.delete(name, time.time() + 60)
    assert not blobs.delete(name, time.time() + 60)
    assert not blobs.touch(name)
    assert blobs.size(name) is None


def test_partials_are_swept(blobs: BlobStore) -> None:
    key = upload_id()
    upload = blobs.resume(sha(b"xy"), key, 0)
    upload.write(b"x")
    upload.close()
    assert blobs.sweep_partials(time.time() - 60) == 0
    assert blobs.sweep_partials(time.time() + 60) == 1
    assert blobs.partial(sha(b"xy"), key) == 0


@contextmanager
def small_files(count: int) -> Iterator[None]:
    """No file of this process may grow beyond this: what a full disk looks like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_takes_nothing_with_it(tmp_path: Path) -> None:
    blobs, data, key = FolderBlobs(tmp_path), os.urandom(200_000), upload_id()
    kept = put(blobs, b"kept")
    upload = blobs.resume(sha(data), key, 0)
    with small_files(100_000), pytest.raises(StorageFullError) as caught:
        upload.write(data)
    upload.close()
    assert caught.value.http_status == 507
    assert blobs.size(sha(data)) is None
    assert list((tmp_path / "partial").iterdir()) == []
    assert blobs.size(kept) == 4
    assert put(blobs, data) == sha(data)


def test_a_full_memory(tmp_path: Path) -> None:
    blobs = MemoryBlobs(room=10)
    upload = blobs.resume(sha(b"x" * 11), upload_id(), 0)
    with pytest.raises(StorageFullError):
        upload.write(b"x" * 11)
    assert blobs.free() == 10


def test_names_that_are_no_checksums(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "b")
    (tmp_path / "secret").write_bytes(b"s")
    for name in ("../../secret", "A" * 64, "a" * 63, "a" * 64 + "\n", "", "/etc/passwd"):
        for call in (blobs.size, blobs.open, blobs.touch):
            with pytest.raises(NotFoundError):
                call(name)
        with pytest.raises(NotFoundError):
            blobs.resume(name, upload_id(), 0)
    with pytest.raises(NotFoundError):
        blobs.resume("a" * 64, "../../../etc/cron.d/x", 0)


def test_others_cannot_look_into_the_folder(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "b")
    name = put(blobs, b"x")
    assert (tmp_path / "b").stat().st_mode & 0o077 == 0
    assert (tmp_path / "b" / "sha256" / name[:2] / name).stat().st_mode & 0o077 == 0
