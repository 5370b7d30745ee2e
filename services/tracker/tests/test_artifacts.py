"""Lists of files: pages, keys, prefixes, and how they cost with many images."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.events import ArtifactsDropped, ArtifactStored, DroppedFile, Medium, Thumbnail
from incl_shared.ids import new_id
from incl_shared.queries.tracker import (
    ArtifactView,
    GetExperiment,
    ListArtifacts,
    ListMediaKeys,
)
from incl_tracker import store_artifacts
from incl_tracker import tables as t

MANY = 100_000


def image(experiment: str, key: str, step: int, number: int = 0, **more: Any) -> ArtifactStored:
    sha = hashlib.sha256(f"{key}{step}{number}".encode()).hexdigest()
    thumbnail = Thumbnail(sha256=sha, size=900, format="webp", width=64, height=48)
    fields: dict[str, Any] = {"kind": "media", "path": f"{key}/{step}/{key}-{number}.png", "attempt": 1, "rank": 0}
    return ArtifactStored(
        experiment=experiment, sha256=sha, size=5000, step=step,
        **(fields | {"medium": Medium(type="image", key=key, caption="a cat", thumbnail=thumbnail)} | more),
    )  # fmt: skip


async def pages(bench: Any, query: ListArtifacts) -> list[ArtifactView]:
    found: list[ArtifactView] = []
    while True:
        page = await bench.ask(query)
        found += page.artifacts
        if page.cursor is None:
            return found
        assert page.artifacts
        query = query.model_copy(update={"cursor": page.cursor})


async def known(bench: Any) -> None:
    """Views are of experiments whose beginning has come."""
    await bench.database.write(lambda tx: tx.connection.execute(sa.update(t.experiments).values(known=True)))


async def filled(bench: Any, experiment: str) -> None:
    events = [image(experiment, key, step, n) for key in ("val", "train/x") for step in (10, 9, 100) for n in (1, 0)]
    events.append(image(experiment, "val", 7, medium=Medium(type="table", key="val")))
    events += [
        ArtifactStored(experiment=experiment, attempt=n, rank=0, kind=kind, path=path, sha256="e" * 64, size=9)
        for n in (1, 2)
        for kind, path in (("output", "val/model.pt"), ("checkpoint", "5/é.pt"))
    ]
    for number, event in enumerate(events, 1):
        await bench.event(event, number)


async def test_artifacts_are_listed_in_pages(bench: Any) -> None:
    """By kind, type, key and step; whatever the size of the pages; with what the script said and the thumbnail."""
    experiment = new_id()
    await filled(bench, experiment)
    whole = await pages(bench, ListArtifacts(experiment=experiment))
    assert len(whole) == 17
    assert [a.kind for a in whole[:2]] == ["checkpoint", "checkpoint"]
    for limit in (1, 2, 5, 17):
        assert await pages(bench, ListArtifacts(experiment=experiment, limit=limit)) == whole
    val = await pages(bench, ListArtifacts(experiment=experiment, key="val", medium="image", limit=2))
    assert [(a.step, a.path[-5]) for a in val] == [(9, "0"), (9, "1"), (10, "0"), (10, "1"), (100, "0"), (100, "1")]
    assert val[0].medium is not None
    assert val[0].medium.caption == "a cat"
    assert val[0].medium.thumbnail is not None
    assert (val[0].medium.thumbnail.width, val[0].medium.thumbnail.height) == (64, 48)
    both = await pages(bench, ListArtifacts(experiment=experiment, key="val", limit=3))
    assert len(both) == 7
    window = await pages(bench, ListArtifacts(experiment=experiment, medium="image", from_step=10, to_step=99))
    assert {(a.path[:3], a.step) for a in window} == {("val", 10), ("tra", 10)}
    assert await pages(bench, ListArtifacts(experiment=experiment, key="nothing")) == []


async def test_artifacts_below_a_path(bench: Any) -> None:
    experiment = new_id()
    await filled(bench, experiment)
    below = await pages(bench, ListArtifacts(experiment=experiment, prefix="val/", limit=2))
    assert [a.path for a in below] == sorted(a.path for a in below)
    assert len(below) == 9
    assert {a.kind for a in below} == {"media", "output"}
    only = await pages(bench, ListArtifacts(experiment=experiment, prefix="5/é", kind="checkpoint", attempt=2))
    assert [a.attempt for a in only] == [2]
    assert await pages(bench, ListArtifacts(experiment=experiment, prefix="val/1%")) == []


async def test_keys_of_media_are_counted(bench: Any) -> None:
    experiment = new_id()
    await filled(bench, experiment)
    keys, cursor = [], None
    while True:
        page = await bench.ask(ListMediaKeys(experiment=experiment, limit=1, cursor=cursor))
        keys += [(k.key, k.type, k.count, k.first_step, k.last_step, k.bytes) for k in page.keys]
        cursor = page.cursor
        if cursor is None:
            break
    assert keys == [
        ("train/x", "image", 6, 9, 100, 30_000),
        ("val", "image", 6, 9, 100, 30_000),
        ("val", "table", 1, 7, 7, 5000),
    ]


async def test_only_the_project_sees_them_and_cursors_are_checked(lite: Any) -> None:
    experiment = new_id()
    await filled(lite, experiment)
    for query in (ListArtifacts(experiment=experiment), ListMediaKeys(experiment=experiment)):
        with pytest.raises(NotFoundError):
            await lite.ask(query, project="other")
        for cursor in ("x", "W10=", "WzEsMiwzLDQsNSw2LDcsOF0=", "bnVsbA=="):
            with pytest.raises(InvalidInput):
                await lite.ask(query.model_copy(update={"cursor": cursor}))


async def test_pages_of_long_names_stay_small(lite: Any) -> None:
    """A page must fit into one answer of the bus."""
    experiment = new_id()
    caption = "\x01" * 1000
    for number in range(60):
        medium = Medium(type="text", key="k" * 250, caption=caption)
        event = image(experiment, "k", number, medium=medium, path=f"{'p' * 2000}/{number}")
        await lite.event(event, number + 1)
    query = ListArtifacts(experiment=experiment, limit=1000)
    first = await lite.ask(query)
    assert first.cursor is not None
    assert len(first.model_dump_json()) < 256_000
    assert len(await pages(lite, query)) == 60


def saved(experiment: str, step: int, sha: str = "e") -> ArtifactStored:
    return ArtifactStored(
        experiment=experiment, attempt=1, rank=0, kind="checkpoint", path=f"{step}/é.pt", sha256=sha * 64, size=9,
        step=step,
    )  # fmt: skip


def gone(experiment: str, *steps: int) -> ArtifactsDropped:
    files = (DroppedFile(attempt=1, rank=0, kind="checkpoint", path=f"{step}/é.pt") for step in steps)
    return ArtifactsDropped(experiment=experiment, entries=tuple(files))


async def test_dropped_files_are_listed_no_more_in_whatever_order_it_is_heard(bench: Any) -> None:
    """Stored, dropped, and another stored again: every order, and everything twice, gives the same list."""
    for order in itertools.permutations(range(5)):
        experiment = new_id()
        events = [
            saved(experiment, 1), saved(experiment, 2), saved(experiment, 3), gone(experiment, 1, 2),
            saved(experiment, 2, "f"),
        ]  # fmt: skip
        for place in (*order, *reversed(order)):
            await bench.event(events[place], place + 1)
        found = await pages(bench, ListArtifacts(experiment=experiment))
        assert [(one.step, one.sha256[0]) for one in found] == [(2, "f"), (3, "e")], order


async def test_only_the_dropped_place_is_dropped(bench: Any) -> None:
    experiment, other = new_id(), new_id()
    here = saved(experiment, 1)
    kept = [
        here.model_copy(update={"attempt": 2}), here.model_copy(update={"rank": 1}),
        here.model_copy(update={"kind": "output"}), saved(experiment, 11),
    ]  # fmt: skip
    for version, event in enumerate((here, *kept), 1):
        await bench.event(event, version)
    await bench.event(saved(other, 1), 1)
    await bench.event(gone(experiment, 1), 6)
    assert len(await pages(bench, ListArtifacts(experiment=experiment))) == len(kept)
    assert len(await pages(bench, ListArtifacts(experiment=other))) == 1


async def test_the_short_list_goes_by_step_as_a_number(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest first, so that a list that is cut has it; what is dropped is not counted either."""
    monkeypatch.setattr(store_artifacts, "SHORT_LIST", 3)
    experiment = new_id()
    for version, step in enumerate((0, 1000, 200, 1200, 800), 1):
        await bench.event(saved(experiment, step), version)
    await bench.event(gone(experiment, 1000), 6)
    await known(bench)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert [one.step for one in view.artifacts] == [1200, 800, 200]
    assert view.artifacts_total == 4


async def test_the_short_list_has_what_is_no_medium_first(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_artifacts, "SHORT_LIST", 6)
    experiment = new_id()
    await filled(bench, experiment)
    await known(bench)
    view = await bench.ask(GetExperiment(ref=experiment))
    assert view.artifacts_total == 17
    assert [(a.kind, a.attempt) for a in view.artifacts[:4]] == [
        ("checkpoint", 2), ("output", 2), ("checkpoint", 1), ("output", 1),
    ]  # fmt: skip
    assert [a.kind for a in view.artifacts[4:]] == ["media", "media"]


def _plain_row(experiment: str, number: int) -> dict[str, Any]:
    path = f"samples/{number // 10}/samples-{number % 10}.png"
    return {
        "experiment": experiment, "attempt": 1, "rank": 0, "kind": "media", "path": path, "head": path,
        "path_key": hashlib.sha256(path.encode()).hexdigest(), "sha256": "a" * 64, "size": 5000, "version": number,
        "step": number // 10, "at": number // 10, "type": "image", "key": f"samples{number % 7}",
        "medium": '{"type":"image","key":"samples"}',
    }  # fmt: skip


async def test_pages_of_a_hundred_thousand_images_walk_an_index(lite: Any) -> None:
    """Every way of asking enters an index at its place: no page reads or sorts what lies before it."""
    experiment = new_id()
    await lite.event(image(experiment, "first", 1), 1)
    rows = [_plain_row(experiment, number) for number in range(MANY)]
    await lite.database.write(lambda tx: tx.connection.execute(sa.insert(t.artifacts), rows))
    questions: list[Callable[[str | None], ListArtifacts]] = [
        lambda cursor: ListArtifacts(experiment=experiment, limit=100, cursor=cursor),
        lambda cursor: ListArtifacts(experiment=experiment, key="samples3", limit=100, cursor=cursor),
        lambda cursor: ListArtifacts(experiment=experiment, key="samples6", from_step=9_000, limit=100, cursor=cursor),
        lambda cursor: ListArtifacts(experiment=experiment, prefix="samples/99", limit=100, cursor=cursor),
    ]
    took: list[float] = []
    for question in questions:
        cursor = None
        for _ in range(5):
            begun = time.perf_counter()
            page = await lite.ask(question(cursor))
            took.append(time.perf_counter() - begun)
            assert len(page.artifacts) == 100
            cursor = page.cursor
            assert cursor is not None
    assert sorted(took)[len(took) // 2] < 0.1
    await known(lite)
    begun = time.perf_counter()
    view = await lite.ask(GetExperiment(ref=experiment))
    assert view.artifacts_total == MANY + 1
    assert time.perf_counter() - begun < 1
    print(f"view {(time.perf_counter() - begun) * 1000:.1f} ms")
    begun = time.perf_counter()
    assert sum(k.count for k in (await lite.ask(ListMediaKeys(experiment=experiment))).keys) == MANY + 1
    print(f"keys {(time.perf_counter() - begun) * 1000:.1f} ms")
    print(f"median {sorted(took)[len(took) // 2] * 1000:.1f} ms, worst {max(took) * 1000:.1f} ms")
