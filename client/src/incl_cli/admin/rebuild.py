"""incl admin rebuild tracker: the projection of a stopped platform anew, from the history of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from incl_cli.admin.machine import data_argument, layout, local
from incl_cli.arguments import common

if TYPE_CHECKING:
    import argparse

    from incl_cli.running import Session

SUMMARY = "Make the tracker's view of experiments anew, from the history of events"
EXAMPLES = """  incl down && incl admin rebuild tracker --dry-run   what would change
  incl admin rebuild tracker && incl up"""
_SHOWN = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", choices=["tracker"], help="tracker")
    parser.add_argument("--dry-run", action="store_true", help="change nothing; 1 when anything would change")
    data_argument(parser)
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    from incl_cli.text import duration, plural

    out = session.out
    place = layout(args)
    done = local("rebuild").rebuild_tracker(place, lambda text: out.note(text, "dim"), dry=args.dry_run)
    found = done.rebuilt
    if args.json:
        said = {"events": found.events, "segments": done.segments, "same": found.same, "changed": found.changed}
        said |= {"made": found.made, "kept": found.kept, "dry": args.dry_run, "seconds": round(done.seconds, 3)}
        out.json(said)
    else:
        for what, names in (("changed", found.changed), ("made", found.made)):
            for name in names:
                out.line(f"{what}  {name}")
    would = "would be " if args.dry_run else ""
    out.note(
        f"{plural(found.events, 'event')}: {found.same:,} experiments are as they were, {len(found.changed):,} {would}"
        f"changed, {len(found.made):,} {would}made, in {duration(done.seconds)}"
    )
    for name, reason in list(found.kept.items())[:_SHOWN]:
        out.note(f"left as it is: {name}: {reason}", "yellow")
    if len(found.kept) > _SHOWN:
        out.note(f"and {len(found.kept) - _SHOWN:,} more (--json has all)", "yellow")
    return 1 if args.dry_run and (found.changed or found.made) else 0
