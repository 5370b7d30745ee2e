"""For tests: models without the bus, and a tracker in memory that knows what was told of experiments."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from incl_registry.models.aliases import Aliases
from incl_registry.models.changes import Changes
from incl_registry.models.handlers import Models
from incl_registry.models.inspecting import Inspection
from incl_registry.testing.running import ANN, KEY, Store, entry
from incl_shared.artifacts import ArtifactClient
from incl_shared.clock import SystemClock
from incl_shared.errors import NotFoundError
from incl_shared.ids import new_id
from incl_shared.queries.base import AnswerT, Query
from incl_shared.queries.models import AliasView, MoveAlias, RegisterModel, Verification, VerifyModel, VersionView
from incl_shared.queries.registry import CommitArtifacts, Entry
from incl_shared.queries.tracker import ExperimentRow, ExperimentView, GetExperiment
from incl_shared.states import ExperimentState
from incl_shared.subjects import Asker


class FakeTracker:
    """Answers `GetExperiment` with what was put into `views`."""

    def __init__(self) -> None:
        self.views: dict[str, ExperimentView] = {}

    def know(self, experiment: str, *, state: str = "finished", user: str = "ann", **more: Any) -> None:
        """An experiment; more: fields of its view."""
        row = ExperimentRow(
            id=experiment, name="xray", project="default", user=user, state=ExperimentState(state), nodes=1, gpus=0,
            attempts=1, created=1_000.0,
        )  # fmt: skip
        self.views[experiment] = ExperimentView(row=row, version=1, **more)

    async def ask(self, query: Query[AnswerT], *, project: str, user: str) -> AnswerT:
        """As `Bus.ask`."""
        await asyncio.sleep(0)
        if not isinstance(query, GetExperiment) or query.ref not in self.views:
            raise NotFoundError(f"no experiment {getattr(query, 'ref', query)}")
        return cast(AnswerT, self.views[query.ref])


class Desk:
    """All that the registry answers about models, on a running store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tracker = FakeTracker()
        clock = SystemClock()
        self.models = Models(store.database, clock, self.tracker.ask, key=KEY, ttl_s=600, url=lambda: store.url)
        self.changes = Changes(store.database, clock)
        self.aliases = Aliases(store.database, clock)
        self.inspection = Inspection(store.database, store.blobs, store.threads)

    async def keep(self, experiment: str, *entries: tuple[bytes, Entry], state: str = "finished", **more: Any) -> None:
        """Store files of an experiment that the tracker knows."""
        with ArtifactClient(await self.store.upload(experiment)) as client:
            for content, _ in entries:
                await asyncio.to_thread(client.put_bytes, content)
        listed = tuple(one for _, one in entries)
        await self.store.handlers.commit(ANN, CommitArtifacts(experiment=experiment, entries=listed))
        if experiment not in self.tracker.views or more:
            self.tracker.know(experiment, state=state, **more)

    async def made(self, model: str = "chest-xray", content: bytes = b"weights") -> VersionView:
        """A version of a new experiment's file best.pt with this content."""
        experiment = new_id()
        await self.keep(experiment, (content, entry(content, "best.pt", attempt=1)))
        return await self.register(experiment, model)

    async def register(
        self, experiment: str, model: str = "chest-xray", path: str = "best.pt", asker: Asker = ANN, **more: Any
    ) -> VersionView:
        """Register."""
        query = {"registration": new_id(), "model": model, "experiment": experiment, "path": path} | more
        return await self.models.add(asker, RegisterModel.model_validate(query))

    async def point(
        self, number: int | None, *, revision: int = 0, alias: str = "production", by: str = "ann"
    ) -> AliasView:
        """Move an alias of chest-xray."""
        query = MoveAlias(model="chest-xray", alias=alias, number=number, revision=revision, reason="better")
        return await self.aliases.move(Asker("default", by), query)

    async def verified(self, model: str = "chest-xray", head: str | None = None) -> Verification:
        """What a look at the trail finds."""
        return await self.inspection.verify(ANN, VerifyModel(model=model, head=head))
