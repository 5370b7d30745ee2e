"""incl sync."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl sync
  incl sync .incl/runs/3f9k2x7q
  incl sync ~/experiments"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("path", nargs="*", type=Path, help="run directories, or folders with some (this one)")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Ship what `incl.init()` logged while no platform could be reached."""
    import asyncio

    from incl_cli.ship import sync

    try:
        shipped = await sync(args.path or [Path.cwd()], say=session.out.note)
    except asyncio.CancelledError:
        again = shlex.join(["incl", "sync", *map(str, args.path)])
        session.out.note(f"what is not shipped yet stays on the disk, and nothing is sent twice; go on with: {again}")
        raise
    if args.json:
        session.out.json([{"id": run.id, "path": str(run.path)} for run in shipped])
    return 0
