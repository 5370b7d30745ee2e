"""Aliases: moved in one step; those that are protected only once another person has approved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from incl_registry.models import rules, store
from incl_registry.models.found import existing, present
from incl_registry.models.trail import Act, Row
from incl_shared.errors import ConflictError, DeniedError, InvalidInput, NotFoundError
from incl_shared.events import AliasMoved, AliasProtected, ApprovalGiven, ApprovalRefused, ApprovalRequested
from incl_shared.queries.models import (
    MOST_ALIASES,
    AliasView,
    DecideRequest,
    ListRequests,
    MoveAlias,
    ProtectAlias,
    RequestPage,
    RequestView,
)

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.bus.runtime import Bus
    from incl_shared.clock import Clock
    from incl_shared.db import Database, Transaction
    from incl_shared.subjects import Asker

_SHOWN = 100
_COLUMNS = (
    "model", "request", "alias", "unprotect", "number", "state", "asked_by", "asked", "reason", "decided_by", "decided",
    "answer",
)  # fmt: skip


class Aliases:
    """Move, protect, approve."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def register(self, bus: Bus) -> None:
        """Serve every query."""
        bus.serve(MoveAlias, self.move)
        bus.serve(ProtectAlias, self.protect)
        bus.serve(ListRequests, self.requests)
        bus.serve(DecideRequest, self.decide)

    async def move(self, asker: Asker, query: MoveAlias) -> AliasView:
        """An alias points elsewhere, unless somebody moved it since the asker has looked; or it is asked for."""
        rules.only_people(asker, "move aliases")
        rules.check_alias(query.alias)

        def work(tx: Transaction) -> AliasView:
            place = _Place(tx, self._clock, asker.project, query.model, query.alias)
            if query.number is not None:
                place.present(query.number)
            elif place.before is None or place.before.number is None:
                raise NotFoundError(f"{query.model} has no alias {query.alias}", hint=f"incl model show {query.model}")
            if query.revision != place.revision:
                raise _moved_meanwhile(query, place.before)
            if place.before is not None and place.before.number == query.number:
                return place.before
            place.check_room()
            if place.before is None or not place.before.protected:
                return place.move(asker.user, query.number, query.reason)
            request = place.ask(asker.user, query.number, query.reason)
            return place.before.model_copy(update={"request": request})

        return await self._database.write(work)

    async def protect(self, asker: Asker, query: ProtectAlias) -> AliasView:
        """Protect an alias; to end that is asked for."""
        rules.only_people(asker, "protect aliases")
        rules.check_alias(query.alias)

        def work(tx: Transaction) -> AliasView:
            place = _Place(tx, self._clock, asker.project, query.model, query.alias)
            protected = place.before is not None and place.before.protected
            if place.before is not None and protected == query.protected:
                return place.before
            if place.before is None and not query.protected:
                raise NotFoundError(f"{query.model} has no alias {query.alias}", hint=f"incl model show {query.model}")
            if query.protected:
                place.check_room()
                return place.protect(asker.user, query.reason, on=True)
            request = place.ask(asker.user, None, query.reason, unprotect=True)
            return place.view().model_copy(update={"request": request})

        return await self._database.write(work)

    async def requests(self, asker: Asker, query: ListRequests) -> RequestPage:
        """What waits, or all that was asked for of a model."""

        def read(connection: sa.Connection) -> RequestPage:
            if query.model is not None:
                existing(store.model_of(connection, asker.project, query.model), query.model)
            rows = store.requests_of(connection, asker.project, query.model, decided=query.decided, limit=_SHOWN)
            return RequestPage(requests=tuple(_request_view(row) for row in rows))

        return await self._database.read(read)

    async def decide(self, asker: Asker, query: DecideRequest) -> RequestView:
        """Approve, and do it; or refuse. Decided once."""
        rules.only_people(asker, "decide")

        def work(tx: Transaction) -> RequestView:
            existing(store.lock(tx.connection, asker.project, query.model), query.model, trashed=False)
            row = store.request_of(tx.connection, asker.project, query.model, query.request)
            _check_decision(asker, query, row)
            place = _Place(tx, self._clock, asker.project, query.model, row.alias)
            if query.approve:
                if place.revision != row.revision:
                    hint = f"incl model refuse {query.model} {query.request}; then it can be asked for anew"
                    raise ConflictError(f"{row.alias} has moved since {row.asked_by} asked", hint=hint)
                if row.number is not None:
                    place.present(row.number)
            place.decide(asker.user, row, query)
            if query.approve and row.unprotect:
                place.protect(asker.user, row.reason, on=False, request=row.request)
            elif query.approve:
                place.move(row.asked_by, row.number, row.reason, request=row.request)
            return _request_view(store.request_of(tx.connection, asker.project, query.model, query.request))

        return await self._database.write(work)


class _Place:
    """An alias of a model that is held until the end of the transaction."""

    def __init__(self, tx: Transaction, clock: Clock, project: str, model: str, alias: str) -> None:
        self._tx, self._clock = tx, clock
        self._project, self._model, self._alias = project, model, alias
        existing(store.lock(tx.connection, project, model), model, trashed=False)
        self.before = self._now()

    def _now(self) -> AliasView | None:
        row = store.alias_of(self._tx.connection, self._project, self._model, self._alias)
        return None if row is None else store.alias_view(row)

    def view(self) -> AliasView:
        """As it is now."""
        found = self._now()
        if found is None:
            raise NotFoundError(f"{self._model} has no alias {self._alias}")
        return found

    @property
    def revision(self) -> int:
        """0: there never was such an alias."""
        return self.before.revision if self.before else 0

    def present(self, number: int) -> None:
        """Refuse a version that is not there."""
        present(store.version_of(self._tx.connection, self._project, self._model, number), self._model, number)

    def check_room(self) -> None:
        """Refuse one alias too many."""
        every = store.every_alias(self._tx.connection, self._project, self._model)
        if self.before is None and len(every) >= MOST_ALIASES:
            raise InvalidInput(f"{self._model} has {MOST_ALIASES} aliases already", hint="use a tag instead")

    def move(self, by: str, number: int | None, reason: str, request: int | None = None) -> AliasView:
        """It points there from now on. request: that was approved."""
        now, previous = self._clock.now(), self.before.number if self.before else None
        moved = AliasView(alias=self._alias, number=number, revision=self.revision + 1, by=by, moved=now)
        store.put_alias(self._tx.connection, self._project, self._model, moved)
        details = {
            "alias": self._alias, "number": number, "previous": previous, "revision": moved.revision, "reason": reason,
        }  # fmt: skip
        said = self._note(by, "alias", details if request is None else details | {"request": request})
        self._emit(AliasMoved(model=self._model, by=by, trail=said.hash, **details), said)
        return self.view()

    def protect(self, by: str, reason: str, *, on: bool, request: int | None = None) -> AliasView:
        """It needs an approval from now on, or none. request: that was approved."""
        act = Act(by, self._clock.now(), "protected" if on else "unprotected", {})
        store.protect_alias(self._tx.connection, self._project, self._model, self._alias, act, on=on)
        details = {"alias": self._alias, "reason": reason}
        said = self._note(by, act.action, details if request is None else details | {"request": request})
        self._emit(AliasProtected(model=self._model, by=by, trail=said.hash, alias=self._alias, protected=on), said)
        return self.view()

    def ask(self, by: str, number: int | None, reason: str, *, unprotect: bool = False) -> int:
        """Ask another person; the number of the request."""
        waits = store.open_request(self._tx.connection, self._project, self._model, self._alias)
        if waits is not None:
            what = "to be unprotected" if waits.unprotect else f"to point at {waits.number or 'nothing'}"
            raise ConflictError(
                f"{waits.asked_by} has asked already for {self._alias} {what}",
                hint=f"incl model approve {self._model} {waits.request}, or refuse it first",
            )
        row = {
            "model": self._model, "alias": self._alias, "unprotect": unprotect, "number": number,
            "revision": self.revision, "asked_by": by, "asked": self._clock.now(), "reason": reason,
        }  # fmt: skip
        request = store.put_request(self._tx.connection, self._project, row)
        details = {
            "request": request, "alias": self._alias, "unprotect": unprotect, "number": number, "reason": reason,
        }  # fmt: skip
        said = self._note(by, "asked", details)
        self._emit(ApprovalRequested(model=self._model, by=by, trail=said.hash, **details), said)
        return request

    def decide(self, by: str, row: Any, query: DecideRequest) -> None:
        """Write down a decision."""
        state = "approved" if query.approve else "refused"
        store.decide(
            self._tx.connection, self._project, self._model, row.request, state=state, decided_by=by,
            decided=self._clock.now(), answer=query.reason,
        )  # fmt: skip
        details = {
            "request": row.request, "asked_by": row.asked_by, "alias": self._alias, "reason": query.reason,
        }  # fmt: skip
        said = self._note(by, state, details)
        kind = ApprovalGiven if query.approve else ApprovalRefused
        self._emit(kind(model=self._model, by=by, trail=said.hash, **details), said)

    def _note(self, by: str, action: str, details: dict[str, Any]) -> Row:
        model = store.lock(self._tx.connection, self._project, self._model)
        act = Act(by, self._clock.now(), action, details)
        return store.note(self._tx.connection, self._project, model, act)

    def _emit(self, event: Any, said: Row) -> None:
        self._tx.emit(event, project=self._project, version=said.sequence)


def _check_decision(asker: Asker, query: DecideRequest, row: Any) -> None:
    if row is None:
        raise NotFoundError(f"{query.model} has no request {query.request}", hint="incl model requests")
    if row.state != "open":
        raise ConflictError(
            f"{row.decided_by} has {row.state} it already", hint=f"incl model requests {query.model} --all"
        )
    if query.approve and row.asked_by == asker.user:
        raise DeniedError("nobody approves what he asked for himself", hint="ask another person of the project")


def _request_view(row: Any) -> RequestView:
    return RequestView.model_validate({name: getattr(row, name) for name in _COLUMNS})


def _moved_meanwhile(query: MoveAlias, before: AliasView | None) -> ConflictError | InvalidInput:
    if before is None:
        return InvalidInput(f"the alias {query.alias} has no revision {query.revision}", hint="0: it is new")
    where = f"to {query.model}:{before.number}" if before.number else "away"
    return ConflictError(
        f"{before.by} has moved {query.alias} {where} meanwhile",
        cause=f"it was at revision {query.revision} when you looked, and is at {before.revision}",
        hint=f"incl model history {query.model} --alias {query.alias}; then move it again, if you still want to",
    )
