"""incl data ls|prepare|rm: snapshots of a cloud, and the read-only disks that are made of them."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from incl_cli.arguments import Parser, common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.platform import Platform
    from incl_cli.running import Session
    from incl_cli.text import Cell, Row
    from incl_shared.queries.provisioner import DataDisks, DataDiskView

EXAMPLES = """  incl data ls
  incl data prepare chest-ct-v3 --instance a100        where that would run; waits until it is ready
  incl data prepare chest-ct-v3 --zone us-central1-a --zone europe-west4-a --detach
  incl data rm chest-ct-v3 --zone us-central1-a
  incl run --instance a100 --data snapshot=chest-ct-v3,mount=/data -- python train.py"""
_STATES = {
    "planned": "not asked for yet",
    "asked": "being made",
    "ready": "ready",
    "ending": "being deleted",
    "gone": "gone",
}
_POLL_S = 1.0
_COULD_NOT = 3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ls | prepare | rm", required=True, parser_class=Parser)
    listing = actions.add_parser("ls", help="snapshots, and the disks of them: where, how large, who uses them")
    prepare = actions.add_parser("prepare", help="make the disk of a snapshot ahead, and wait until it is ready")
    prepare.add_argument("snapshot")
    prepare.add_argument("--zone", action="append", metavar="ZONE", help="where; may be repeated")
    prepare.add_argument("--instance", default="auto", metavar="TYPE", help="the machines that will read it (auto)")
    prepare.add_argument("-d", "--detach", action="store_true", help="do not wait until it is ready")
    remove = actions.add_parser("rm", help="delete the disks of a snapshot that nobody uses; the snapshot stays")
    remove.add_argument("snapshot", help="its name, or that of a disk")
    remove.add_argument("--zone", metavar="ZONE", help="in this zone only")
    for action in (listing, prepare, remove):
        action.add_argument("--project", help="another project than the usual one")
        common(action)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    from incl_shared.queries.provisioner import GetData, RemoveData

    platform = await session.platform(args.project)
    if args.action == "prepare":
        return await _prepare(args, session.out, platform)
    if args.action == "rm":
        gone = await platform.ask(RemoveData(snapshot=args.snapshot, zone=args.zone))
        for disk in gone.disks:
            session.out.note(f"the disk of {disk.snapshot} in {disk.zone} is being deleted")
        if args.json:
            session.out.json(gone)
        return 0
    found = await platform.ask(GetData())
    if args.json:
        session.out.json(found)
    else:
        _print(session.out, found)
    return 0


async def _prepare(args: argparse.Namespace, out: Output, platform: Platform) -> int:
    from incl_shared.queries.provisioner import DataDisks, GetData, PrepareData

    zones = args.zone or [None]
    made = [
        await platform.ask(PrepareData(snapshot=args.snapshot, zone=zone, instance=args.instance)) for zone in zones
    ]
    names = {disk.name for disk in made}
    told: dict[str, str] = {}
    while True:
        for disk in made:
            if told.get(disk.name) != (said := _said(disk)):
                told[disk.name] = said
                out.note(said)
        if args.detach or all(disk.phase in ("ready", "ending", "gone") for disk in made):
            break
        await asyncio.sleep(_POLL_S)
        found = {disk.name: disk for disk in (await platform.ask(GetData())).disks if disk.name in names}
        made = [found.get(disk.name, disk.model_copy(update={"phase": "gone"})) for disk in made]
    if args.json:
        out.json(DataDisks(disks=tuple(made)))
    return _COULD_NOT if any(disk.phase in ("ending", "gone") for disk in made) else 0


def _said(disk: DataDiskView) -> str:
    size = f" ({disk.gib} GiB, {disk.kind})" if disk.gib else ""
    trouble = f": {disk.trouble}" if disk.trouble else ""
    return f"{disk.snapshot}{size} in {disk.zone}: {_STATES.get(disk.phase, disk.phase)}{trouble}"


def _print(out: Output, found: DataDisks) -> None:
    from incl_cli.text import Cell, Column, table

    if found.trouble:
        out.note(f"the snapshots cannot be listed: {found.trouble}", "yellow")
    columns = [
        Column("snapshot"), Column("size", right=True), Column("zone"), Column("type"), Column("state"),
        Column("users", flexible=True), Column("a month", right=True), Column("why", flexible=True),
    ]  # fmt: skip
    rows = [_row(disk) for disk in found.disks]
    known = {disk.snapshot for disk in found.disks}
    for one in found.snapshots:
        if one.name not in known:
            state = "no disk" if one.ready else "the snapshot is not ready"
            rows.append([Cell(one.name, "bold"), f"{one.gib} GiB", "", "", Cell(state, "dim"), "", "", ""])
    if not rows:
        out.note("no snapshots, and no disks of any", "dim")
        return
    for line in table(out, columns, rows):
        out.line(line)


def _row(disk: DataDiskView) -> Row:
    from incl_cli.text import Cell, age

    state = _STATES.get(disk.phase, disk.phase)
    month = "" if disk.month is None else f"{disk.month:,.2f} {disk.currency}"
    users: str | Cell = _users(disk)
    if not users and disk.phase == "ready":
        users = Cell(f"nobody, since {age(disk.used)}", "dim")
    return [
        Cell(disk.snapshot, "bold"), f"{disk.gib} GiB" if disk.gib else "", disk.zone, disk.kind, state, users, month,
        Cell(disk.trouble, "dim"),
    ]  # fmt: skip


def _users(disk: DataDiskView) -> str:
    from incl_cli.text import plural
    from incl_shared.ids import short

    named = [short(each) for each in disk.experiments]
    named += [f"{plural(disk.others, 'experiment')} of other projects"] if disk.others else []
    return f"{', '.join(named)} ({plural(disk.machines, 'machine')})" if named else ""
