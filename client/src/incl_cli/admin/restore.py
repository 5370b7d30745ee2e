"""incl admin restore: make a stopped platform what it was at the moment of a backup."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.admin.machine import data_argument, layout, local
from incl_cli.arguments import common

if TYPE_CHECKING:
    import argparse

    from incl_cli.running import Session

SUMMARY = "Make a stopped platform what it was at the moment of a backup"
EXAMPLES = """  incl down && incl admin restore /mnt/backups && incl up
  incl admin restore /mnt/backups/20261128T031500Z --data /srv/incl"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("place", type=Path, metavar="DIR|FILE.tar", help="a backup, or a folder of them: the newest")
    data_argument(parser)
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    from incl_cli.admin.backup import about
    from incl_cli.text import duration, moment

    out = session.out
    place = args.place.expanduser().absolute()
    done = local("backup.restore").restore(place, layout(args), lambda text: out.note(text, "dim"))
    if args.json:
        out.json({"data": str(done.data), "backup": str(done.place), "seconds": round(done.seconds, 3),
                  "aside": str(done.aside) if done.aside else None, **about(done.manifest)})  # fmt: skip
    else:
        out.line(str(done.data))
    out.note(f"as it was on {moment(done.manifest.created)}, in {duration(done.seconds)}; start it: incl up")
    if done.aside is not None:
        out.note(f"what was there before lies in {done.aside}; remove it when all is well", "dim")
    return 0
