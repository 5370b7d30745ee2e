"""incl machines."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_cli.text import Row
    from incl_shared.queries.provisioner import GangView, Machines

EXAMPLES = """  incl machines
  incl machines @last"""
_STATES = {
    "planned": "not asked for yet",
    "asked": "being created",
    "made": "there",
    "cleaning": "being deleted, then tried elsewhere",
    "ending": "being deleted",
    "gone": "deleted",
    "failed": "could not be made",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="?", help="those that this one ever had; without it all that are there now")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Show the machines of a cloud."""
    from incl_cli.look import find
    from incl_shared.queries.provisioner import GetMachines

    platform = await session.platform(args.project)
    experiment = (await find(platform, args.experiment)).row.id if args.experiment else None
    found = await platform.ask(GetMachines(experiment=experiment))
    if args.json:
        session.out.json(found)
    else:
        _print(session.out, found)
    return 0


def _print(out: Output, found: Machines) -> None:
    from incl_cli.text import Column, table

    columns = [
        Column("experiment"),
        Column("attempt", right=True),
        Column("machines", flexible=True),
        Column("zone", flexible=True),
        Column("state", flexible=True),
        Column("since", right=True),
        Column("why", flexible=True),
    ]
    if not found.gangs:
        out.note("no machine of a cloud", "dim")
    else:
        for line in table(out, columns, [_row(gang) for gang in found.gangs]):
            out.line(line)
    if found.trouble:
        out.note(f"the cloud cannot be used now: {found.trouble}", "yellow")
        if found.hint:
            out.note(f"hint: {found.hint}", "dim")


def _row(gang: GangView) -> Row:
    from incl_cli.text import Cell, age
    from incl_shared.ids import short

    count = f"{len(gang.nodes)} x " if len(gang.nodes) > 1 else ""
    kind = f"{gang.machine}{' spot' if gang.spot else ''}" if gang.machine else "any"
    since = gang.deleted or gang.made or gang.asked or gang.created
    why = "taken back by the provider" if gang.preempted is not None else gang.trouble
    return [
        Cell(short(gang.experiment), "bold"), str(gang.attempt), f"{count}{kind}",
        gang.zone or ", ".join(gang.zones), _state(gang), age(since), Cell(why, "dim"),
    ]  # fmt: skip


def _state(gang: GangView) -> str:
    """A call for what nobody wants any more may still be received: until that is known, nothing is said to be gone."""
    over = not gang.wanted and gang.phase in ("planned", "asked", "made", "cleaning")
    if over:
        return _STATES["ending"]
    if gang.phase == "made" and (gang.gone or gang.going):
        return _parted(len(gang.nodes), len(gang.going), len(gang.gone))
    return _STATES.get(gang.phase, gang.phase)


def _parted(nodes: int, going: int, gone: int) -> str:
    """Machines that were made, of which the provider has taken or lost some: no attempt has been settled yet."""
    parts = ((nodes - going - gone, "there"), (going, "being deleted"), (gone, "gone"))
    said = [(count, words) for count, words in parts if count]
    return said[0][1] if len(said) == 1 else ", ".join(f"{count} {words}" for count, words in said)
