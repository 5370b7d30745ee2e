"""Queries, events, sweep: on both databases."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from incl_registry.sweep import sweep
from incl_registry.tables import metadata
from incl_registry.testing.running import ANN, Store, entry, sha
from incl_shared.artifacts import ArtifactClient
from incl_shared.auth.names import job_principal
from incl_shared.bus.delivery import Delivery
from incl_shared.bus.tables import outbox
from incl_shared.clock import SystemClock
from incl_shared.errors import DeniedError, InvalidInput, NotFoundError
from incl_shared.events import CodeRef, Event, ExperimentQueued, Medium, Provenance, Thumbnail
from incl_shared.ids import new_id
from incl_shared.migrations import assert_migrations_match
from incl_shared.queries.registry import CommitArtifacts, Entry, ListArtifacts
from incl_shared.spec import CheckpointPolicy, ExperimentSpec
from incl_shared.subjects import Asker, event


def test_the_migrations_make_the_tables(database_url: str) -> None:
    assert_migrations_match(database_url, metadata, "incl_registry")


async def upload(store: Store, experiment: str, *contents: bytes, asker: Asker = ANN) -> None:
    with ArtifactClient(await store.upload(experiment, asker)) as client:
        for data in contents:
            await asyncio.to_thread(client.put_bytes, data)


async def commit(store: Store, experiment: str, *listed: Entry, asker: Asker = ANN, keep: str | None = None) -> int:
    policy = None if keep is None else CheckpointPolicy(keep)
    query = CommitArtifacts(experiment=experiment, entries=listed, keep=policy)
    return (await store.handlers.commit(asker, query)).new


async def everything(store: Store, experiment: str, limit: int = 1000, **where: object) -> list[Entry]:
    found: list[Entry] = []
    cursor: int | None = None
    while True:
        query = ListArtifacts.model_validate({"experiment": experiment, "cursor": cursor, "limit": limit, **where})
        page = await store.handlers.files(ANN, query)
        assert len(page.entries) <= limit
        found += page.entries
        cursor = page.cursor
        if cursor is None:
            return found


async def emitted(store: Store) -> list[dict[str, object]]:
    """What waits in the outbox: payload, with subject, id and version."""

    def work(connection: sa.Connection) -> list[dict[str, object]]:
        rows = connection.execute(sa.select(outbox).order_by(outbox.c.sequence))
        return [
            json.loads(row.payload)
            | {"subject": row.subject, "id": row.event_id, "version": json.loads(row.headers)["ce-inclversion"]}
            for row in rows
        ]

    return await store.database.read(work)


async def test_commit_lists_and_tells_once(any_store: Store, experiment: str) -> None:
    store = any_store
    await upload(store, experiment, b"one", b"two", b"code")
    listed = (
        entry(b"one", "a/one.txt", attempt=1, mode=0o4755),
        entry(b"two", "b ü\n.txt", attempt=1, step=7, kind="media"),
        entry(b"code", "code.tar.zst", kind="code"),
    )
    assert await commit(store, experiment, *listed) == 3
    assert await commit(store, experiment, *listed) == 0
    events = await emitted(store)
    assert [(e["path"], e["kind"], e["step"], e["version"]) for e in events] == [
        ("a/one.txt", "output", None, "1"),
        ("b ü\n.txt", "media", 7, "2"),
    ]
    assert {e["subject"] for e in events} == {f"incl.event.default.artifact.{experiment}"}
    assert len({e["id"] for e in events}) == 2
    found = await everything(store, experiment)
    assert found == [listed[1], listed[0].model_copy(update={"mode": 0o755}), listed[2]]


async def test_a_file_in_the_same_place_replaces_the_first(any_store: Store, experiment: str) -> None:
    store = any_store
    await upload(store, experiment, b"old", b"new")
    assert await commit(store, experiment, entry(b"old", "x")) == 1
    assert await commit(store, experiment, entry(b"new", "x")) == 1
    assert [found.sha256 for found in await everything(store, experiment)] == [sha(b"new")]
    assert len(await emitted(store)) == 2


async def test_what_is_not_stored_is_not_listed(store: Store, experiment: str) -> None:
    await upload(store, experiment, b"here")
    with pytest.raises(NotFoundError, match="is not stored"):
        await commit(store, experiment, entry(b"here"), entry(b"missing", "y"))
    with pytest.raises(InvalidInput, match="has 4 bytes, not 5"):
        await commit(store, experiment, entry(b"here").model_copy(update={"size": 5}))
    assert await everything(store, experiment) == []
    assert await emitted(store) == []


async def test_pages_hold_everything_once_and_in_order(any_store: Store, experiment: str) -> None:
    await upload(any_store, experiment, b"x")
    listed = [
        entry(b"x", f"{'d' * 300}/{number % 5}/{number}", attempt=number % 3, step=number % 4 or None, rank=number % 2)
        for number in range(120)
    ]
    await commit(any_store, experiment, *listed)
    wanted = sorted(listed, key=lambda e: (-e.attempt, -(e.step or -1), e.path.encode(), e.rank))
    for limit in (7, 50, 1000):
        assert await everything(any_store, experiment, limit) == wanted
    assert await everything(any_store, experiment, 7, attempt=1) == [e for e in wanted if e.attempt == 1]
    assert await everything(any_store, experiment, kind="media") == []
    with pytest.raises(InvalidInput, match="list has changed"):
        await everything(any_store, experiment, cursor=10**9)


async def test_the_newest_checkpoint_comes_first(store: Store, experiment: str) -> None:
    await upload(store, experiment, b"x")
    places = [(1, 5), (1, 10), (2, 3), (1, 100)]
    listed = [entry(b"x", f"{step}.pt", "checkpoint", attempt=attempt, step=step) for attempt, step in places]
    await commit(store, experiment, *listed)
    page = await store.handlers.files(ANN, ListArtifacts(experiment=experiment, kind="checkpoint", limit=1))
    assert [(found.attempt, found.step) for found in page.entries] == [(2, 3)]
    assert [e.step for e in await everything(store, experiment, kind="checkpoint", attempt=1)] == [100, 10, 5]


async def test_old_checkpoints_leave_the_list(any_store: Store, experiment: str) -> None:
    store = any_store
    await upload(store, experiment, b"x")
    for step in (1, 2, 3):
        files = [entry(b"x", f"{name}.pt", "checkpoint", attempt=1, step=step) for name in ("model", "optimizer")]
        await commit(store, experiment, *files, entry(b"x", f"log{step}"), keep="latest")
    kept = await everything(store, experiment)
    assert [e.step for e in kept if e.kind == "checkpoint"] == [3, 3]
    assert len(kept) == 5
    await commit(store, experiment, entry(b"x", "model.pt", "checkpoint", attempt=1, step=4), keep="all")
    assert len(await everything(store, experiment, kind="checkpoint")) == 3


async def dropped(store: Store) -> list[tuple[list[str], object]]:
    """(paths, version) of each ArtifactsDropped in the outbox."""
    told = [one for one in await emitted(store) if "entries" in one]
    return [([file["path"] for file in one["entries"]], one["version"]) for one in told]  # type: ignore[attr-defined]


async def test_checkpoints_that_leave_the_list_are_told(any_store: Store, experiment: str) -> None:
    """With the next version, in the same transaction; one that comes back has a later one, and is told again."""
    store = any_store
    await upload(store, experiment, b"x")
    first = entry(b"x", "1/model.pt", "checkpoint", attempt=1, step=1)
    await commit(store, experiment, first, keep="latest")
    assert await dropped(store) == []
    await commit(store, experiment, entry(b"x", "2/model.pt", "checkpoint", attempt=1, step=2), keep="latest")
    assert await dropped(store) == [(["1/model.pt"], "3")]
    await commit(store, experiment, first, keep="latest")
    assert await dropped(store) == [(["1/model.pt"], "3"), (["1/model.pt"], "5")]
    told = await emitted(store)
    assert [one["version"] for one in told] == ["1", "2", "3", "4", "5"]
    assert len({one["id"] for one in told}) == 5
    assert told[2]["entries"] == [{"attempt": 1, "rank": 0, "kind": "checkpoint", "path": "1/model.pt"}]


async def test_a_place_that_still_has_a_file_is_not_told_as_dropped(any_store: Store, experiment: str) -> None:
    store = any_store
    await upload(store, experiment, b"x")
    for step in (1, 2):
        await commit(store, experiment, entry(b"x", "m.pt", "checkpoint", attempt=1, step=step), keep="latest")
    assert [one.step for one in await everything(store, experiment)] == [2]
    assert await dropped(store) == []


async def test_many_dropped_checkpoints_are_several_events(store: Store, experiment: str) -> None:
    """Not above 500 files, nor above what a message may be."""
    await upload(store, experiment, b"x")
    short = [entry(b"x", f"1/{number:04}.pt", "checkpoint", attempt=1, step=1) for number in range(600)]
    await commit(store, experiment, *short[:500], keep="all")
    await commit(store, experiment, *short[500:], keep="all")
    await commit(store, experiment, entry(b"x", "2/model.pt", "checkpoint", attempt=1, step=2), keep="latest")
    found = await dropped(store)
    assert sorted(path for paths, _ in found for path in paths) == [one.path for one in short]
    assert max(len(paths) for paths, _ in found) <= 500
    assert [version for _, version in found] == [str(602 + number) for number in range(len(found))]
    long = [entry(b"x", f"3/{number:03}" + "ü" * 2000, "checkpoint", attempt=1, step=3) for number in range(120)]
    await commit(store, experiment, *long, keep="latest")
    await commit(store, experiment, entry(b"x", "4/model.pt", "checkpoint", attempt=1, step=4), keep="latest")
    assert sum(len(paths) for paths, _ in await dropped(store)) == 600 + 1 + 120
    assert all(len(json.dumps(one)) < 256_000 for one in await emitted(store))


async def test_the_best_and_the_newest_checkpoint_stay(any_store: Store, experiment: str) -> None:
    store = any_store
    await upload(store, experiment, b"x", b"y")
    kept: list[list[tuple[int | None, float | None]]] = []
    for step, score in ((1, None), (2, None), (3, -0.5), (4, None), (5, -0.25), (6, -0.75), (7, -0.25)):
        saved = entry(b"x", "model.pt", "checkpoint", attempt=1, step=step, score=score)
        await commit(store, experiment, saved, entry(b"x", f"log{step}"), keep="best")
        found = await everything(store, experiment, kind="checkpoint")
        kept.append([(e.step, e.score) for e in found])
    assert kept == [
        [(1, None)],
        [(2, None), (1, None)],
        [(3, -0.5)],
        [(4, None), (3, -0.5)],
        [(5, -0.25)],
        [(6, -0.75), (5, -0.25)],
        [(7, -0.25)],
    ]
    assert len(await everything(store, experiment, kind="output")) == 7
    again = entry(b"y", "model.pt", "checkpoint", attempt=1, step=7, score=-2.0)
    await commit(store, experiment, again, keep="best")
    assert await everything(store, experiment, kind="checkpoint") == [again]
    assert all("score" not in told for told in await emitted(store))


async def test_a_page_fits_into_a_message(store: Store, experiment: str) -> None:
    await upload(store, experiment, b"x")
    await commit(store, experiment, *(entry(b"x", f"{number:03}/" + "ü" * 2000) for number in range(120)))
    page = await store.handlers.files(ANN, ListArtifacts(experiment=experiment, limit=1000))
    assert len(page.model_dump_json().encode()) < 256_000
    assert page.cursor is not None
    assert len(await everything(store, experiment)) == 120


async def test_others_are_denied(store: Store, experiment: str) -> None:
    await upload(store, experiment, b"x")
    await commit(store, experiment, entry(b"x"))
    bob, eve = replace(ANN, user="bob"), replace(ANN, project="other")
    stranger = replace(ANN, user=job_principal(new_id(), 1, 0))
    for asker in (bob, eve, stranger):
        with pytest.raises(DeniedError):
            await store.upload(experiment, asker)
        with pytest.raises(DeniedError):
            await commit(store, experiment, entry(b"x", "y"), asker=asker)
    for asker in (eve, stranger):
        with pytest.raises(DeniedError):
            await store.download(experiment, asker)
        with pytest.raises(DeniedError):
            await store.handlers.files(asker, ListArtifacts(experiment=experiment))
    assert (await store.handlers.files(bob, ListArtifacts(experiment=experiment))).entries == (entry(b"x"),)
    with pytest.raises(NotFoundError):
        await store.download(new_id())


async def test_a_job_stores_its_own(store: Store, experiment: str) -> None:
    job = replace(ANN, user=job_principal(experiment, 2, 0))
    await upload(store, experiment, b"x", asker=job)
    assert await commit(store, experiment, entry(b"x", attempt=2), asker=job) == 1
    with pytest.raises(DeniedError, match="cannot list files of attempt 1"):
        await commit(store, experiment, entry(b"x", attempt=1), asker=job)
    await store.upload(experiment, ANN)
    with pytest.raises(DeniedError):
        await store.upload(experiment, replace(ANN, user="bob"))


def delivery(said: Event, project: str = "default") -> Delivery:
    return Delivery(
        subject=event(project, "experiment", said.key), payload=said.model_dump_json().encode(), headers={},
        id=new_id(), type=said.type_name(), time=0.0, version=1, stream="EVENTS", sequence=1, deliveries=1,
        traceparent=None,
    )  # fmt: skip


async def test_a_queued_experiment_has_its_code(any_store: Store, experiment: str) -> None:
    """Also when it was uploaded for another one before (a rerun), but not when another project did."""
    store = any_store
    await upload(store, new_id(), b"code", b"diff")
    said = ExperimentQueued(
        experiment=experiment,
        user="ann",
        spec=ExperimentSpec(command=["true"]),
        code=CodeRef(sha256=sha(b"code"), size=4, files=1),
        provenance=Provenance(diff_sha256=sha(b"diff"), packages_sha256=sha(b"never stored")),
    )
    for _ in range(2):
        await store.database.write(lambda tx: store.handlers.event(tx, delivery(said)))
    found = await everything(store, experiment)
    assert [(e.kind, e.path, e.sha256) for e in found] == [
        ("code", "code.tar.zst", sha(b"code")),
        ("provenance", "uncommitted.diff", sha(b"diff")),
    ]
    assert await emitted(store) == []
    with ArtifactClient(await store.download(experiment, replace(ANN, user=job_principal(experiment, 1, 0)))) as client:
        assert await asyncio.to_thread(client.get_bytes, sha(b"code")) == b"code"
    theirs = said.model_copy(update={"experiment": new_id()})
    await store.database.write(lambda tx: store.handlers.event(tx, delivery(theirs, "other")))
    assert await everything_of(store, theirs.experiment, Asker("other", "ann")) == []
    await store.database.write(lambda tx: store.handlers.event(tx, delivery(said, "other")))
    with pytest.raises(DeniedError):
        await everything_of(store, experiment, Asker("other", "ann"))


async def everything_of(store: Store, experiment: str, asker: Asker) -> list[Entry]:
    return list((await store.handlers.files(asker, ListArtifacts(experiment=experiment))).entries)


def age(store: Store, data: bytes, seconds: float) -> None:
    name = sha(data)
    moment = time.time() - seconds
    os.utime(store.folder / "sha256" / name[:2] / name, (moment, moment))


class LaterClock(SystemClock):
    """An hour ahead, so that what was used a moment ago is old."""

    def now(self) -> float:
        return super().now() + 3600


async def test_the_sweep_takes_what_nobody_refers_to(any_store: Store, experiment: str) -> None:
    store = any_store
    contents = (b"listed", b"unlisted", b"young")
    await upload(store, experiment, *contents)
    await commit(store, experiment, entry(b"listed"))
    for data in contents[:2]:
        age(store, data, 7200)
    clock = LaterClock()
    os.utime(store.folder / "sha256" / sha(b"young")[:2] / sha(b"young"), (clock.now(), clock.now()))
    (store.folder / "partial" / "left").write_bytes(b"half")
    os.utime(store.folder / "partial" / "left", (1, 1))
    dry = await sweep(store.database, store.blobs, clock, grace_s=1800)
    assert (dry.blobs, dry.bytes, dry.partials) == (1, len(b"unlisted"), 0)
    assert store.blobs.size(sha(b"unlisted")) is not None
    done = await sweep(store.database, store.blobs, clock, grace_s=1800, dry_run=False)
    assert (done.blobs, done.bytes, done.partials) == (1, len(b"unlisted"), 1)
    assert [store.blobs.size(sha(data)) is not None for data in contents] == [True, False, True]
    with pytest.raises(NotFoundError, match="upload it, then"):
        await commit_hint(store, experiment, entry(b"unlisted"))
    await upload(store, experiment, b"unlisted")
    assert await commit(store, experiment, entry(b"unlisted")) == 1


async def commit_hint(store: Store, experiment: str, listed: Entry) -> None:
    try:
        await commit(store, experiment, listed)
    except NotFoundError as error:
        raise NotFoundError(error.hint) from error


async def test_what_was_found_a_moment_ago_is_not_swept(store: Store, experiment: str) -> None:
    """An uploader was told that its bytes are there; its commit comes a little later."""
    await upload(store, experiment, b"x")
    age(store, b"x", 7200)
    await upload(store, new_id(), b"x")
    age(store, b"x", 7200)
    done = await sweep(store.database, store.blobs, SystemClock(), grace_s=1800, dry_run=False)
    assert done.blobs == 0


async def test_media_are_listed_with_their_thumbnails(any_store: Store, experiment: str) -> None:
    """What the script said comes back in the listing and in the event; a thumbnail must be stored as the file is."""
    store = any_store
    await upload(store, experiment, b"picture", b"small")
    small = Thumbnail(sha256=sha(b"small"), size=5, format="webp", width=640, height=480)
    medium = Medium(type="image", key="val/x", caption="a cat", thumbnail=small)
    picture = entry(b"picture", "val/x/7/x.png", "media", step=7, medium=medium)
    assert (await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=(picture,)))).new == 1
    assert await everything(store, experiment) == [picture]
    (told,) = await emitted(store)
    assert Medium.model_validate(told["medium"]) == medium
    assert told["step"] == 7
    for thumbnail, error in (
        (small.model_copy(update={"sha256": sha(b"never stored")}), NotFoundError),
        (small.model_copy(update={"size": 6}), InvalidInput),
    ):
        wrong = picture.model_copy(update={"medium": medium.model_copy(update={"thumbnail": thumbnail})})
        with pytest.raises(error):
            await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=(wrong,)))
    with pytest.raises(InvalidInput, match="no medium"):
        output = picture.model_copy(update={"kind": "output"})
        await store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=(output,)))
