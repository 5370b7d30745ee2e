"""incl logs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from incl_cli.follow import Wanted
    from incl_cli.platform import Platform
    from incl_cli.running import Session
    from incl_cli.screens import PlainScreen
    from incl_shared.queries.tracker import ExperimentView, LogPage

EXAMPLES = """  incl logs @last
  incl logs -f 3f9k2x7q
  incl logs @last --tail 50 --rank 1
  incl logs @last --grep Traceback
  incl logs @last --since 10m --stream err

Ctrl-C while following: exit 130; the experiment goes on."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="?", default="@last", help="id, the end of one, name, @last (default)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it is over")
    parser.add_argument("-n", "--tail", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--rank", type=int, metavar="N", help="only this node's")
    parser.add_argument("--attempt", type=int, metavar="N", help="only this attempt's")
    parser.add_argument("--stream", choices=("out", "err", "sys"), help="only stdout, stderr, or the platform's own")
    parser.add_argument("--since", metavar="WHEN", help="only lines from then on: 10m, 2h, 2026-01-31T10:00")
    parser.add_argument("--until", metavar="WHEN", help="only lines before then")
    parser.add_argument(
        "--grep", "--search", dest="search", default="", metavar="TEXT", help="only lines with this text, cases folded"
    )
    parser.add_argument("-t", "--timestamps", action="store_true", help="with the time of each line")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Print, or follow."""
    _check(args)
    from incl_cli.follow import Wanted
    from incl_cli.look import find

    wanted = Wanted(args.rank, args.attempt, args.search, args.stream, moment(args, "since"), moment(args, "until"))
    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    if args.follow:
        return await _follow(args, session, platform, view, wanted)
    screen = _screen(args, session)
    screen.prepare(view)
    count = 0
    async for page in _pages(args.tail, platform, view, wanted):
        screen.lines(page.lines)
        count += len(page.lines)
        if args.tail is not None and page.more:
            session.out.note("there was no time to look at older lines; without --tail all are looked at", "yellow")
    screen.close()
    if not count and not args.json and args.tail != 0:
        session.out.note(_nothing(view), "dim")
    return 0


def _nothing(view: ExperimentView) -> str:
    from incl_cli.text import plural
    from incl_shared.ids import short

    if view.outside and not view.lines:
        return "what a run outside the platform prints stays where it runs: incl run keeps it"
    if not view.lines:
        return f"{view.row.name} has printed nothing" + ("" if view.row.ended else " yet")
    return f"no such lines; {plural(view.lines, 'line')} in all: incl logs {short(view.row.id)}"


def moment(args: argparse.Namespace, name: str) -> float | None:
    """When an option says, in seconds since the epoch. A time without an offset is this machine's.

    Raises:
        UsageProblem: it says no time.
    """
    text = getattr(args, name)
    if text is None:
        return None
    import time
    from datetime import datetime

    from incl_shared.filters.moments import parse_span

    span = parse_span(text)
    if span is not None:
        return time.time() - span
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageProblem(
            f"--{name} cannot be {text[:60]!r}", hint="10m and 2h are so long ago; or 2026-01-31T10:00"
        ) from None


def _check(args: argparse.Namespace) -> None:
    for name, least, most in (("tail", 0, 10_000), ("rank", 0, 1023), ("attempt", 1, 1000)):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise UsageProblem(f"--{name} must be from {least} to {most}")
    if len(args.search) > 1000:
        raise UsageProblem("--grep takes at most 1000 characters")
    if args.follow and args.until is not None:
        raise UsageProblem("--follow and --until exclude each other")


async def _pages(tail: int | None, platform: Platform, view: ExperimentView, wanted: Wanted) -> AsyncIterator[LogPage]:
    after = 0
    while True:
        page = await platform.ask(wanted.question(view.row.id, after=after, tail=tail))
        yield page
        if not page.more or tail is not None:
            return
        after = page.cursor


def _screen(args: argparse.Namespace, session: Session) -> PlainScreen:
    from incl_cli.screens import LiveScreen, LogScreen

    if args.follow and session.out.interactive:
        return LiveScreen(session.out, timestamps=args.timestamps)
    return LogScreen(session.out, timestamps=args.timestamps, as_json=args.json)


async def _follow(
    args: argparse.Namespace, session: Session, platform: Platform, view: ExperimentView, wanted: Wanted
) -> int:
    from incl_cli.follow import DETACHED, Follower, watch
    from incl_cli.look import outcome
    from incl_cli.summary import print_summary
    from incl_shared.ids import short

    screen = _screen(args, session)
    screen.prepare(view)
    follower = Follower(platform, view.row.id, screen, wanted)
    last = await watch(follower, screen, tail=args.tail)
    if last is None:
        session.out.note(f"\ndetached; come back: incl logs -f {short(view.row.id)}")
        return DETACHED
    if not args.json:
        print_summary(session.out, last)
    return outcome(last.row.state.value)
