"""Who is quicker: touches, deletions and uploads of the same blob at the same moment, decided by preconditions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from incl_registry.fakes.gcs import FakeStorage
from incl_registry.fakes.gcs.model import stamp
from incl_registry.gcs.bucket import Bucket, Patience, Stat
from incl_registry.gcs.owner import Ownership, own_name
from incl_registry.gcs.store import GcsBlobs
from incl_registry.testing.gcs import BUCKET, PART, PREFIX, blob_name, fake_blobs, fake_bucket, put, read
from incl_registry.testing.running import sha
from incl_shared.errors import ConflictError

DATA = os.urandom(3 * PART + 17)


@pytest.fixture
def storage() -> Iterator[FakeStorage]:
    with FakeStorage(BUCKET) as running:
        yield running


@pytest.fixture
def blobs(storage: FakeStorage) -> Iterator[GcsBlobs]:
    with fake_blobs(storage) as stored:
        yield stored


class Racing(Bucket):
    """Somebody else does something between each look and what follows from it."""

    meanwhile: Callable[[], object] = staticmethod(lambda: None)

    def stat(self, name: str) -> Stat | None:
        found = super().stat(name)
        self.meanwhile()
        return found


@pytest.fixture
def racing(storage: FakeStorage, blobs: GcsBlobs) -> Iterator[tuple[GcsBlobs, Racing]]:
    bucket = fake_bucket(storage)
    bucket.__class__ = Racing
    assert isinstance(bucket, Racing)
    with closing(GcsBlobs(bucket, part_size=PART, fresh_s=0.0)) as stored:
        yield stored, bucket


def test_a_touch_between_look_and_deletion_spares_the_blob(blobs: GcsBlobs, racing: tuple[GcsBlobs, Racing]) -> None:
    sweeper, bucket = racing
    name = put(blobs, b"x")
    bucket.meanwhile = lambda: blobs.touch(name)
    assert not sweeper.delete(name, time.time() + 60)
    assert blobs.size(name) == 1


def test_a_new_upload_between_look_and_deletion_spares_the_blob(
    blobs: GcsBlobs, racing: tuple[GcsBlobs, Racing]
) -> None:
    sweeper, bucket = racing
    name = put(blobs, b"x")

    def again() -> None:
        blobs.delete(name, time.time() + 60)
        put(blobs, b"x")

    bucket.meanwhile = again
    assert not sweeper.delete(name, time.time() + 60)
    assert blobs.size(name) == 1


def test_a_deletion_between_look_and_touch_is_seen(blobs: GcsBlobs, racing: tuple[GcsBlobs, Racing]) -> None:
    store, bucket = racing
    name = put(blobs, b"x")
    bucket.meanwhile = lambda: blobs.delete(name, time.time() + 60)
    assert not store.touch(name)


def test_a_blob_that_is_swept_while_it_is_uploaded_again(
    storage: FakeStorage, blobs: GcsBlobs, racing: tuple[GcsBlobs, Racing]
) -> None:
    """It is there (412), and gone when it would be made young: it is stored after all."""
    store, bucket = racing
    name = put(blobs, DATA)
    bucket.meanwhile = lambda: blobs.delete(name, time.time() + 60)
    put(store, DATA)
    assert storage.names(BUCKET) == [blob_name(DATA)]


def test_bytes_that_are_there_are_made_young(storage: FakeStorage, blobs: GcsBlobs) -> None:
    clock = [time.time() - 1000]
    with fake_blobs(storage, clock=lambda: clock[0]) as old:
        for data in (DATA, b"small"):
            put(old, data)
    for data in (DATA, b"small"):
        put(blobs, data)
        assert not blobs.delete(sha(data), time.time() - 500)


def test_a_damaged_object_is_replaced(storage: FakeStorage, blobs: GcsBlobs) -> None:
    for data in (DATA, b"small"):
        storage.model.insert(BUCKET, blob_name(data), b"damage", {}, {})
        put(blobs, data)
        assert read(blobs, sha(data)) == data


def test_ages_only_go_forward(storage: FakeStorage) -> None:
    """A store whose clock is behind: the other one's time stays, and nothing fails."""
    now = time.time()
    with fake_blobs(storage, clock=lambda: now + 3600) as ahead, fake_blobs(storage, clock=lambda: now) as behind:
        name = put(ahead, b"x")
        assert behind.touch(name)
        put(behind, b"x")
        assert not ahead.delete(name, now + 1800)


def test_one_object_may_change_about_once_a_second(storage: FakeStorage) -> None:
    """Many experiments with the same code find the same blob: it is touched once."""
    storage.model.changes_a_second = 1
    clock = [time.time() - 100]
    with fake_blobs(storage, Patience(), clock=lambda: clock[0], fresh_s=60.0) as blobs:
        name = put(blobs, b"x")
        clock[0] += 100
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(blobs.touch, [name] * 40))
        assert not blobs.delete(name, clock[0] - 1)


def test_objects_that_have_no_time_of_ours(storage: FakeStorage, blobs: GcsBlobs) -> None:
    """Copied in by hand: as old as the copy."""
    storage.model.insert(BUCKET, blob_name(b"x"), b"x", {}, {})
    [found] = blobs.blobs()
    assert abs(found.touched - time.time()) < 5
    assert not blobs.delete(sha(b"x"), time.time() - 60)
    old = {"customTime": stamp(time.time() - 120)}
    storage.model.insert(BUCKET, blob_name(b"y"), b"y", old, {})
    assert blobs.delete(sha(b"y"), time.time() - 60)


def test_two_platforms_do_not_share_a_prefix(storage: FakeStorage) -> None:
    """Each deletes what its own database does not list: the second one is refused, until it takes the bucket over."""
    bucket, now = fake_bucket(storage), [0.0]
    first, second = Ownership(bucket, "first", lambda: now[0]), Ownership(bucket, "second", lambda: now[0])
    with closing(GcsBlobs(bucket, owner=first)) as one, closing(GcsBlobs(bucket, owner=second)) as two:
        for data in (b"x", b"y"):
            put(one, data)
        assert one.delete(sha(b"x"), time.time() + 60)
        for refused in (lambda: two.delete(sha(b"y"), time.time() + 60), lambda: two.sweep_partials(time.time() + 60)):
            with pytest.raises(ConflictError, match="another platform") as caught:
                refused()
            assert "first" in caught.value.cause
            assert "INCL_REGISTRY_TAKE_STORE" in caught.value.hint
        assert two.size(sha(b"y")) == 1
        second.take()
        now[0] += 61.0
        with pytest.raises(ConflictError):
            one.delete(sha(b"y"), time.time() + 60)
        assert two.delete(sha(b"y"), time.time() + 60)


def test_two_platforms_that_come_at_the_same_moment(storage: FakeStorage) -> None:
    """One of them has it."""

    def come(name: str) -> bool:
        try:
            Ownership(fake_bucket(storage), name).check()
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(come, "abcdef")) == 1


def test_a_mark_that_says_nothing(storage: FakeStorage, tmp_path: Path) -> None:
    storage.model.insert(BUCKET, f"{PREFIX}/owner", b"\n" * 1000, {}, {})
    with pytest.raises(ConflictError, match="another platform"):
        Ownership(fake_bucket(storage), own_name(tmp_path)).check()
    assert own_name(tmp_path) == own_name(tmp_path)
    assert (tmp_path / "store.id").stat().st_mode & 0o077 == 0
