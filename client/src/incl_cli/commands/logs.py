"""incl logs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_cli.screens import PlainScreen
    from incl_shared.queries.tracker import ExperimentView

EXAMPLES = """  incl logs @last
  incl logs -f 3f9k2x7q
  incl logs @last --tail 50 --rank 1
  incl logs @last --search Traceback

Ctrl-C while following: exit 130; the experiment goes on."""
_PAGE = 5000


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="?", default="@last", help="id, the end of one, name, @last (default)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until it is over")
    parser.add_argument("-n", "--tail", type=int, metavar="N", help="only the last N lines")
    parser.add_argument("--rank", type=int, metavar="N", help="only this node's")
    parser.add_argument("--attempt", type=int, metavar="N", help="only this attempt's")
    parser.add_argument("--search", default="", metavar="TEXT", help="only lines with this text, cases folded")
    parser.add_argument("-t", "--timestamps", action="store_true", help="with the time of each line")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Print, or follow."""
    _check(args)
    from incl_cli.look import find

    platform = await session.platform(args.project)
    view = await find(platform, args.experiment)
    if args.follow:
        return await _follow(args, session, platform, view)
    screen = _screen(args, session)
    screen.prepare(view)
    async for lines in _pages(args, platform, view):
        screen.lines(lines)
    screen.close()
    return 0


def _check(args: argparse.Namespace) -> None:
    for name, least, most in (("tail", 0, 10_000), ("rank", 0, 1023), ("attempt", 1, 1000)):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise UsageProblem(f"--{name} must be from {least} to {most}")
    if len(args.search) > 1000:
        raise UsageProblem("--search takes at most 1000 characters")


async def _pages(args: argparse.Namespace, platform: Any, view: ExperimentView) -> Any:
    from incl_shared.queries.tracker import GetLogs

    after, tail = 0, args.tail
    while True:
        page = await platform.ask(
            GetLogs(
                experiment=view.row.id,
                after=after,
                tail=tail,
                rank=args.rank,
                attempt=args.attempt,
                search=args.search,
                limit=_PAGE,
            )
        )
        yield page.lines
        if not page.more or tail is not None:
            return
        after = page.cursor


def _screen(args: argparse.Namespace, session: Session) -> PlainScreen:
    from incl_cli.screens import LiveScreen, LogScreen

    if args.follow and session.out.interactive:
        return LiveScreen(session.out, timestamps=args.timestamps)
    return LogScreen(session.out, timestamps=args.timestamps, as_json=args.json)


async def _follow(args: argparse.Namespace, session: Session, platform: Any, view: ExperimentView) -> int:
    from incl_cli.follow import DETACHED, Follower, Wanted, watch
    from incl_cli.look import outcome
    from incl_cli.summary import print_summary
    from incl_shared.ids import short

    screen = _screen(args, session)
    screen.prepare(view)
    follower = Follower(platform, view.row.id, screen, Wanted(args.rank, args.attempt, args.search))
    last = await watch(follower, screen, tail=args.tail)
    if last is None:
        session.out.note(f"\ndetached; come back: incl logs -f {short(view.row.id)}")
        return DETACHED
    if not args.json:
        print_summary(session.out, last)
    return outcome(last.row.state.value)
