"""incl import tensorboard|wandb-offline."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import Parser, common

if TYPE_CHECKING:
    from incl_cli.importers.bring import Brought
    from incl_cli.running import Session

EXAMPLES = """  incl import tensorboard runs/
  incl import tensorboard lightning_logs/ --dry-run
  incl import wandb-offline wandb/ --project vision --tag old"""

_KINDS = {
    "tensorboard": (
        "incl_cli.importers.tensorboard",
        "every directory with event files is a run",
        "log directories, or single event files",
    ),
    "wandb-offline": (
        "incl_cli.importers.wandb",
        "the runs that W&B recorded on this machine",
        "wandb directories, run directories, or .wandb files",
    ),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="kind", metavar=" | ".join(_KINDS), required=True, parser_class=Parser)
    for name, (_, about, paths) in _KINDS.items():
        kind = kinds.add_parser(name, help=about)
        kind.add_argument("path", nargs="+", type=Path, help=paths)
        kind.add_argument("--project", help="another project than the usual one")
        kind.add_argument("--name", help="name of the run; of several, what their names begin with")
        kind.add_argument(
            "--tag", action="append", default=[], metavar="TAG", help="give the runs a tag; may be repeated"
        )
        kind.add_argument("--dry-run", action="store_true", help="read all of it, and say what would be imported")
        common(kind)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Import, and say what came of each run."""
    import asyncio
    from importlib import import_module

    from incl_cli.context import load_context
    from incl_cli.importers.bring import Wish, bring, discover, look

    kind = import_module(_KINDS[args.kind][0])
    runs = discover(kind, args.path)
    wish = Wish(args.name, tuple(args.tag))
    if args.dry_run:
        brought = await look(runs, wish, say=session.out.note)
    else:
        context = load_context(project=args.project)
        try:
            brought = await bring(kind.KIND, runs, context, wish, say=session.out.note)
        except asyncio.CancelledError:
            session.out.note("go on with the same command: what is imported already is not sent again")
            raise
    if args.json:
        session.out.json([_json(one) for one in brought])
    failed = [one.error for one in brought if one.error is not None]
    if failed:
        raise failed[0]
    return 0


def _json(one: Brought) -> dict[str, Any]:
    counts = one.counts
    return {
        "id": one.id or None,
        "name": one.name,
        "path": str(one.path),
        "status": one.status,
        "state": one.ending.state.value if one.ending else None,
        "points": counts.points,
        "records": counts.records,
        "new_records": one.new,
        "media": counts.media,
        "outputs": counts.outputs,
        "system": counts.system,
        "left_out": dict(counts.left_out),
        "problems": counts.problems,
        "error": one.error.message if one.error else None,
    }
