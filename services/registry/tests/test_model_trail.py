"""Aliases that move, and the audit trail: whatever is done to it behind its back is found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from incl_registry.models.trail import Act, Row, append, canonical, check, digest
from incl_registry.tables import model_aliases, model_files, model_trail, models, versions
from incl_registry.testing.models import Desk
from incl_registry.testing.running import ANN, sha
from incl_shared.errors import ConflictError, InvalidInput, NotFoundError
from incl_shared.queries.models import GetTrail, GetVersion, ListModels, MoveAlias, TrailEntry, TrashModel
from incl_shared.subjects import Asker


async def history(desk: Desk, **query: object) -> list[TrailEntry]:
    found: list[TrailEntry] = []
    cursor: int | None = None
    while True:
        asked = GetTrail.model_validate({"model": "chest-xray", "cursor": cursor, "limit": 2, **query})
        page = await desk.inspection.trail(ANN, asked)
        found += page.entries
        cursor = page.cursor
        if cursor is None:
            return found


async def test_an_alias_moves_with_its_history(any_desk: Desk) -> None:
    desk = any_desk
    for number in range(3):
        await desk.made(content=b"%d" % number)
    await desk.point(1)
    await desk.point(3, revision=1, by="bob")
    found = await desk.models.version(ANN, GetVersion(model="chest-xray", alias="production"))
    assert (found.number, found.aliases) == (3, ("production",))
    [model] = (await desk.models.models(ANN, ListModels())).models
    assert [(one.alias, one.number, one.revision, one.by) for one in model.aliases] == [("production", 3, 2, "bob")]
    await desk.point(3, revision=2)
    await desk.point(None, revision=2)
    with pytest.raises(NotFoundError, match="has no alias production"):
        await desk.models.version(ANN, GetVersion(model="chest-xray", alias="production"))
    moves = await history(desk, alias="production")
    assert [(one.by, one.details["previous"], one.details["number"]) for one in moves] == [
        ("ann", 3, None), ("bob", 1, 3), ("ann", None, 1),
    ]  # fmt: skip
    await desk.point(2, revision=3)
    assert [one.details["revision"] for one in await history(desk, action="alias")] == [4, 3, 2, 1]
    assert (await desk.verified()).problems == ()


async def test_of_two_who_move_it_at_once_one_wins(any_desk: Desk) -> None:
    desk = any_desk
    for number in range(4):
        await desk.made(content=b"%d" % number)
    await desk.point(1)
    people = {"bob": 2, "cat": 3, "dan": 4}
    moved = await asyncio.gather(
        *(desk.point(number, revision=1, by=name) for name, number in people.items()), return_exceptions=True
    )
    found = await desk.models.version(ANN, GetVersion(model="chest-xray", alias="production"))
    [winner] = [name for name, number in people.items() if number == found.number]
    refused = [one for one in moved if isinstance(one, Exception)]
    assert len(refused) == 2
    for error in refused:
        assert isinstance(error, ConflictError)
        assert error.message == f"{winner} has moved production to chest-xray:{found.number} meanwhile"
    assert len(await history(desk, alias="production")) == 2


async def test_what_no_alias_can_be(desk: Desk) -> None:
    await desk.made()
    for alias in ("3", "latest"):
        with pytest.raises(InvalidInput, match="cannot be an alias"):
            await desk.point(1, alias=alias)
    for alias in ("", "a b", "a.b", "@x"):
        with pytest.raises(ValueError, match="alias"):
            MoveAlias(model="chest-xray", alias=alias, number=1, revision=0)
    with pytest.raises(NotFoundError, match="no version chest-xray:2"):
        await desk.point(2)
    with pytest.raises(NotFoundError, match="has no alias"):
        await desk.point(None)
    with pytest.raises(InvalidInput, match="has no revision 7"):
        await desk.point(1, revision=7)


async def test_what_an_alias_points_at_is_not_put_away(desk: Desk) -> None:
    await desk.made()
    await desk.point(1)
    for number in (1, None):
        with pytest.raises(ConflictError, match="production points at chest-xray:1"):
            await desk.changes.trash(ANN, TrashModel(model="chest-xray", number=number))


TAMPERED: dict[str, tuple[Callable[[], sa.Update | sa.Delete | sa.Insert], str]] = {
    "an entry is changed": (
        lambda: (
            sa.update(model_trail)
            .where(model_trail.c.sequence == 3)
            .values(body=sa.func.replace(model_trail.c.body, '"ann"', '"eve"'))
        ),
        "entry 3 was changed",
    ),
    "an entry is deleted": (lambda: sa.delete(model_trail).where(model_trail.c.sequence == 3), "entry 3 is missing"),
    "the first is deleted": (lambda: sa.delete(model_trail).where(model_trail.c.sequence == 1), "entry 1 is missing"),
    "the last is deleted": (
        lambda: sa.delete(model_trail).where(model_trail.c.sequence == 5),
        "the trail ends with entry 4, and should with entry 5",
    ),
    "an alias is moved by hand": (
        lambda: sa.update(model_aliases).values(number=2),
        "the alias production points at 2, and should at 1",
    ),
    "an alias is deleted": (lambda: sa.delete(model_aliases), "the alias production points at no version"),
    "a file is another one": (
        lambda: sa.update(model_files).values(sha256=sha(b"evil")),
        "chest-xray:1: its list of files was changed",
    ),
    "a version is deleted": (lambda: sa.delete(versions).where(versions.c.number == 2), "chest-xray:2 is not stored"),
    "a version of another experiment": (
        lambda: sa.update(versions).values(experiment="0" * 26),
        "chest-xray:1: experiment was changed",
    ),
    "another lineage": (
        lambda: sa.update(versions).values(lineage=sa.func.replace(versions.c.lineage, '"xray"', '"ct"')),
        "chest-xray:1: the lineage was changed",
    ),
    "another note": (lambda: sa.update(versions).values(note="fine"), "chest-xray:1: note was changed"),
    "a number is given back": (lambda: sa.update(models).values(numbers=1), "1 numbers were given"),
    "it is put into the trash": (
        lambda: sa.update(versions).values(trashed=1.0),
        "chest-xray:1: whether it is in the trash was changed",
    ),
    "it is said to be purged": (lambda: sa.update(versions).values(purged=1.0), "chest-xray:1: that it is purged"),
}


@pytest.mark.parametrize("case", TAMPERED)
async def test_what_is_done_behind_its_back_is_found(any_desk: Desk, case: str) -> None:
    desk, (change, expected) = any_desk, TAMPERED[case]
    for number in range(2):
        await desk.made(content=b"%d" % number)
    await desk.point(1)
    await desk.point(2, alias="staging")
    assert (await desk.verified()).problems == ()
    await desk.store.database.write(lambda tx: tx.connection.execute(change()))
    problems = (await desk.verified()).problems
    assert any(problem.startswith(expected) for problem in problems), problems


async def test_entries_that_change_places_are_found(any_desk: Desk) -> None:
    """Also where each keeps its own hash."""
    desk = any_desk
    for number in range(2):
        await desk.made(content=b"%d" % number)
    swap = sa.case((model_trail.c.sequence == 2, 103), else_=102)
    for values in ({"sequence": swap}, {"sequence": model_trail.c.sequence - 100}):
        moved = sa.update(model_trail).where(model_trail.c.sequence.in_([2, 3, 102, 103])).values(**values)
        await desk.store.database.write(lambda tx, moved=moved: tx.connection.execute(moved))  # type: ignore[misc]
    assert "entry 2 was moved: it was written as entry 3" in (await desk.verified()).problems


async def test_a_trail_that_is_written_anew_does_not_hold_a_head_of_before(desk: Desk) -> None:
    """Whoever can write the whole database can make a trail that fits; a head that was kept elsewhere tells."""
    await desk.made()
    head = (await desk.verified()).head
    assert (await desk.verified(head=head)).problems == ()
    await desk.point(1)
    assert (await desk.verified(head=head)).problems == (), "it has grown since"

    def rewrite(tx: object) -> None:
        connection: sa.Connection = tx.connection  # type: ignore[attr-defined]
        rows = connection.execute(sa.select(model_trail).order_by(model_trail.c.sequence)).all()
        before = ""
        for row in rows:
            body = canonical(json.loads(row.body) | {"by": "eve", "previous": before})
            before = digest(body)
            mine = model_trail.c.sequence == row.sequence
            connection.execute(sa.update(model_trail).where(mine).values(body=body, hash=before))
        connection.execute(sa.update(models).values(trail_head=before))

    await desk.store.database.write(rewrite)
    assert (await desk.verified()).problems == ()
    [problem] = (await desk.verified(head=head)).problems
    assert problem.startswith(f"the trail has no entry {head}")


async def test_bytes_that_are_gone_are_found(desk: Desk) -> None:
    await desk.made()
    assert desk.store.blobs.delete(sha(b"weights"), 1e12)
    assert (await desk.verified()).problems == ("chest-xray:1: best.pt is not in the artifact store",)


def _chain(length: int) -> tuple[list[Row], str]:
    rows: list[Row] = []
    head = ""
    for number in range(length):
        rows.append(append("p", "m", number, head, Act("ann", float(number), "changed", {"number": number, "x": "é"})))
        head = rows[-1].hash
    return rows, head


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8), st.data())
def test_no_change_of_a_chain_goes_unseen(length: int, data: st.DataObject) -> None:
    rows, head = _chain(length)
    whole = check("p", "m", rows, length, head)
    assert (whole.problems, whole.head, len(whole.entries)) == ([], head, length)
    at = data.draw(st.integers(0, length - 1))
    kind = data.draw(st.sampled_from(["body", "hash", "drop", "swap", "foreign"]))
    changed = list(rows)
    row = rows[at]
    if kind == "body":
        place = data.draw(st.integers(0, len(row.body) - 1))
        letter = data.draw(st.characters(codec="ascii").filter(lambda c: c != row.body[place]))
        changed[at] = Row(row.sequence, row.hash, row.body[:place] + letter + row.body[place + 1 :])
    elif kind == "hash":
        changed[at] = Row(row.sequence, digest("another"), row.body)
    elif kind == "drop":
        del changed[at]
    elif kind == "swap":
        other = data.draw(st.integers(0, length - 1))
        changed[at], changed[other] = (
            Row(row.sequence, rows[other].hash, rows[other].body),
            Row(rows[other].sequence, row.hash, row.body),
        )
        if other == at:
            return
    else:
        foreign = append("p", "other", at, rows[at - 1].hash if at else "", Act("ann", 1.0, "made", {}))
        changed[at] = foreign
    assert check("p", "m", changed, length, head).problems


def test_a_chain_of_another_model_is_none() -> None:
    rows, head = _chain(3)
    assert check("p", "other", rows, 3, head).problems == [f"entry {n} is of another model" for n in (1, 2, 3)]


async def test_trails_of_two_models_are_apart(desk: Desk) -> None:
    await desk.made("one", b"1")
    await desk.made("two", b"2")
    for name in ("one", "two"):
        found = await desk.verified(name)
        assert (found.entries, found.versions, found.problems) == (2, 1, ())
    with pytest.raises(NotFoundError, match="no model one"):
        await desk.inspection.trail(Asker("other", "ann"), GetTrail(model="one"))
