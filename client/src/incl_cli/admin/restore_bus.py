"""incl admin restore-bus: a bus that does not start any more is made anew from what the services have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incl_cli.admin.machine import data_argument, layout, local
from incl_cli.arguments import common

if TYPE_CHECKING:
    import argparse

    from incl_cli.running import Session

SUMMARY = "Set the store of a damaged bus aside; the next incl up fills a new one"
EXAMPLES = "  incl down; incl admin restore-bus && incl up"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    data_argument(parser)
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    aside = local("backup.restore").set_bus_aside(layout(args))
    if args.json:
        session.out.json({"aside": str(aside) if aside.exists() else None})
    elif aside.exists():
        session.out.line(str(aside))
    session.out.note("incl up makes the bus anew; services, agents and shippers send again what it had")
    return 0
