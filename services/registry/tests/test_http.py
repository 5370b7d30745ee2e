"""The HTTP door, spoken to byte by byte."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import httpx
import pytest

from incl_registry.grants import Verb
from incl_registry.http import DoorLimits
from incl_registry.testing.running import ANN, Store, close_store, entry, open_store, sha, upload_id
from incl_shared.ids import new_id
from incl_shared.queries.registry import CommitArtifacts
from incl_shared.testing.wait import until

DATA = os.urandom(3_000_000)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def client(store: Store) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=store.url, trust_env=False)


async def put(store: Store, token: str, data: bytes) -> httpx.Response:
    async with client(store) as http:
        query = f"upload={upload_id()}&size={len(data)}&offset=0"
        return await http.put(f"/blobs/{sha(data)}?{query}", content=data, headers=bearer(token))


async def test_put_then_get(any_store: Store, experiment: str) -> None:
    store = any_store
    token = (await store.upload(experiment)).token
    answer = await put(store, token, DATA)
    assert (answer.status_code, answer.json()) == (201, {"sha256": sha(DATA), "size": len(DATA)})
    get = bearer((await store.download(experiment)).token)
    async with client(store) as http:
        whole = await http.get(f"/blobs/{sha(DATA)}", headers=get)
        assert (whole.status_code, whole.content == DATA) == (200, True)
        head = await http.head(f"/blobs/{sha(DATA)}", headers=get)
        assert head.headers["content-length"] == str(len(DATA))
        again = await http.head(f"/blobs/{sha(DATA)}?upload={upload_id()}&size=0", headers=bearer(token))
        assert again.status_code == 200
    assert store.metrics.get_sample_value("incl_registry_downloaded_bytes_total") == len(DATA)


def put_head(path: str, token: str) -> bytes:
    """The head of a PUT of all of DATA, as a client sends it."""
    lines = (f"PUT {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}", f"Content-Length: {len(DATA)}")
    return "\r\n".join((*lines, "", "")).encode()


RANGES = [
    ("bytes=0-", 206, 0, len(DATA)),
    ("bytes=5-9", 206, 5, 10),
    ("bytes=2999999-", 206, 2_999_999, len(DATA)),
    ("bytes=2999990-9999999", 206, 2_999_990, len(DATA)),
    ("bytes=0-0", 206, 0, 1),
    ("bytes=-5", 200, 0, len(DATA)),
    ("bytes=1-2,4-5", 200, 0, len(DATA)),
    ("chapters=1-2", 200, 0, len(DATA)),
]


async def test_ranges(store: Store, experiment: str) -> None:
    await put(store, (await store.upload(experiment)).token, DATA)
    get = bearer((await store.download(experiment)).token)
    async with client(store) as http:
        for asked, status, start, end in RANGES:
            answer = await http.get(f"/blobs/{sha(DATA)}", headers=get | {"Range": asked})
            whole = (start, end) == (0, len(DATA))
            assert answer.status_code == (200 if whole else status), asked
            assert answer.content == DATA[start:end], asked
            if not whole:
                assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
        for asked in ("bytes=3000000-", "bytes=9-5"):
            answer = await http.get(f"/blobs/{sha(DATA)}", headers=get | {"Range": asked})
            assert answer.status_code == 416


METHODS = ("GET", "HEAD", "PUT")


async def test_every_route_asks_for_a_grant(store: Store, experiment: str) -> None:
    """Whatever is in the path or the query: without a grant nothing is told."""
    await put(store, (await store.upload(experiment)).token, DATA)
    expired = store.forged(experiment, Verb.PUT, expires=1.0)
    wrong = [
        {},
        {"Authorization": "Bearer"},
        bearer("x.y"),
        bearer(expired),
        {"Authorization": f"Basic {expired}"},
        bearer("é"),
    ]
    tails = ["", f"?upload={upload_id()}&size=3000000&offset=0", "?upload=../../x&size=-1"]
    async with client(store) as http:
        for method in METHODS:
            for name in (sha(DATA), "..grants.key"):
                for tail in tails:
                    for headers in wrong:
                        raw = {key: value.encode() for key, value in headers.items()}
                        answer = await http.request(method, f"/blobs/{name}{tail}", headers=raw, content=b"")
                        assert answer.status_code == 401, (method, name, tail, headers)
                        assert answer.headers["www-authenticate"] == "Bearer"
                        assert "ETag" not in answer.headers


async def test_a_grant_is_for_one_verb_and_one_experiment(store: Store, experiment: str) -> None:
    put_token = (await store.upload(experiment)).token
    await put(store, put_token, DATA)
    get_token = (await store.download(experiment)).token
    other = new_id()
    await store.upload(other)
    foreign = (await store.download(other)).token
    path = f"/blobs/{sha(DATA)}"
    async with client(store) as http:
        assert (await http.get(path, headers=bearer(put_token))).status_code == 403
        refused = await http.put(f"{path}?upload={upload_id()}&size=0&offset=0", headers=bearer(get_token))
        assert refused.status_code == 403
        for method in ("GET", "HEAD"):
            assert (await http.request(method, path, headers=bearer(foreign))).status_code == 403
            assert (await http.request(method, f"/blobs/{sha(b'?')}", headers=bearer(get_token))).status_code == 403
    problem = refused.json()
    assert refused.headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["code"], problem["message"]) == (
        403,
        "denied",
        "the grant is to get, not to put",
    )


async def test_another_project_must_show_the_bytes(store: Store, experiment: str) -> None:
    """To know a checksum is not to have the file: it is neither said to be there, nor listed, nor read."""
    await put(store, (await store.upload(experiment)).token, DATA)
    thief, theirs = ANN.__class__("other", "eve"), new_id()
    token = (await store.upload(theirs, thief)).token
    async with client(store) as http:
        head = await http.head(f"/blobs/{sha(DATA)}?upload={upload_id()}&size=1", headers=bearer(token))
        assert (head.status_code, head.headers["upload-offset"]) == (404, "0")
        with pytest.raises(Exception, match="is not stored"):
            await store.handlers.commit(thief, CommitArtifacts(experiment=theirs, entries=(entry(DATA),)))
        get = (await store.download(theirs, thief)).token
        assert (await http.get(f"/blobs/{sha(DATA)}", headers=bearer(get))).status_code == 403
        assert (await put(store, token, DATA)).status_code == 201
        assert (await http.get(f"/blobs/{sha(DATA)}", headers=bearer(get))).content == DATA


async def test_names_that_are_no_checksums(store: Store, experiment: str) -> None:
    headers = bearer((await store.upload(experiment)).token)
    get = bearer((await store.download(experiment)).token)
    names = ["x", "a" * 63, "A" * 64, "a" * 65, "...", ".grants", "a" * 64 + "%0a", "a" * 64 + "%00"]
    async with client(store) as http:
        for name in names:
            for method, grant in (("GET", get), ("HEAD", get), ("PUT", headers), ("HEAD", headers), ("POST", headers)):
                answer = await http.request(
                    method, f"/blobs/{name}?upload={upload_id()}&size=0&offset=0", headers=grant
                )
                assert answer.status_code == 422, name
        for path in (
            "/blobs/..%2f..%2fgrants.key",
            "/blobs/../grants.key",
            "/grants.key",
            "/blobs/a/b",
            "/",
        ):
            assert (await http.get(path, headers=get)).status_code == 404, path
        assert (await http.delete(f"/blobs/{'a' * 64}", headers=headers)).status_code == 405
        assert (await http.patch(f"/blobs/{'a' * 64}", headers=headers)).status_code == 405


async def test_queries_that_make_no_sense(store: Store, experiment: str) -> None:
    headers = bearer((await store.upload(experiment)).token)
    good = {"upload": upload_id(), "size": "3", "offset": "0"}
    bad = [
        {"upload": "x"},
        {"upload": "../" * 10 + "xx"},
        {"size": "-1"},
        {"size": ""},
        {"size": "9" * 30},
        {"offset": "4"},
    ]
    async with client(store) as http:
        for change in bad:
            answer = await http.put(f"/blobs/{sha(b'abc')}", params=good | change, content=b"abc", headers=headers)
            assert answer.status_code == 422, change
        short = await http.put(f"/blobs/{sha(b'abc')}", params=good, content=b"ab", headers=headers)
        assert short.status_code == 422
        fine = await http.put(f"/blobs/{sha(b'abc')}", params=good, content=b"abc", headers=headers)
        assert fine.status_code == 201


async def test_wrong_bytes(store: Store, experiment: str) -> None:
    headers = bearer((await store.upload(experiment)).token)
    query = f"upload={upload_id()}&size=5"
    async with client(store) as http:
        answer = await http.put(f"/blobs/{sha(b'right')}?{query}&offset=0", content=b"wrong", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "integrity")
        head = await http.head(f"/blobs/{sha(b'right')}?{query}", headers=headers)
        assert (head.status_code, head.headers["upload-offset"]) == (404, "0")
    assert list((store.folder / "sha256").rglob("*")) == []


async def test_an_upload_that_is_cut_goes_on_where_it_was(store: Store, experiment: str) -> None:
    token, upload = (await store.upload(experiment)).token, upload_id()
    path, half = f"/blobs/{sha(DATA)}?upload={upload}&size={len(DATA)}", 2_000_000
    reader, writer = await asyncio.open_connection("127.0.0.1", store.server.port)
    writer.write(put_head(f"{path}&offset=0", token) + DATA[:half])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    del reader
    async with client(store) as http:

        async def offset() -> str | None:
            found = await http.head(path, headers=bearer(token))
            return found.headers["upload-offset"] if found.headers["upload-offset"] == str(half) else None

        await until(offset, what="all bytes that came are kept")
        wrong = await http.put(f"{path}&offset=0", content=DATA, headers=bearer(token))
        assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, str(half))
        rest = await http.put(f"{path}&offset={half}", content=DATA[half:], headers=bearer(token))
        assert rest.status_code == 201
        get = bearer((await store.download(experiment)).token)
        assert (await http.get(f"/blobs/{sha(DATA)}", headers=get)).content == DATA
    assert list((store.folder / "partial").iterdir()) == []


async def test_a_silent_upload_is_cut(sqlite_url: str, tmp_path: Path, experiment: str) -> None:
    store = await open_store(sqlite_url, tmp_path / "b", DoorLimits(min_free=0, max_blob=1 << 30, idle_s=0.1))
    try:
        token = (await store.upload(experiment)).token
        path = f"/blobs/{sha(DATA)}?upload={upload_id()}&size={len(DATA)}"
        reader, writer = await asyncio.open_connection("127.0.0.1", store.server.port)
        head = (
            f"PUT {path}&offset=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9999\r\n\r\n"
        )
        writer.write(head.replace("9999", str(len(DATA))).encode() + b"abc")
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 408")
        writer.close()
        async with client(store) as http:
            assert (await http.head(path, headers=bearer(token))).headers["upload-offset"] == "3"
    finally:
        await close_store(store)


async def test_no_room(sqlite_url: str, tmp_path: Path, experiment: str) -> None:
    store = await open_store(sqlite_url, tmp_path / "b", DoorLimits(min_free=1 << 60, max_blob=1 << 30, idle_s=5))
    try:
        token = (await store.upload(experiment)).token
        answer = await put(store, token, b"x")
        assert (answer.status_code, answer.json()["code"]) == (507, "unavailable")
        assert "room" in answer.json()["message"]
        async with client(store) as http:
            path = f"/blobs/{sha(b'x')}?upload={upload_id()}&size=1"
            assert (await http.head(path, headers=bearer(token))).status_code == 507
            big = f"/blobs/{sha(b'x')}?upload={upload_id()}&size={1 << 40}"
            assert (await http.head(big, headers=bearer(token))).status_code == 413
    finally:
        await close_store(store)


async def test_a_blob_that_is_gone(store: Store, experiment: str) -> None:
    await put(store, (await store.upload(experiment)).token, b"x")
    name = sha(b"x")
    (store.folder / "sha256" / name[:2] / name).unlink()
    async with client(store) as http:
        get = bearer((await store.download(experiment)).token)
        assert (await http.get(f"/blobs/{name}", headers=get)).status_code == 404
        grant = bearer((await store.upload(experiment)).token)
        head = await http.head(f"/blobs/{name}?upload={upload_id()}&size=1", headers=grant)
        assert head.status_code == 404
    assert (await put(store, (await store.upload(experiment)).token, b"x")).status_code == 201


async def test_a_failure_tells_nothing_of_the_inside(store: Store, experiment: str) -> None:
    token = (await store.upload(experiment)).token
    await store.database.stop()
    answer = await put(store, token, b"x")
    assert answer.status_code == 503
    assert json.loads(answer.content)["message"] == "the database is not open"
