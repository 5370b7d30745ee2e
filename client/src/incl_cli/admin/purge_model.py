"""incl admin purge-model: give up the files of what lies in the trash."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session

SUMMARY = "Delete the files of a model's version in the trash, or of a whole model there, for good"
EXAMPLES = """  incl admin purge-model chest-xray:2
  incl admin purge-model chest-xray --project vision --yes"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("reference", metavar="MODEL", help="chest-xray:2, or chest-xray: all of its versions")
    parser.add_argument("--project", help="another project than the usual one")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Do it. Numbers are never given again, and the audit trail stays."""
    from incl_cli import model_names
    from incl_cli.admin.credential import administrator
    from incl_cli.arguments import UsageProblem
    from incl_cli.context import load_context
    from incl_shared.queries.models import PurgeModel
    from incl_shared.subjects import SYSTEM_PROJECT

    reference = model_names.parse(args.reference)
    if reference.alias is not None:
        raise UsageProblem("an alias may move meanwhile: name the version by its number", hint="incl model show")
    project = load_context(project=args.project).project
    if not args.yes:
        _confirm(session, f"purge {reference} of project {project} for good?")
    async with administrator() as client:
        query = PurgeModel(project=project, model=reference.model, number=reference.number)
        await client.ask(query, project=SYSTEM_PROJECT, user="admin", timeout=60.0)
    if args.json:
        session.out.json({"project": project, "model": reference.model, "number": reference.number, "purged": True})
    session.out.note(f"{reference} is purged; what nobody else needs is deleted within minutes")
    return 0


def _confirm(session: Session, question: str) -> None:
    import sys

    from incl_shared.errors import InvalidInput

    if not sys.stdin.isatty():
        raise InvalidInput(f"nobody is there to ask: {question}", hint="say --yes to purge without a question")
    session.out.err.write(f"{question} [y/N] ")
    session.out.err.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInput("nothing was deleted", hint="what lies in the trash can be restored: incl model restore")
