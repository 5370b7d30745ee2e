"""What people do with models: each is one transaction, which appends to the audit trail and tells an event."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from incl_registry.models import rules, store
from incl_registry.models.found import existing, known, not_pointed_at, present
from incl_registry.models.trail import Act, Row
from incl_shared.errors import ConflictError
from incl_shared.events import ModelChanged, ModelPurged, ModelRestored, ModelTrashed
from incl_shared.queries.base import Done
from incl_shared.queries.models import (
    ChangeModel,
    PurgeModel,
    RestoreModel,
    TrashModel,
)

if TYPE_CHECKING:
    from incl_shared.bus.runtime import Bus
    from incl_shared.clock import Clock
    from incl_shared.db import Database, Transaction
    from incl_shared.subjects import Asker

_MOST_PURGED = 1000


class Changes:
    """Words and trash."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def register(self, bus: Bus) -> None:
        """Serve every query."""
        bus.serve(ChangeModel, self.change)
        bus.serve(TrashModel, self.trash)
        bus.serve(RestoreModel, self.restore)
        bus.serve(PurgeModel, self.purge)

    async def change(self, asker: Asker, query: ChangeModel) -> Done:
        """Other words for a model or a version."""
        rules.only_people(asker, "change what is said of models")
        rules.check_metadata(query.metadata)

        def work(tx: Transaction) -> Done:
            model = existing(store.lock(tx.connection, asker.project, query.model), query.model, trashed=False)
            row = model
            if query.number is not None:
                found = store.version_of(tx.connection, asker.project, query.model, query.number)
                row = present(found, query.model, query.number)
            changed = _changed(row, query)
            if not changed:
                return Done()
            if query.number is None:
                store.change_model(tx.connection, asker.project, query.model, **changed)
            else:
                store.change_version(tx.connection, asker.project, query.model, query.number, **changed)
            told = rules.sealed({"note": row.note, "tags": row.tags, "metadata": row.metadata} | changed)
            details = {"number": query.number} | {name: told[name] for name in changed}
            said = self._note(tx, asker.project, model, asker.user, "changed", details)
            event = ModelChanged(
                model=query.model, by=asker.user, trail=said.hash, number=query.number, fields=tuple(sorted(changed))
            )
            tx.emit(event, project=asker.project, version=said.sequence)
            return Done()

        return await self._database.write(work)

    async def trash(self, asker: Asker, query: TrashModel) -> Done:
        """Into the trash; what lies there already stays."""
        rules.only_people(asker, "put models into the trash")

        def put_away(tx: Transaction, row: Any) -> bool:
            if row.trashed is not None:
                return False
            not_pointed_at(tx.connection, asker.project, query.model, query.number)
            self._mark(tx, asker.project, query, self._clock.now())
            return True

        return await self._database.write(lambda tx: self._between(tx, asker, query, put_away))

    async def restore(self, asker: Asker, query: RestoreModel) -> Done:
        """Out of the trash."""
        rules.only_people(asker, "take models out of the trash")

        def take_back(tx: Transaction, row: Any) -> bool:
            if row.trashed is None:
                return False
            self._mark(tx, asker.project, query, None)
            return True

        return await self._database.write(lambda tx: self._between(tx, asker, query, take_back))

    def _between(
        self, tx: Transaction, asker: Asker, query: TrashModel | RestoreModel, move: Callable[[Transaction, Any], bool]
    ) -> Done:
        model = row = existing(store.lock(tx.connection, asker.project, query.model), query.model)
        if query.number is not None:
            found = store.version_of(tx.connection, asker.project, query.model, query.number)
            row = known(found, query.model, query.number)
        if move(tx, row):
            kind, action = (ModelTrashed, "trashed") if isinstance(query, TrashModel) else (ModelRestored, "restored")
            said = self._note(tx, asker.project, model, asker.user, action, {"number": query.number})
            event = kind(model=query.model, by=asker.user, trail=said.hash, number=query.number)
            tx.emit(event, project=asker.project, version=said.sequence)
        return Done()

    def _mark(self, tx: Transaction, project: str, query: TrashModel | RestoreModel, trashed: float | None) -> None:
        if query.number is None:
            store.change_model(tx.connection, project, query.model, trashed=trashed)
        else:
            store.change_version(tx.connection, project, query.model, query.number, trashed=trashed)

    async def purge(self, asker: Asker, query: PurgeModel) -> Done:
        """The files of what lies in the trash are given up, and what was said of it; numbers and trail stay."""

        def work(tx: Transaction) -> bool:
            model = existing(store.lock(tx.connection, query.project, query.model), query.model)
            rows = self._doomed(tx, query, model)
            for row in rows:
                store.give_up(tx.connection, query.project, row.registration, self._clock.now())
                words = {"note": "", "tags": "[]", "metadata": "{}", "lineage": "{}", "purged": self._clock.now()}
                store.change_version(tx.connection, query.project, query.model, row.number, **words)
            if rows:
                numbers = tuple(sorted(row.number for row in rows))
                said = self._note(tx, query.project, model, asker.user, "purged", {"numbers": list(numbers)})
                event = ModelPurged(model=query.model, by=asker.user, trail=said.hash, numbers=numbers)
                tx.emit(event, project=query.project, version=said.sequence)
            return len(rows) == _MOST_PURGED

        while await self._database.write(work):
            pass
        return Done()

    def _doomed(self, tx: Transaction, query: PurgeModel, model: Any) -> list[Any]:
        if query.number is not None:
            row = store.version_of(tx.connection, query.project, query.model, query.number)
            if known(row, query.model, query.number).trashed is None and model.trashed is None:
                raise ConflictError(
                    f"{query.model}:{query.number} is not in the trash",
                    hint=f"incl model rm {query.model}:{query.number}",
                )
            return [row]
        if model.trashed is None:
            raise ConflictError(f"the model {query.model} is not in the trash", hint=f"incl model rm {query.model}")
        return store.versions_of(tx.connection, query.project, query.model, None, _MOST_PURGED)

    def _note(self, tx: Transaction, project: str, model: Any, by: str, action: str, details: dict[str, Any]) -> Row:
        return store.note(tx.connection, project, model, Act(by, self._clock.now(), action, details))


def _changed(row: Any, query: ChangeModel) -> dict[str, str]:
    """Columns that have other values afterwards."""
    metadata = rules.merged(json.loads(row.metadata), query.metadata)
    rules.check_metadata(metadata)
    kept = set(json.loads(row.tags)) - set(query.remove_tags)
    wanted = {
        "note": row.note if query.note is None else query.note,
        "tags": json.dumps(rules.tags_of(kept | set(query.add_tags))),
        "metadata": json.dumps(metadata),
    }
    return {name: text for name, text in wanted.items() if text != getattr(row, name)}
