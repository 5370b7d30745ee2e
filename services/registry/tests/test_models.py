"""Versions of models: how they come to be, what they are made of, and who may; on both databases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import sqlalchemy as sa

from incl_registry.testing.models import Desk
from incl_registry.testing.running import ANN, entry, sha
from incl_shared.artifacts import ArtifactClient
from incl_shared.auth.names import job_principal
from incl_shared.bus.tables import outbox
from incl_shared.errors import AmbiguousError, ConflictError, DeniedError, InclError, InvalidInput, NotFoundError
from incl_shared.events import CodeRef, Placement, Provenance
from incl_shared.events.experiments import MachinesMade
from incl_shared.ids import new_id
from incl_shared.queries.models import (
    ChangeModel,
    GetVersion,
    ListModelFiles,
    ListModels,
    ListVersions,
    ModelGrant,
    PurgeModel,
    RestoreModel,
    TrashModel,
)
from incl_shared.queries.tracker import AttemptView, MetricSummary
from incl_shared.spec import ExperimentSpec
from incl_shared.states import AttemptState
from incl_shared.subjects import Asker

BOB = Asker("default", "bob")
OPERATOR = Asker("_system", "admin")


async def told(desk: Desk) -> list[tuple[str, dict[str, Any]]]:
    """(type, payload) of the events of models that wait in the outbox."""

    def read(connection: sa.Connection) -> list[tuple[str, dict[str, Any]]]:
        rows = connection.execute(sa.select(outbox).order_by(outbox.c.sequence))
        return [
            (json.loads(row.headers)["ce-type"], json.loads(row.payload) | {"subject": row.subject})
            for row in rows
            if ".model." in row.subject
        ]

    return await desk.store.database.read(read)


async def fetched(desk: Desk, number: int, sha256: str, model: str = "chest-xray") -> bytes:
    grant = await desk.models.grant(BOB, ModelGrant(model=model, number=number))
    with ArtifactClient(grant, patience_s=1) as client:
        return await asyncio.to_thread(client.get_bytes, sha256)


async def test_a_file_becomes_a_version(any_desk: Desk, experiment: str) -> None:
    desk = any_desk
    await desk.keep(experiment, (b"weights", entry(b"weights", "best.pt", attempt=1)), (b"x", entry(b"x", "log.txt")))
    first = await desk.register(experiment, note="good", tags=("b", "a", "b"), metadata={"dice": 0.9, "none": None})
    assert (first.model, first.number, first.files, first.size, first.by) == ("chest-xray", 1, 1, 7, "ann")
    assert (first.note, first.tags, first.metadata) == ("good", ("a", "b"), {"dice": 0.9})
    second = await desk.register(experiment, path="./log.txt", asker=BOB)
    assert (second.number, second.by) == (2, "bob")
    assert first.manifest != second.manifest
    page = await desk.models.versions(ANN, ListVersions(model="chest-xray"))
    assert [one.number for one in page.versions] == [2, 1]
    assert page.model.newest == 2
    files = (await desk.models.files(ANN, ListModelFiles(model="chest-xray", number=1))).files
    assert [(file.kind, file.path, file.sha256) for file in files] == [("file", "best.pt", sha(b"weights"))]
    assert await fetched(desk, 1, sha(b"weights")) == b"weights"
    with pytest.raises(DeniedError, match="does not allow it"):
        await fetched(desk, 1, sha(b"x"))
    events = await told(desk)
    assert [(kind, event["number"], event["by"]) for kind, event in events] == [
        ("ModelVersionRegistered.v1", 1, "ann"),
        ("ModelVersionRegistered.v1", 2, "bob"),
    ]
    assert {event["subject"] for _, event in events} == {"incl.event.default.model.chest-xray"}
    assert (await desk.verified()).problems == ()


async def test_the_same_registration_is_the_same_version(any_desk: Desk, experiment: str) -> None:
    """Also when it is repeated at the same time, and when its experiment is gone meanwhile."""
    desk, registration = any_desk, new_id()
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt")))
    made = await asyncio.gather(*(desk.register(experiment, registration=registration) for _ in range(5)))
    assert {one.number for one in made} == {1}
    desk.tracker.views.clear()
    assert (await desk.register(experiment, registration=registration)).number == 1
    assert len(await told(desk)) == 1
    with pytest.raises(ConflictError, match="that of chest-xray:1"):
        await desk.register(experiment, "other", registration=registration)


async def test_many_at_once_get_a_number_each(any_desk: Desk, experiment: str) -> None:
    desk = any_desk
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt")))
    made = await asyncio.gather(*(desk.register(experiment) for _ in range(12)))
    assert sorted(one.number for one in made) == list(range(1, 13))
    assert (await desk.verified()).problems == ()


async def test_numbers_are_never_given_again(any_desk: Desk) -> None:
    """Not after the trash, not after a purge, not after a purge of the whole model."""
    desk = any_desk
    for number in (1, 2):
        assert (await desk.made(content=b"%d" % number)).number == number
    await desk.changes.trash(ANN, TrashModel(model="chest-xray", number=2))
    assert (await desk.models.version(ANN, GetVersion(model="chest-xray"))).number == 1
    await desk.changes.purge(OPERATOR, PurgeModel(project="default", model="chest-xray", number=2))
    assert (await desk.made(content=b"3")).number == 3
    await desk.changes.trash(ANN, TrashModel(model="chest-xray"))
    with pytest.raises(ConflictError, match="in the trash"):
        await desk.made(content=b"4")
    await desk.changes.purge(OPERATOR, PurgeModel(project="default", model="chest-xray"))
    await desk.changes.restore(ANN, RestoreModel(model="chest-xray"))
    assert (await desk.made(content=b"4")).number == 4
    found = await desk.verified()
    assert (found.problems, found.versions) == ((), 4)
    with pytest.raises(NotFoundError, match="was purged"):
        await desk.models.version(ANN, GetVersion(model="chest-xray", number=2))


async def test_a_folder_is_a_version_of_several_files(any_desk: Desk, experiment: str) -> None:
    """Of the newest attempt that has it: nothing of an older one is mixed in."""
    desk = any_desk
    old = [(b"o", entry(b"o", f"export/{name}", attempt=1)) for name in ("a.json", "gone.json")]
    new = [(b"n", entry(b"n", f"export/{name}", attempt=2)) for name in ("a.json", "deep/b.json")]
    await desk.keep(experiment, *old, *new, (b"n", entry(b"n", "exports/c.json", attempt=3)))
    made = await desk.register(experiment, path="export/")
    assert (made.files, made.attempt) == (2, 2)
    files = (await desk.models.files(ANN, ListModelFiles(model="chest-xray", number=1))).files
    assert [(file.path, file.sha256) for file in files] == [("a.json", sha(b"n")), ("deep/b.json", sha(b"n"))]
    assert (await desk.register(experiment, path="export", attempt=1)).attempt == 1


async def test_a_checkpoint_is_found_by_its_name(desk: Desk, experiment: str) -> None:
    listed = [
        (b"%d" % step, entry(b"%d" % step, f"{step}/model.pt", "checkpoint", attempt=1, step=step)) for step in (9, 10)
    ]
    await desk.keep(experiment, *listed)
    await desk.register(experiment, path="model.pt")
    assert await fetched(desk, 1, sha(b"10")) == b"10"
    await desk.register(experiment, path="9/model.pt")
    assert await fetched(desk, 2, sha(b"9")) == b"9"
    await desk.keep(experiment, (b"out", entry(b"out", "model.pt", attempt=1)))
    await desk.register(experiment, path="model.pt")
    assert await fetched(desk, 3, sha(b"out")) == b"out", "a file of that very path goes first"
    await desk.register(experiment, path="model.pt", kind="checkpoint")
    assert await fetched(desk, 4, sha(b"10")) == b"10"


async def test_what_is_no_single_thing_is_refused(desk: Desk, experiment: str) -> None:
    same = [(b"%d" % rank, entry(b"%d" % rank, "best.pt", attempt=1, rank=rank)) for rank in (0, 1)]
    kinds = [(b"k", entry(b"k", "both.pt", kind, attempt=1)) for kind in ("output", "model")]
    await desk.keep(experiment, *same, *kinds)
    with pytest.raises(AmbiguousError, match="by the ranks 0, 1") as ranks:
        await desk.register(experiment)
    assert ranks.value.hint == "--rank 0"
    with pytest.raises(AmbiguousError, match="as model and output"):
        await desk.register(experiment, path="both.pt")
    assert (await desk.register(experiment, rank=1)).number == 1, "refusals take no number"


@pytest.mark.parametrize("path", ["/etc/passwd", "../best.pt", "a/../best.pt", "a//b", ".", "./", "a\0b", "/"])
async def test_a_path_outside_the_outputs_is_refused(desk: Desk, experiment: str, path: str) -> None:
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt")))
    with pytest.raises(InvalidInput, match="not a path inside"):
        await desk.register(experiment, path=path)


async def test_bad_input_is_refused_and_leaves_nothing(any_desk: Desk, experiment: str) -> None:
    desk = any_desk
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt")))
    for name in ("", "chest xray", "chest.xray", "a:1", "a@b", "-x", "x" * 64, "ü", "a/b"):
        with pytest.raises(ValueError, match="model"):
            await desk.register(experiment, name)
    for wrong in ({"note": "x" * 20_001}, {"tags": ("a,b",)}, {"tags": ("",)}, {"tags": tuple(map(str, range(101)))}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await desk.register(experiment, **wrong)
    for metadata in ({"x": "y" * 70_000}, {"x": float("nan")}):
        with pytest.raises(InvalidInput, match="metadata"):
            await desk.register(experiment, metadata=metadata)
    with pytest.raises(InvalidInput, match="cannot be a model"):
        await desk.register(experiment, experiment)
    with pytest.raises(NotFoundError, match="no files are known"):
        await desk.register(new_id())
    with pytest.raises(NotFoundError, match="no file or folder 'nope'"):
        await desk.register(experiment, path="nope")
    with pytest.raises(DeniedError, match="not one of project other"):
        await desk.register(experiment, asker=Asker("other", "ann"))
    assert (await desk.models.models(ANN, ListModels())).models == ()
    assert await told(desk) == []


async def test_an_experiment_that_still_runs(desk: Desk, experiment: str) -> None:
    """What it has stored already can be registered; what comes at its end is asked for too early."""
    kept = (b"c", entry(b"c", "5/last.pt", "checkpoint", attempt=1, step=5))
    await desk.keep(experiment, kept, state="running")
    assert (await desk.register(experiment, path="last.pt")).number == 1
    with pytest.raises(NotFoundError) as early:
        await desk.register(experiment, path="best.pt")
    assert "it still runs" in early.value.cause
    assert "incl.register_model" in early.value.hint


async def test_a_job_registers_for_its_owner(desk: Desk, experiment: str) -> None:
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt", attempt=1)))
    job = Asker("default", job_principal(experiment, 1, 0))
    assert (await desk.register(experiment, asker=job)).by == "ann"
    with pytest.raises(DeniedError, match="its own experiment"):
        await desk.register(experiment, asker=Asker("default", job_principal(new_id(), 1, 0)))
    refused = (
        desk.changes.change(job, ChangeModel(model="chest-xray", note="x")),
        desk.changes.trash(job, TrashModel(model="chest-xray", number=1)),
        desk.changes.restore(job, RestoreModel(model="chest-xray", number=1)),
    )
    for one in refused:
        with pytest.raises(DeniedError, match="only people"):
            await one


async def test_the_lineage_is_complete_or_says_what_is_missing(desk: Desk, experiment: str) -> None:
    code, diff, packages = b"code", b"diff", b"numpy==2"
    spec = ExperimentSpec.model_validate(
        {
            "command": ["python", "train.py"], "image": "x/y:1", "env": {"SEED": 7, "LR": 0.1},
            "data": [{"snapshot": "chest-v3"}], "instance": "a100",
        }
    )  # fmt: skip
    attempt = AttemptView(
        attempt=1, state=AttemptState.ENDED, placements=(Placement(rank=0, node="n1", address="", gpus=(0, 1)),),
        machines=MachinesMade(cloud="gce", machine="a2-highgpu-2g", zone="z1", spot=True, wanted=1, asked=1, made=1),
        images=("sha256:abc",), assigned=1.0,
    )  # fmt: skip
    complete: dict[str, Any] = {
        "spec": spec,
        "code": CodeRef(sha256=sha(code), size=4, files=1),
        "provenance": Provenance(
            git_commit="abc", git_dirty=True, diff_sha256=sha(diff), packages_sha256=sha(packages), python="3.11"
        ),
        "attempts": (attempt,),
        "metrics": (
            MetricSummary(name="acc", last=0.9, last_step=5, minimum=0, maximum=1, best=0.95, goal="max", points=5),
            MetricSummary(name="nan", last=float("nan"), last_step=5, minimum=None, maximum=None, points=5),
            MetricSummary(name="system/cpu", last=1, last_step=5, minimum=0, maximum=1, points=5),
        ),
    }
    parts = [
        (code, entry(code, "code.tar.zst", "code")), (diff, entry(diff, "uncommitted.diff", "provenance")),
        (packages, entry(packages, "packages.txt", "provenance")),
    ]  # fmt: skip
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt", attempt=1)), *parts, **complete)
    known = (await desk.register(experiment)).lineage
    assert known is not None
    assert known.missing == ()
    assert known.spec == spec
    assert (known.code, known.diff, known.packages, known.seed) == (sha(code), sha(diff), sha(packages), "7")
    assert (known.image_digests, known.data) == (("sha256:abc",), ("snapshot=chest-v3",))
    assert [(one.machine, one.gpus, one.spot) for one in known.hardware] == [("a2-highgpu-2g", 2, True)]
    assert {name: (one.last, one.best) for name, one in known.metrics.items()} == {"acc": (0.9, 0.95)}
    kinds = {file.kind for file in (await desk.models.files(ANN, ListModelFiles(model="chest-xray", number=1))).files}
    assert kinds == {"file", "code", "provenance"}
    assert await fetched(desk, 1, sha(code)) == code

    bare = new_id()
    source = Provenance(git_commit="abc", git_dirty=True)
    spec = ExperimentSpec.model_validate({"command": ["x"], "image": "x/y:1", "data": [{"source": "/d"}]})
    await desk.keep(bare, (b"v", entry(b"v", "best.pt", attempt=1)), spec=spec, provenance=source)
    poor = (await desk.register(bare)).lineage
    assert poor is not None
    assert [text.partition(":")[0] for text in poor.missing] == [
        "code", "git diff", "image digest", "data version", "seed", "hardware",
    ]  # fmt: skip


async def test_words_change_and_are_in_the_trail(any_desk: Desk) -> None:
    desk = any_desk
    await desk.made()
    change = ChangeModel(model="chest-xray", number=1, note="n", add_tags=("x", "y"), metadata={"a": 1, "b": [2]})
    await desk.changes.change(ANN, change)
    await desk.changes.change(BOB, ChangeModel(model="chest-xray", number=1, remove_tags=("x",), metadata={"a": None}))
    await desk.changes.change(BOB, ChangeModel(model="chest-xray", note="of the model"))
    await desk.changes.change(BOB, ChangeModel(model="chest-xray", note="of the model"))
    found = await desk.models.version(ANN, GetVersion(model="chest-xray", number=1))
    assert (found.note, found.tags, found.metadata) == ("n", ("y",), {"b": [2]})
    changed = [(e["number"], e["fields"], e["by"]) for kind, e in await told(desk) if kind == "ModelChanged.v1"]
    assert changed == [
        (1, ["metadata", "note", "tags"], "ann"),
        (1, ["metadata", "tags"], "bob"),
        (None, ["note"], "bob"),
    ]
    assert (await desk.verified()).problems == ()


async def test_lists_come_in_pages(any_desk: Desk, experiment: str) -> None:
    desk = any_desk
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt")))
    for name in ("b-lung", "a-chest", "C-Chest_2"):
        await desk.register(experiment, name, note="x" * 20_000)
    for _ in range(12):
        await desk.register(experiment, "a-chest", note="x" * 20_000)
    assert [m.name for m in (await desk.models.models(ANN, ListModels(contains="CHEST"))).models] == [
        "C-Chest_2",
        "a-chest",
    ]
    assert (await desk.models.models(ANN, ListModels(contains="_2", limit=1))).cursor is None
    assert (await desk.models.models(ANN, ListModels(contains="%"))).models == ()
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = await desk.models.models(ANN, ListModels(limit=2, cursor=cursor))
        names += [model.name for model in page.models]
        cursor = page.cursor
        if cursor is None:
            break
    assert names == ["C-Chest_2", "a-chest", "b-lung"]
    numbers: list[int] = []
    after: int | None = None
    while True:
        versions = await desk.models.versions(ANN, ListVersions(model="a-chest", cursor=after))
        assert len(versions.model_dump_json()) < 256_000
        numbers += [version.number for version in versions.versions]
        after = versions.cursor
        if after is None:
            break
    assert numbers == list(range(13, 0, -1))


async def test_what_lies_in_the_trash_is_not_found(any_desk: Desk) -> None:
    desk = any_desk
    await desk.made()
    with pytest.raises(ConflictError, match="is not in the trash"):
        await desk.changes.purge(OPERATOR, PurgeModel(project="default", model="chest-xray", number=1))
    await desk.changes.trash(BOB, TrashModel(model="chest-xray", number=1))
    await desk.changes.trash(BOB, TrashModel(model="chest-xray", number=1))
    gone: list[tuple[Any, type[InclError]]] = [
        (desk.models.version(ANN, GetVersion(model="chest-xray", number=1)), NotFoundError),
        (desk.models.version(ANN, GetVersion(model="chest-xray")), NotFoundError),
        (desk.models.grant(ANN, ModelGrant(model="chest-xray", number=1)), NotFoundError),
        (desk.point(1), NotFoundError),
    ]
    for work, error in gone:
        with pytest.raises(error):
            await work
    await desk.changes.restore(ANN, RestoreModel(model="chest-xray", number=1))
    assert await fetched(desk, 1, sha(b"weights")) == b"weights"
    await desk.changes.trash(ANN, TrashModel(model="chest-xray"))
    assert (await desk.models.models(ANN, ListModels())).models == ()
    assert [m.name for m in (await desk.models.models(ANN, ListModels(trash=True))).models] == ["chest-xray"]
    assert [kind for kind, _ in await told(desk)][1:] == ["ModelTrashed.v1", "ModelRestored.v1", "ModelTrashed.v1"]
    assert (await desk.verified()).problems == ()


async def test_another_project_sees_nothing(desk: Desk) -> None:
    await desk.made()
    stranger = Asker("other", "ann")
    assert (await desk.models.models(stranger, ListModels())).models == ()
    for work in (
        desk.models.version(stranger, GetVersion(model="chest-xray")),
        desk.models.grant(stranger, ModelGrant(model="chest-xray", number=1)),
        desk.changes.trash(stranger, TrashModel(model="chest-xray")),
    ):
        with pytest.raises(NotFoundError, match="no model"):
            await work
