"""Links to one file, for whoever has them: from the folder and from a bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from incl_registry.fakes.gcs import FakeStorage
from incl_registry.grants import Verb
from incl_registry.testing.gcs import BUCKET, signing_blobs
from incl_registry.testing.running import ANN, Store, close_store, entry, open_store, sha
from incl_shared.artifacts import ArtifactClient
from incl_shared.clock import SystemClock
from incl_shared.errors import DeniedError, NotFoundError
from incl_shared.events import ExperimentPurged
from incl_shared.ids import new_id
from incl_shared.queries.registry import CommitArtifacts, Shared, ShareFile
from incl_shared.subjects import Asker

DATA = b"<script>alert(1)</script>" * 1000
NAME = 'plots/ü "1".html'


@pytest.fixture(params=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, sqlite_url: str, tmp_path: Path) -> AsyncIterator[Store]:
    with FakeStorage(BUCKET, guarded=True) as storage:
        blobs = signing_blobs(storage) if request.param == "bucket" else None
        opened = await open_store(sqlite_url, tmp_path / "blobs", blobs=blobs)
        yield opened
        await close_store(opened)


@pytest.fixture
async def shared(store: Store, experiment: str) -> Shared:
    with ArtifactClient(await store.upload(experiment)) as client:
        await store.threads.run(client.put_bytes, DATA)
        await store.threads.run(client.put_bytes, b"other")
    files = (entry(DATA, path=NAME), entry(b"other", path="other"), entry(b"other", path="points", kind="archive"))
    await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=files))
    return await ask(store, experiment)


async def ask(store: Store, experiment: str, asker: Asker = ANN, seconds: int = 3600, data: bytes = DATA) -> Shared:
    path = NAME if data == DATA else "points"
    query = ShareFile(experiment=experiment, path=path, sha256=sha(data), seconds=seconds)
    return await store.handlers.share(asker, query)


def browser() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, follow_redirects=True)


async def test_anybody_fetches_the_file(store: Store, shared: Shared) -> None:
    async with browser() as http:
        answer = await http.get(shared.url)
        assert (answer.status_code, answer.content) == (200, DATA)
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%BC%20%221%22.html"
        assert answer.headers["content-type"] == "application/octet-stream"
        part = await http.get(shared.url, headers={"Range": "bytes=3-9"})
        assert (part.status_code, part.content) == (206, DATA[3:10])
        head = await http.head(shared.url)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(DATA)))
        assert head.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in head.headers["content-security-policy"]
    assert abs(shared.expires - SystemClock().now() - 3600) < 60


async def test_it_is_for_this_file_alone(store: Store, shared: Shared, experiment: str) -> None:
    place, token, _ = shared.url.rsplit("/", 2)
    grant = (await store.download(experiment)).token
    async with browser() as http:
        for wrong in (f"{place}/{token}/other", f"{place}/{token}x/{NAME[6:]}", f"{place}/{grant}/{NAME[6:]}"):
            assert (await http.get(wrong)).status_code == 401
        for verb in ("GET", "HEAD", "PUT"):
            headers = {"Authorization": f"Bearer {token}"}
            query = "?upload=" + "a" * 32 + "&size=0&offset=0"
            answer = await http.request(verb, f"{store.url}/blobs/{sha(b'other')}{query}", headers=headers)
            assert answer.status_code == 403
            answer = await http.request(verb, f"{store.url}/blobs/{sha(DATA)}{query}", headers=headers)
            assert answer.status_code == 403
        assert (await http.put(shared.url, content=b"x")).status_code == 405


async def test_it_ends(store: Store, shared: Shared, experiment: str) -> None:
    late = store.forged(experiment, Verb.SHARE, expires=1.0, blob=sha(DATA), file="x")
    bare = store.forged(experiment, Verb.SHARE)
    async with browser() as http:
        answer = await http.get(f"{store.url}/shared/{late}/x")
        assert (answer.status_code, answer.json()["message"]) == (401, "the grant is expired")
        assert (await http.get(f"{store.url}/shared/{bare}/x")).status_code == 401
        purged = ExperimentPurged(experiment=experiment)
        await store.database.write(lambda tx: store.handlers._purged(tx, purged, "default"))
        assert (await http.get(shared.url)).status_code == 403


async def test_who_may_share(store: Store, shared: Shared, experiment: str) -> None:
    assert (await ask(store, experiment, Asker("default", "bob"))).url
    with pytest.raises(DeniedError):
        await ask(store, experiment, Asker("other", "eve"))
    for machine in (f"job_{experiment}-1-0", "tracker"):
        with pytest.raises(DeniedError, match="only people"):
            await ask(store, experiment, Asker("default", machine))
    with pytest.raises(NotFoundError):
        await ask(store, new_id())
    with pytest.raises(NotFoundError, match="no such file"):
        await ask(store, experiment, data=b"other")
    for seconds in (59, 604_801):
        with pytest.raises(ValueError, match="seconds"):
            await ask(store, experiment, seconds=seconds)
