"""What only a store in a bucket has: preconditions, parts, what is lost between us and the provider."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from incl_registry.errors import WrongOffsetError
from incl_registry.fakes.gcs import FakeStorage
from incl_registry.fakes.gcs.calls import Call, Reply
from incl_registry.gcs import bucket as bucket_module
from incl_registry.gcs.bucket import Bucket, Patience
from incl_registry.gcs.connect import connect, parse, probe
from incl_registry.gcs.store import PARTS_AT_ONCE, GcsBlobs
from incl_registry.testing.gcs import (
    BUCKET,
    PART,
    PREFIX,
    SHORT,
    anonymous,
    blob_name,
    cut,
    fake_blobs,
    fake_bucket,
    put,
    read,
)
from incl_registry.testing.running import sha, upload_id
from incl_shared.errors import IntegrityError, InvalidInput, NotFoundError, UnavailableError
from incl_shared.testing.wait import until_sync

DATA = os.urandom(5 * PART + 17)


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    with FakeStorage(BUCKET) as running:
        yield running


@pytest.fixture
def blobs(storage: FakeStorage) -> Iterator[GcsBlobs]:
    with fake_blobs(storage) as stored:
        yield stored


def test_objects_have_the_names_of_the_folders_files(storage: FakeStorage, blobs: GcsBlobs) -> None:
    put(blobs, DATA)
    put(blobs, b"small")
    assert storage.names(BUCKET) == sorted([blob_name(DATA), blob_name(b"small")])


def test_a_small_blob_is_one_request(storage: FakeStorage, blobs: GcsBlobs) -> None:
    put(blobs, b"small")
    assert storage.faults.calls == {"objects.list": 1, "objects.insert": 1}


def test_a_blob_of_very_many_parts(storage: FakeStorage) -> None:
    """More than 32 x 32: three rounds of compose."""
    data = os.urandom(1100 * 512 + 3)
    with fake_blobs(storage, part_size=512) as blobs:
        put(blobs, data)
        assert read(blobs, sha(data)) == data
    assert storage.faults.calls["objects.compose"] == 35 + 2 + 1
    assert storage.names(BUCKET) == [blob_name(data)]


METHODS = ("insert", "compose", "list", "get", "media", "patch", "delete")
NOT_JSON = ("media", "delete")
LOST = [
    (method, kind)
    for method in METHODS
    for kind in ("cut", "error", "garbage")
    if not (kind == "garbage" and method in NOT_JSON)
]


@pytest.mark.parametrize("effect", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("method", "kind"), LOST)
def test_one_answer_that_is_lost(storage: FakeStorage, blobs: GcsBlobs, method: str, kind: str, effect: bool) -> None:
    """Cut, 503 or no JSON, before the provider did it or after: nothing fails, nothing is lost, nothing stays."""
    storage.fault(kind=kind, method=f"objects.{method}", effect=effect)
    if kind == "garbage":
        with pytest.raises(UnavailableError):
            everything(blobs, upload_id())
    everything(blobs, upload_id())
    assert storage.names(BUCKET) == []


def everything(blobs: GcsBlobs, key: str) -> None:
    """One life of a blob."""
    put(blobs, DATA, key, blobs.partial(sha(DATA), key))
    assert blobs.size(sha(DATA)) == len(DATA)
    assert blobs.touch(sha(DATA))
    assert read(blobs, sha(DATA)) == DATA
    assert blobs.delete(sha(DATA), time.time() + 60)
    assert blobs.sweep_partials(time.time() + 60) <= 1


def test_an_answer_that_is_cut_in_its_middle(storage: FakeStorage, blobs: GcsBlobs) -> None:
    put(blobs, DATA)
    storage.fault(kind="partial", method="objects.media", times=2)
    assert read(blobs, sha(DATA)) == DATA


def test_too_many_requests(storage: FakeStorage) -> None:
    storage.fault(kind="error", status=429, reason="rateLimitExceeded", times=3)
    with fake_blobs(storage, Patience(connect_s=1.0, read_s=5.0, retry_s=30.0)) as blobs:
        put(blobs, DATA)
        assert read(blobs, sha(DATA)) == DATA


def test_the_provider_is_away_during_an_upload(storage: FakeStorage, blobs: GcsBlobs) -> None:
    key = upload_id()
    upload = blobs.resume(sha(DATA), key, 0)
    upload.write(DATA[: 2 * PART])
    storage.stop()
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        for at in range(2 * PART, len(DATA), 10_000):
            upload.write(DATA[at : at + 10_000])
        upload.finish()
    upload.close()
    assert "incl doctor" in caught.value.hint
    assert time.monotonic() - began < 10
    with pytest.raises(UnavailableError):
        blobs.partial(sha(DATA), key)
    storage.start()
    offset = blobs.partial(sha(DATA), key)
    assert offset % PART == 0
    put(blobs, DATA, key, offset)
    assert read(blobs, sha(DATA)) == DATA
    assert storage.names(BUCKET) == [blob_name(DATA)]


def test_a_provider_that_says_nothing(storage: FakeStorage, blobs: GcsBlobs) -> None:
    storage.fault(kind="hang", seconds=30, times=None)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        blobs.size(sha(DATA))
    assert time.monotonic() - began < SHORT.read_s + SHORT.retry_s + 2


def test_a_client_that_comes_back_makes_nobody_read(storage: FakeStorage, blobs: GcsBlobs) -> None:
    key = upload_id()
    for upto in (PART // 2, 2 * PART + 5, 4 * PART):
        cut(blobs, DATA, key, upto)
        assert blobs.partial(sha(DATA), key) == upto
    put(blobs, DATA, key, 4 * PART)
    assert storage.faults.calls["objects.media"] == 0
    assert read(blobs, sha(DATA)) == DATA


def test_a_restart_of_the_store_between(storage: FakeStorage, blobs: GcsBlobs) -> None:
    key = upload_id()
    cut(blobs, DATA, key, 3 * PART + 5)
    with fake_blobs(storage) as later:
        put(later, DATA, key, 3 * PART + 5)
        assert read(later, sha(DATA)) == DATA
    assert storage.faults.calls["objects.media"] == 4 + 1


def test_reading_again_takes_several_requests(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """Each reads for its time, and the next one goes on from there."""
    key, tries = upload_id(), 0
    cut(blobs, DATA, key, 4 * PART)
    with fake_blobs(storage, catch_up_s=0.0) as later:
        for expected in (PART, 2 * PART, 3 * PART):
            with pytest.raises(UnavailableError, match="reads what it has") as caught:
                later.resume(sha(DATA), key, 4 * PART)
            assert f"{expected} of {4 * PART} bytes" in caught.value.cause
            tries += 1
        put(later, DATA, key, 4 * PART)
    assert tries == 3


def test_memory_of_one_upload_does_not_serve_other_parts(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """The parts were swept and came again, by another store: what was remembered of the old ones is not believed."""
    key = upload_id()
    cut(blobs, DATA, key, PART)
    assert blobs.sweep_partials(time.time() + 60) == 1
    with fake_blobs(storage) as other:
        upload = other.resume(sha(DATA), key, 0)
        upload.write(b"x" * PART)
        upload.close()
    with pytest.raises(IntegrityError):
        put(blobs, DATA, key, PART)
    assert blobs.partial(sha(DATA), key) == 0


def test_a_part_that_did_not_arrive_leaves_no_hole(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """Parts go up side by side: the third fails, the fourth is there. It goes on after the second."""
    key = upload_id()
    storage.fault(kind="error", method="objects.insert", name=f"*{2 * PART:015d}", times=None)
    upload = blobs.resume(sha(DATA), key, 0)
    with pytest.raises(UnavailableError):
        upload.write(DATA)
        upload.finish()
    upload.close()
    storage.faults.clear()
    assert f"{PREFIX}/partial/{sha(DATA)}.{key}/{3 * PART:015d}" in storage.names(BUCKET)
    assert blobs.partial(sha(DATA), key) == 2 * PART
    with pytest.raises(WrongOffsetError):
        blobs.resume(sha(DATA), key, 4 * PART)
    put(blobs, DATA, key, 2 * PART)
    assert read(blobs, sha(DATA)) == DATA
    assert storage.faults.calls["objects.media"] == 1


def test_two_stores_write_one_upload(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """Two processes; whoever is second at a part is refused, and what comes out is right."""
    key = upload_id()
    with fake_blobs(storage) as other:
        one, two = blobs.resume(sha(DATA), key, 0), other.resume(sha(DATA), key, 0)
        one.write(DATA[:1000])
        one.close()
        with pytest.raises(UnavailableError, match="another request"):  # by either: parts go by themselves
            two.write(DATA)
            two.finish()
        two.close()
        put(other, DATA, key, other.partial(sha(DATA), key))
    assert read(blobs, sha(DATA)) == DATA


def test_many_uploads_at_once(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """More than there are threads, of the same and of other bytes: each ends."""
    many = [os.urandom(3 * PART) for _ in range(6)] * 2
    with ThreadPoolExecutor(12) as pool:
        names = list(pool.map(lambda data: put(blobs, data), many))
    assert {name: read(blobs, name) for name in names} == {sha(data): data for data in many}
    assert len(storage.names(BUCKET)) == 6


def test_memory_is_bounded(storage: FakeStorage) -> None:
    """A client that is faster than the provider waits for it."""
    part, gate = 1 << 20, threading.Event()
    answer = storage.answer

    def slowly(call: Call) -> Reply:
        if call.method == "objects.insert":
            gate.wait(20)
        return answer(call)

    storage.answer = slowly  # type: ignore[method-assign]
    with fake_blobs(storage, part_size=part) as blobs, ThreadPoolExecutor(1) as pool:
        upload = blobs.resume(sha(b"?"), upload_id(), 0)
        written = pool.submit(lambda: [upload.write(bytes(part)) for _ in range(40)])
        until_sync(lambda: storage.faults.calls["objects.insert"] == PARTS_AT_ONCE)
        until_sync(lambda: upload.offset == (PARTS_AT_ONCE + 1) * part)
        assert not written.done()
        gate.set()
        written.result()
        upload.close()
    assert storage.faults.calls["objects.insert"] == 40


def test_a_reader_fetches_only_what_it_is_near(storage: FakeStorage) -> None:
    data = os.urandom(12 << 20)
    with fake_blobs(storage, part_size=4 << 20) as blobs:
        put(blobs, data)
        with blobs.open(sha(data)) as source:
            assert source.seek(-5, io.SEEK_END) == len(data) - 5
            assert source.read() == data[-5:]
            source.seek(6 << 20)
            assert source.read(1000) == data[6 << 20 : (6 << 20) + 1000]
            assert source.read(1000) == data[(6 << 20) + 1000 : (6 << 20) + 2000]
            assert storage.faults.calls["objects.media"] == 2
            blobs.delete(sha(data), time.time() + 60)
            source.seek(0)
            with pytest.raises(NotFoundError, match="deleted while"):
                source.read(1)


def test_lists_come_in_pages(storage: FakeStorage, blobs: GcsBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "_PAGE", 3)
    names = {put(blobs, bytes([number])) for number in range(10)}
    assert {blob.sha256 for blob in blobs.blobs()} == names
    assert storage.faults.calls["objects.list"] == 10 + 4
    key = upload_id()
    cut(blobs, DATA, key, 5 * PART)
    assert blobs.partial(sha(DATA), key) == 5 * PART


def test_what_others_keep_in_the_bucket_stays(storage: FakeStorage, blobs: GcsBlobs) -> None:
    others = ["readme", f"{PREFIX}/readme", f"{PREFIX}/sha256/aa/readme", f"{PREFIX}/partial/readme", "sha256/aa/x"]
    for name in others:
        storage.model.insert(BUCKET, name, b"x", {}, {})
    assert list(blobs.blobs()) == []
    assert blobs.sweep_partials(time.time() + 60) == 0
    assert storage.names(BUCKET) == sorted(others)


def test_an_upload_under_way_is_not_swept(blobs: GcsBlobs) -> None:
    key = upload_id()
    upload = blobs.resume(sha(DATA), key, 0)
    upload.write(DATA[: 3 * PART])
    assert blobs.sweep_partials(time.time() + 60) == 0
    upload.write(DATA[3 * PART :])
    upload.finish()
    upload.close()
    assert read(blobs, sha(DATA)) == DATA


def test_parts_that_are_swept_by_another_store(storage: FakeStorage, blobs: GcsBlobs) -> None:
    key = upload_id()
    upload = blobs.resume(sha(DATA), key, 0)
    upload.write(DATA)
    upload.close()
    upload = blobs.resume(sha(DATA), key, len(DATA))
    with fake_blobs(storage) as other:
        assert other.sweep_partials(time.time() + 60) == 1
    with pytest.raises(UnavailableError):
        upload.finish()
    upload.close()
    assert blobs.partial(sha(DATA), key) == 0
    put(blobs, DATA, key)


def test_credentials_are_asked_for_and_renewed() -> None:
    with FakeStorage(BUCKET, guarded=True) as storage, fake_blobs(storage) as blobs:
        name = put(blobs, b"x")
        storage.identity.forget_tokens()
        assert blobs.size(name) == 1
        assert storage.faults.calls["oauth.token"] == 2
        assert storage.faults.calls["buckets.get"] == 0


@pytest.mark.parametrize("call", ["size", "put", "list", "open", "touch"])
def test_a_bucket_that_is_not_there(storage: FakeStorage, call: str) -> None:
    bucket = connect("gs://no-such-bucket", storage.url, found=anonymous(), patience=SHORT)
    refused(bucket, call, "create the bucket")


@pytest.mark.parametrize("call", ["size", "put", "list", "open", "touch"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_bucket_that_is_not_ours(storage: FakeStorage, call: str, status: int) -> None:
    storage.fault(kind="error", status=status, reason="forbidden", message="no access", times=None)
    error = refused(fake_bucket(storage), call, "roles/storage.objectUser" if status == 403 else "credentials")
    assert status == 401 or "no access" in error.cause


def refused(bucket: Bucket, call: str, hint: str) -> UnavailableError:
    with closing(GcsBlobs(bucket)) as blobs:
        calls: dict[str, Callable[[], object]] = {
            "size": lambda: blobs.size(sha(b"x")),
            "put": lambda: put(blobs, b"x"),
            "touch": lambda: blobs.touch(sha(b"x")),
            "list": lambda: list(blobs.blobs()),
            "open": lambda: blobs.open(sha(b"x")),
        }
        with pytest.raises(UnavailableError, match="cannot be used") as caught:
            calls[call]()
    assert hint in caught.value.hint
    assert "://" not in caught.value.cause
    return caught.value


def test_a_key_that_was_withdrawn() -> None:
    with FakeStorage(BUCKET, guarded=True) as storage:
        storage.fault(kind="error", method="oauth.token", status=400, reason="invalid_grant", times=None)
        error = refused(fake_bucket(storage), "size", "credentials")
        assert "PRIVATE" not in str(error.envelope())


def test_a_probe_sees_what_is_wrong(storage: FakeStorage) -> None:
    assert abs(probe(fake_bucket(storage))) < 2
    assert storage.names(BUCKET) == []
    with FakeStorage(BUCKET, clock=lambda: time.time() + 600) as ahead:
        assert 590 < probe(fake_bucket(ahead)) < 610
    storage.fault(kind="error", method="objects.delete", status=403, reason="forbidden", times=None)
    with pytest.raises(UnavailableError, match="delete"):
        probe(fake_bucket(storage))


def test_addresses() -> None:
    assert (parse("gs://bucket").prefix, parse("gs://bucket/").prefix, parse("gs://b-1.x/a/b/").prefix) == (
        "",
        "",
        "a/b",
    )
    for wrong in ("", "bucket", "s3://bucket", "gs://", "gs://B", "gs://b/../c", "gs://bucket/a//b", "gs://bucket/a b",
                  "gs://bucket/./x", "gs://bucket\n", "gs://bucket/" + "a" * 300):  # fmt: skip
        with pytest.raises(InvalidInput):
            parse(wrong)


def test_a_bucket_that_is_away_is_told_until_it_is_back(storage: FakeStorage, blobs: GcsBlobs) -> None:
    assert blobs.trouble() is None
    storage.fault(kind="error", status=403, reason="forbidden", message="no access", times=None)
    with pytest.raises(UnavailableError):
        blobs.size(sha(b"x"))
    first = blobs.trouble()
    assert first is not None
    assert "no access" in first[1]
    assert blobs.trouble() == first
    storage.faults.clear()
    until_sync(lambda: blobs.trouble() is None)
