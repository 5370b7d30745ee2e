"""incl model protect|requests|approve|refuse: aliases that two people move."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli import model_names
from incl_cli.arguments import UsageProblem
from incl_cli.text import Cell, Column, Row, age, plain, table
from incl_shared.queries.models import DecideRequest, ListRequests, ProtectAlias, RequestView

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session

_STATES = {"open": "yellow", "approved": "green", "refused": "red"}


def waits(out: Output, model: str, alias: str, request: int) -> None:
    """Say that another person is to decide."""
    out.note(f"{alias} is protected: nothing has changed yet, request {request} waits for another person", "yellow")
    out.note(f"who approves it: incl model approve {model} {request}", "dim")


def check_reason(reason: str) -> str:
    """A reason that the history can keep.

    Raises:
        UsageProblem: it is too long.
    """
    if len(reason) > 2000:
        raise UsageProblem(f"the reason is too long: {len(reason):,} characters, at most 2,000")
    return reason


async def protect(args: argparse.Namespace, session: Session) -> int:
    """incl model protect."""
    model, alias = model_names.name(args.model), model_names.name(args.alias)
    query = ProtectAlias(model=model, alias=alias, protected=not args.remove, reason=check_reason(args.reason))
    view = await (await session.platform(args.project)).ask(query)
    if args.json:
        session.out.json({"model": model, **view.model_dump(mode="json")})
    elif view.request is not None:
        waits(session.out, model, alias, view.request)
    else:
        session.out.note(f"{alias} of {model} is {'protected' if view.protected else 'not protected'}")
    return 0


async def requests(args: argparse.Namespace, session: Session) -> int:
    """incl model requests."""
    model = model_names.name(args.model) if args.model else None
    platform = await session.platform(args.project)
    found = (await platform.ask(ListRequests(model=model, decided=args.all))).requests
    if args.json:
        session.out.json([one.model_dump(mode="json") for one in found])
        return 0
    if not found:
        session.out.note("nothing waits for an approval", "dim")
        return 0
    columns = [
        Column("model", flexible=True, least=12), Column("", right=True), Column("state"),
        Column("what", flexible=True), Column("asked by"), Column("when"), Column("why", flexible=True),
        Column("decided by"), Column("answer", flexible=True),
    ]  # fmt: skip
    rows: list[Row] = [
        (
            Cell(one.model, "bold"), str(one.request), Cell(one.state, _STATES[one.state]), _what(one), one.asked_by,
            Cell(age(one.asked), "dim"), one.reason, one.decided_by, one.answer,
        )
        for one in found
    ]  # fmt: skip
    for line in table(session.out, columns, rows):
        session.out.line(line)
    return 0


def _what(one: RequestView) -> str:
    if one.unprotect:
        return f"{one.alias} without protection"
    return f"{one.alias} → {one.number}" if one.number else f"{one.alias} away"


async def decide(args: argparse.Namespace, session: Session) -> int:
    """incl model approve, and incl model refuse."""
    model = model_names.name(args.model)
    if not 0 < args.request < 2**31:
        raise UsageProblem(f"there is no request {args.request}", hint="incl model requests")
    approve = args.action == "approve"
    query = DecideRequest(model=model, request=args.request, approve=approve, reason=check_reason(args.reason))
    decided = await (await session.platform(args.project)).ask(query)
    if args.json:
        session.out.json(decided)
    elif approve:
        session.out.note(f"approved, and done: {plain(_what(decided))}", "green")
    else:
        session.out.note(f"refused: {plain(_what(decided))}")
    return 0
