"""incl admin dead-letters ls|replay: what could not be handled."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import Parser, common

if TYPE_CHECKING:
    from incl_cli.output import Output
    from incl_cli.running import Session
    from incl_shared.bus.client import BusClient
    from incl_shared.bus.deadletters import DeadLetter

SUMMARY = "Messages that could not be handled"
EXAMPLES = """  incl admin dead-letters ls
  incl admin dead-letters replay 3 7
  incl admin dead-letters replay --all"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ls | replay", required=True, parser_class=Parser)
    listing = actions.add_parser("ls", help="oldest first, with the reason")
    listing.add_argument("-n", "--limit", type=int, default=100, metavar="N", help="at most so many (100)")
    replay = actions.add_parser("replay", help="publish them again where they came from")
    replay.add_argument("number", nargs="*", type=int, help="as ls shows it")
    replay.add_argument("--all", action="store_true", help="every one there is now")
    for action in (listing, replay):
        common(action)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    from incl_cli.admin.credential import administrator
    from incl_cli.arguments import UsageProblem
    from incl_shared.bus.deadletters import list_dead

    if args.action == "replay" and bool(args.number) == args.all:
        raise UsageProblem("name the numbers of dead letters, or --all", hint="incl admin dead-letters ls")
    async with administrator() as client:
        if args.action == "ls":
            _print(session.out, await list_dead(client, limit=max(1, args.limit)))
            return 0
        return await _replay(args, session.out, client)


async def _replay(args: argparse.Namespace, out: Output, client: BusClient) -> int:
    from incl_shared.bus.deadletters import list_dead, replay
    from incl_shared.errors import InclError

    numbers = [letter.sequence for letter in await list_dead(client)] if args.all else args.number
    done: list[dict[str, Any]] = []
    failed: InclError | None = None
    for number in numbers:
        try:
            letter = await replay(client, number)
        except InclError as error:
            failed = error
            out.note(f"{number}: {error.message}", "red")
            continue
        done.append({"number": number, "subject": letter.subject, "type": letter.type})
        out.note(f"{number}: published again on {letter.subject}")
    if args.json:
        out.json(done)
    elif not numbers:
        out.note("no dead letters", "dim")
    return failed.exit_code if failed is not None else 0


def _print(out: Output, letters: list[DeadLetter]) -> None:
    import dataclasses

    from incl_cli.text import Cell, Column, Row, moment, size, table

    if out.as_json:
        out.json([dataclasses.asdict(letter) for letter in letters])
        return
    if not letters:
        out.note("no dead letters", "dim")
        return
    rows: list[Row] = [
        (
            Cell(str(letter.sequence), "bold"),
            moment(letter.time) if letter.time else "",
            letter.durable,
            letter.type,
            letter.subject,
            size(letter.size),
            Cell(letter.reason, "red"),
        )
        for letter in letters
    ]
    columns = [Column("number", right=True), Column("when"), Column("consumer"), Column("type")]
    columns += [Column("subject", flexible=True), Column("size", right=True), Column("reason", flexible=True, least=20)]
    for line in table(out, columns, rows):
        out.line(line)
