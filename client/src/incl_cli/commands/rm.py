"""incl rm."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_shared.queries.tracker import ExperimentView

EXAMPLES = """  incl rm 3f9k2x7q                     into the trash; incl restore brings it back
  incl rm 3f9k2x7q 8d2mz0aa --purge    for good, with its files
  incl ls --trash                      what lies in the trash"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="+", help="id, the end of one, name, @last, @last~2")
    parser.add_argument("--purge", action="store_true", help="for good: points, lines, files; nothing brings it back")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before a purge")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Delete each. One that runs still is a conflict (exit 5), after the others were deleted."""
    from incl_cli.deletion import ask_for, refuse_foreign, until_gone, until_trashed
    from incl_cli.look import called, find_all
    from incl_shared.errors import ConflictError
    from incl_shared.events import TrashRequested
    from incl_shared.ids import short
    from incl_shared.states import FINAL_STATES

    platform = await session.platform(args.project)
    views = await find_all(platform, args.experiment)
    refuse_foreign(views, platform.context.user)
    going = [view for view in views if view.row.state not in FINAL_STATES]
    ended = [view for view in views if view.row.state in FINAL_STATES]
    if args.purge and ended and not args.yes:
        _confirm(session, ended)
    wanted = [(view, TrashRequested(experiment=view.row.id, purge=args.purge)) for view in ended]
    done = await ask_for(platform, wanted, until_gone if args.purge else until_trashed)
    if args.json:
        session.out.json([{"id": view.row.id, "purged": args.purge} for view in done])
    for view in done:
        session.out.note(f"{called(view)}: {'purged' if args.purge else 'in the trash'}")
    if done and not args.purge:
        session.out.note(f"bring it back: incl restore {short(done[0].row.id)}", "dim")
    if going:
        view = going[0]
        raise ConflictError(
            f"{short(view.row.id)} is {view.row.state.value}: what has not ended cannot be deleted",
            hint=f"incl stop {short(view.row.id)} --wait, then delete it",
        )
    return 0


def _confirm(session: Session, views: list[ExperimentView]) -> None:
    import sys

    from incl_shared.errors import InvalidInput

    names = ", ".join(view.row.name for view in views[:5]) + (", …" if len(views) > 5 else "")
    question = f"purge {len(views)} experiment{'s' if len(views) > 1 else ''} ({names}) for good?"
    if not sys.stdin.isatty():
        raise InvalidInput(f"nobody is there to ask: {question}", hint="say --yes to purge without a question")
    session.out.err.write(f"{question} [y/N] ")
    session.out.err.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("nothing was deleted", hint="without --purge it goes into the trash, and can be restored")
