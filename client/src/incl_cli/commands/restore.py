"""incl restore."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl restore 3f9k2x7q
  incl ls --trash        what there is to restore"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="+", help="id, or the end of one")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Restore each. One that is not in the trash is a conflict (exit 5), after the others were restored."""
    from incl_cli.deletion import ask_for, refuse_foreign, until_restored
    from incl_cli.look import called, find_all
    from incl_shared.errors import ConflictError
    from incl_shared.events import RestoreRequested
    from incl_shared.ids import short

    platform = await session.platform(args.project)
    views = await find_all(platform, args.experiment)
    refuse_foreign(views, platform.context.user)
    away = [view for view in views if view.trashed is not None or view.archived is not None]
    wanted = [(view, RestoreRequested(experiment=view.row.id)) for view in away]
    done = await ask_for(platform, wanted, until_restored)
    if args.json:
        session.out.json([{"id": view.row.id} for view in done])
    for view in done:
        session.out.note(f"{called(view)}: restored")
    here = [view for view in views if view not in away]
    if here:
        raise ConflictError(f"{short(here[0].row.id)} is neither in the trash nor archived", hint="incl ls --trash")
    return 0
