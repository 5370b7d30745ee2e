"""Protected aliases: one person asks, another decides, and the trail tells of both; on both databases."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from incl_registry.tables import model_aliases, model_requests
from incl_registry.testing.models import Desk
from incl_registry.testing.running import ANN
from incl_shared.auth.names import job_principal
from incl_shared.bus.tables import outbox
from incl_shared.errors import ConflictError, DeniedError, InvalidInput, NotFoundError
from incl_shared.ids import new_id
from incl_shared.queries.models import (
    AliasView,
    DecideRequest,
    GetVersion,
    ListRequests,
    ProtectAlias,
    RequestView,
    TrashModel,
)
from incl_shared.subjects import Asker

BOB = Asker("default", "bob")


async def decided(desk: Desk, request: int, *, approve: bool = True, by: Asker = BOB) -> RequestView:
    query = DecideRequest(model="chest-xray", request=request, approve=approve, reason="looked at")
    return await desk.aliases.decide(by, query)


async def protect(desk: Desk, *, protected: bool = True, by: Asker = ANN) -> AliasView:
    return await desk.aliases.protect(by, ProtectAlias(model="chest-xray", alias="production", protected=protected))


async def points_at(desk: Desk) -> int:
    return (await desk.models.version(ANN, GetVersion(model="chest-xray", alias="production"))).number


async def ready(desk: Desk) -> None:
    """Two versions; production points at the first, and is protected."""
    for number in range(2):
        await desk.made(content=b"%d" % number)
    await desk.point(1)
    assert (await protect(desk)).protected


async def test_it_moves_once_another_person_approves(any_desk: Desk) -> None:
    desk = any_desk
    await ready(desk)
    asked = await desk.point(2, revision=1)
    assert (asked.number, asked.request) == (1, 1)
    assert await points_at(desk) == 1
    [waits] = (await desk.aliases.requests(BOB, ListRequests())).requests
    assert (waits.model, waits.alias, waits.number, waits.asked_by, waits.reason) == (
        "chest-xray", "production", 2, "ann", "better",
    )  # fmt: skip
    done = await decided(desk, 1)
    assert (done.state, done.decided_by, done.answer) == ("approved", "bob", "looked at")
    assert await points_at(desk) == 2
    assert (await desk.aliases.requests(BOB, ListRequests())).requests == ()
    assert len((await desk.aliases.requests(BOB, ListRequests(model="chest-xray", decided=True))).requests) == 1

    def events(connection: sa.Connection) -> list[tuple[str, str]]:
        rows = connection.execute(
            sa.select(outbox).where(outbox.c.subject.contains(".model.")).order_by(outbox.c.sequence)
        )
        return [(json.loads(row.headers)["ce-type"], json.loads(row.payload)["by"]) for row in rows]

    assert (await desk.store.database.read(events))[3:] == [
        ("AliasProtected.v1", "ann"), ("ApprovalRequested.v1", "ann"), ("ApprovalGiven.v1", "bob"),
        ("AliasMoved.v1", "ann"),
    ]  # fmt: skip
    assert (await desk.verified()).problems == ()


async def test_nobody_approves_what_he_asked_for(any_desk: Desk) -> None:
    desk = any_desk
    await ready(desk)
    await desk.point(2, revision=1)
    with pytest.raises(DeniedError, match="asked for himself"):
        await decided(desk, 1, by=ANN)
    with pytest.raises(DeniedError, match="only people"):
        await decided(desk, 1, by=Asker("default", job_principal(new_id(), 1, 0)))
    assert await points_at(desk) == 1
    assert (await decided(desk, 1, approve=False, by=ANN)).state == "refused", "he may take it back"
    with pytest.raises(ConflictError, match="ann has refused it already"):
        await decided(desk, 1)
    assert (await desk.point(2, revision=1)).request == 2
    assert (await desk.verified()).problems == ()


async def test_of_two_who_decide_at_once_one_does(any_desk: Desk) -> None:
    desk = any_desk
    await ready(desk)
    await desk.point(2, revision=1)
    both = await asyncio.gather(
        decided(desk, 1), decided(desk, 1, approve=False, by=Asker("default", "cat")), return_exceptions=True
    )
    [done] = [one for one in both if isinstance(one, RequestView)]
    assert [type(one) for one in both if one is not done] == [ConflictError]
    assert await points_at(desk) == (2 if done.state == "approved" else 1)
    assert (await desk.verified()).problems == ()


async def test_one_request_at_a_time(desk: Desk) -> None:
    await ready(desk)
    await desk.point(2, revision=1)
    with pytest.raises(ConflictError, match="ann has asked already for production to point at 2"):
        await desk.point(None, revision=1, by="bob")
    with pytest.raises(ConflictError, match="ann has asked already"):
        await protect(desk, protected=False, by=BOB)


async def test_to_end_the_protection_needs_two_as_well(any_desk: Desk) -> None:
    desk = any_desk
    await ready(desk)
    asked = await protect(desk, protected=False)
    assert (asked.protected, asked.request) == (True, 1)
    await decided(desk, 1)
    assert (await protect(desk, protected=False)).protected is False
    assert (await desk.point(2, revision=1)).request is None
    assert await points_at(desk) == 2
    assert (await desk.verified()).problems == ()


async def test_to_take_it_away_needs_two_as_well(desk: Desk) -> None:
    await ready(desk)
    assert (await desk.point(None, revision=1)).request == 1
    await decided(desk, 1)
    with pytest.raises(NotFoundError, match="has no alias"):
        await points_at(desk)
    assert (await desk.point(1, revision=2)).request == 2, "it is protected still"
    assert (await desk.verified()).problems == ()


async def test_what_is_gone_meanwhile_is_not_pointed_at(desk: Desk) -> None:
    await ready(desk)
    await desk.point(2, revision=1)
    await desk.changes.trash(ANN, TrashModel(model="chest-xray", number=2))
    with pytest.raises(NotFoundError, match="in the trash"):
        await decided(desk, 1)
    assert [one.state for one in (await desk.aliases.requests(ANN, ListRequests())).requests] == ["open"]


async def test_an_alias_is_protected_before_it_points(desk: Desk) -> None:
    await desk.made()
    await protect(desk)
    assert (await desk.point(1)).request == 1
    with pytest.raises(NotFoundError, match="has no alias"):
        await points_at(desk)
    await decided(desk, 1)
    assert await points_at(desk) == 1


async def test_what_cannot_be_decided(desk: Desk) -> None:
    await ready(desk)
    with pytest.raises(NotFoundError, match="has no request 7"):
        await decided(desk, 7)
    with pytest.raises(NotFoundError, match="no model"):
        await decided(desk, 1, by=Asker("other", "bob"))
    with pytest.raises(InvalidInput, match="cannot be an alias"):
        await desk.aliases.protect(ANN, ProtectAlias(model="chest-xray", alias="latest"))
    with pytest.raises(NotFoundError, match="has no alias staging"):
        await desk.aliases.protect(ANN, ProtectAlias(model="chest-xray", alias="staging", protected=False))


TAMPERED: dict[str, tuple[Callable[[], sa.Update | sa.Delete], str]] = {
    "another asked": (lambda: sa.update(model_requests).values(asked_by="eve"), "the request 1 was changed"),
    "it is opened again": (lambda: sa.update(model_requests).values(state="open"), "the request 1 was changed"),
    "it is deleted": (lambda: sa.delete(model_requests), "the request 1 was changed"),
    "it is not protected": (
        lambda: sa.update(model_aliases).values(protected=None),
        "the alias production: whether it is protected",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
async def test_what_is_done_behind_its_back_is_found(desk: Desk, case: str) -> None:
    change, expected = TAMPERED[case]
    await ready(desk)
    await desk.point(2, revision=1)
    await decided(desk, 1)
    await desk.store.database.write(lambda tx: tx.connection.execute(change()))
    problems = (await desk.verified()).problems
    assert any(problem.startswith(expected) for problem in problems), problems


async def test_a_move_without_an_approval_is_found(desk: Desk) -> None:
    """Somebody takes the protection away in the database, moves the alias by the door, and puts it back."""
    await ready(desk)
    for protected in (None, 1.0):
        change = sa.update(model_aliases).values(protected=protected)
        await desk.store.database.write(lambda tx, change=change: tx.connection.execute(change))  # type: ignore[misc]
        if protected is None:
            await desk.point(2, revision=1)
    [problem] = (await desk.verified()).problems
    assert problem.endswith("moved the protected alias production without an approval")
