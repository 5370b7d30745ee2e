"""What a version needs stays, whatever becomes of its experiment; what nobody needs goes."""

from __future__ import annotations

import asyncio
import time

import pytest

from incl_registry.purge import Purged, purge
from incl_registry.store import referred
from incl_registry.sweep import sweep
from incl_registry.testing.models import Desk
from incl_registry.testing.running import ANN, entry, sha
from incl_shared.artifacts import ArtifactClient
from incl_shared.bus.delivery import Delivery
from incl_shared.errors import NotFoundError
from incl_shared.events import CodeRef, ExperimentPurged
from incl_shared.ids import new_id
from incl_shared.queries.models import ModelGrant, PurgeModel, TrashModel
from incl_shared.subjects import Asker, event
from incl_shared.testing.clock import FakeClock

LATER = 10 * 86_400.0


async def delete(desk: Desk, experiment: str) -> None:
    """The tracker says that the experiment is purged."""
    said = ExperimentPurged(experiment=experiment)
    told = Delivery(
        subject=event("default", "trash", experiment), payload=said.model_dump_json().encode(), headers={},
        id=new_id(), type=said.type_name(), time=0.0, version=1, stream="EVENTS", sequence=1, deliveries=1,
        traceparent=None,
    )  # fmt: skip
    await desk.store.database.write(lambda tx: desk.store.handlers.event(tx, told))
    desk.tracker.views.pop(experiment, None)


async def collected(desk: Desk) -> Purged:
    """A round of the purge and one of the sweep, days later."""
    clock = FakeClock(time.time() + LATER)
    done = await purge(desk.store.database, desk.store.blobs, clock, grace_s=900, used_grace_s=86_400)
    await sweep(desk.store.database, desk.store.blobs, clock, grace_s=86_400, dry_run=False)
    return done


async def test_a_model_outlives_its_experiment(any_desk: Desk, experiment: str) -> None:
    """Its files, and the code that made them; nothing else of the experiment."""
    desk = any_desk
    listed = [
        (b"weights", entry(b"weights", "best.pt", attempt=1)), (b"other", entry(b"other", "log.txt", attempt=1)),
        (b"code", entry(b"code", "code.tar.zst", "code")),
    ]  # fmt: skip
    await desk.keep(experiment, *listed, code=CodeRef(sha256=sha(b"code"), size=4, files=1))
    made = await desk.register(experiment)
    await delete(desk, experiment)
    await collected(desk)
    assert desk.store.blobs.size(sha(b"other")) is None
    with ArtifactClient(await desk.models.grant(ANN, ModelGrant(model="chest-xray", number=1))) as client:
        for content in (b"weights", b"code"):
            assert await asyncio.to_thread(client.get_bytes, sha(content)) == content
    found = await desk.verified()
    assert (found.problems, made.number) == ((), 1)
    with pytest.raises(NotFoundError, match="purged"):
        await desk.register(experiment)


async def test_a_purged_version_gives_up_what_nobody_else_needs(any_desk: Desk) -> None:
    desk, operator = any_desk, Asker("_system", "admin")
    experiments = [new_id(), new_id()]
    for content, experiment in zip((b"one", b"two"), experiments, strict=True):
        files = [(part, entry(part, path, attempt=1)) for part, path in ((content, "m/own"), (b"shared", "m/shared"))]
        await desk.keep(experiment, *files)
        await desk.register(experiment, path="m")
        await delete(desk, experiment)
    await collected(desk)
    await desk.changes.trash(ANN, TrashModel(model="chest-xray", number=1))
    await collected(desk)
    assert desk.store.blobs.size(sha(b"one")) == 3, "the trash keeps it"
    await desk.changes.purge(operator, PurgeModel(project="default", model="chest-xray", number=1))
    assert await collected(desk) == Purged(1, 3)
    sizes = {content: desk.store.blobs.size(sha(content)) for content in (b"one", b"two", b"shared")}
    assert sizes == {b"one": None, b"two": 3, b"shared": 6}
    assert (await desk.verified()).problems == ()


async def test_a_purged_version_leaves_what_its_experiment_lists(desk: Desk, experiment: str) -> None:
    await desk.keep(experiment, (b"w", entry(b"w", "best.pt")))
    await desk.register(experiment)
    await desk.changes.trash(ANN, TrashModel(model="chest-xray"))
    await desk.changes.purge(Asker("_system", "admin"), PurgeModel(project="default", model="chest-xray"))
    assert await collected(desk) == Purged(0, 0)
    assert await desk.store.database.read(lambda at: referred(at, [sha(b"w")], float("inf"))) == {sha(b"w")}
