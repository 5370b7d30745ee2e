"""For tests: stores in a bucket of the fake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final, cast

from google.auth.credentials import AnonymousCredentials, Credentials
from google.oauth2 import service_account

from incl_registry.fakes.gcs import FakeStorage
from incl_registry.gcs.bucket import Bucket, Patience
from incl_registry.gcs.connect import SCOPES, connect
from incl_registry.gcs.links import Links
from incl_registry.gcs.store import GcsBlobs
from incl_registry.testing.running import sha, upload_id

BUCKET: Final = "incl-artifacts"
PREFIX: Final = "team/one"
SHORT: Final = Patience(connect_s=1.0, read_s=2.0, retry_s=0.6)
PART: Final = 256 << 10
_STEP: Final = 100_000


def anonymous() -> Credentials:
    """Nobody's."""
    return AnonymousCredentials()  # type: ignore[no-untyped-call]


def account(storage: FakeStorage) -> Credentials:
    """The fake's service account, by its key."""
    info = json.loads(storage.key_file)
    found = service_account.Credentials.from_service_account_info(info, scopes=list(SCOPES))  # type: ignore[no-untyped-call]
    return cast("Credentials", found)


def fake_bucket(storage: FakeStorage, patience: Patience = SHORT) -> Bucket:
    """The fake's bucket, with the service account's key where it asks for one."""
    if not storage.guarded:
        return connect(f"gs://{BUCKET}/{PREFIX}", storage.url, found=anonymous(), patience=patience)
    return connect(f"gs://{BUCKET}/{PREFIX}", storage.url, found=account(storage), patience=patience)


@contextmanager
def fake_blobs(storage: FakeStorage, patience: Patience = SHORT, **more: Any) -> Iterator[GcsBlobs]:
    """A store on the fake, with small parts."""
    with closing(GcsBlobs(fake_bucket(storage, patience), **{"part_size": PART, "fresh_s": 0.0, **more})) as blobs:
        yield blobs


def signing_blobs(storage: FakeStorage, **more: Any) -> GcsBlobs:
    """A store on the fake whose key signs addresses."""
    key = account(storage)
    bucket = connect(f"gs://{BUCKET}/{PREFIX}", storage.url, found=key, patience=SHORT)
    given = {"part_size": PART, "direct_part": 2 * PART, "fresh_s": 0.0, "links": Links(key, storage.url, None)}
    return GcsBlobs(bucket, **{**given, **more})


def put(blobs: GcsBlobs, data: bytes, key: str | None = None, offset: int = 0) -> str:
    """The rest of an upload; its name."""
    upload = blobs.resume(sha(data), key or upload_id(), offset)
    try:
        for at in range(offset, len(data), _STEP):
            upload.write(data[at : at + _STEP])
        upload.finish()
    finally:
        upload.close()
    return sha(data)


def cut(blobs: GcsBlobs, data: bytes, key: str, upto: int) -> None:
    """An upload whose client goes away."""
    upload = blobs.resume(sha(data), key, blobs.partial(sha(data), key))
    upload.write(data[upload.offset : upto])
    upload.close()


def read(blobs: GcsBlobs, name: str) -> bytes:
    """All of a blob."""
    with blobs.open(name) as source:
        return source.read()


def blob_name(data: bytes) -> str:
    """Of the object."""
    return f"{PREFIX}/sha256/{sha(data)[:2]}/{sha(data)}"
