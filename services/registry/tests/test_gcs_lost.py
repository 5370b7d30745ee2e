"""A provider that does not answer: the reason in words, soon, and said to whoever waits."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from google.auth import exceptions as auth

from incl_registry.fakes.gcs import FakeStorage
from incl_registry.gcs import lost
from incl_registry.gcs.bucket import Bucket, Patience
from incl_registry.gcs.connect import connect
from incl_registry.testing.gcs import BUCKET, SHORT, anonymous, fake_blobs
from incl_registry.testing.running import close_store, open_store, sha
from incl_shared.artifacts import ArtifactClient
from incl_shared.errors import InclError, UnavailableError

QUICK = Patience(connect_s=0.3, read_s=0.3, retry_s=0.4, away_s=0.1)


def at(endpoint: str) -> Bucket:
    return connect(f"gs://{BUCKET}", endpoint, found=anonymous(), patience=QUICK)


def cause(bucket: Bucket) -> str:
    with pytest.raises(UnavailableError, match="does not answer") as caught:
        bucket.stat("x")
    said = caught.value.cause
    assert not {"HTTPConnection", "urllib3", "retries", "0x"} & set(said.replace("(", " ").split())
    return said


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
    assert cause(at(f"http://{place}")) == f"{place} refuses the connection: nobody listens there"


def test_nobody_answers(silent: str) -> None:
    assert cause(at(f"http://{silent}")) == f"{silent} did not answer in time"


def test_a_connection_that_is_cut() -> None:
    with FakeStorage(BUCKET) as storage:
        storage.fault(kind="cut", times=None)
        assert "ended the connection without an answer" in cause(at(storage.url))


def test_a_name_that_nobody_knows() -> None:
    error = requests.ConnectionError("HTTPSConnectionPool: Failed to resolve 'nowhere.invalid'")
    error.request = requests.Request("GET", "https://u:p@nowhere.invalid/x?X-Goog-Signature=s").prepare()
    assert lost.words(error) == "the name of nowhere.invalid is not known here"
    assert lost.words(auth.TransportError(error)) == "the name of nowhere.invalid is not known here"


def test_what_is_none_of_these_is_told_as_it_is() -> None:
    assert lost.words(ValueError("x")) == ""


def test_one_that_is_away_already_is_not_waited_for_as_long() -> None:
    with FakeStorage(BUCKET) as storage:
        storage.fault(kind="error", status=503, times=None)
        bucket = connect(f"gs://{BUCKET}", storage.url, found=anonymous(), patience=Patience(retry_s=1.0, away_s=0.1))
        took = []
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                bucket.stat("x")
            took.append(time.monotonic() - began)
        assert took[1] < took[0] / 2
        storage.faults.clear()
        assert bucket.stat("x") is None
        assert bucket.failing is None


async def test_whoever_waits_is_told_once_and_soon(experiment: str, sqlite_url: str, tmp_path: Path) -> None:
    said: list[InclError] = []
    with FakeStorage(BUCKET, guarded=True) as storage, fake_blobs(storage, SHORT) as blobs:
        store = await open_store(sqlite_url, tmp_path / "unused", blobs=blobs)
        try:
            grant = await store.upload(experiment)
            storage.stop()
            with ArtifactClient(grant, patience_s=3.0, waiting=said.append) as client:
                with pytest.raises(UnavailableError, match="does not answer"):
                    await asyncio.to_thread(client.put_bytes, b"code")
                assert len(said) == 1
                storage.start()
                assert (await asyncio.to_thread(client.put_bytes, b"code")).sha256 == sha(b"code")
            assert len(said) == 1
        finally:
            await close_store(store)
    assert "does not answer" in said[0].message
    assert "nobody listens there" in said[0].cause
