"""incl stop."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session
    from incl_shared.queries.tracker import ExperimentView

EXAMPLES = """  incl stop @last
  incl stop 3f9k2x7q 8d2mz0aa --wait
  incl stop @last --reason 'loss is NaN'"""
_POLL_S = 0.5


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("experiment", nargs="+", help="id, the end of one, name, @last, @last~2")
    parser.add_argument("--reason", default="", help="why; shown with the experiment")
    parser.add_argument("--wait", action="store_true", help="until they have stopped")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


async def run(args: argparse.Namespace, session: Session) -> int:
    """Ask for each to stop. One that cannot be stopped is a conflict (exit 5), after the others were stopped."""
    from incl_cli.look import find_all
    from incl_shared.errors import ConflictError
    from incl_shared.events import StopRequested
    from incl_shared.ids import new_id, short
    from incl_shared.states import FINAL_STATES

    platform = await session.platform(args.project)
    views = await find_all(platform, args.experiment)
    over = [view for view in views if view.row.state in FINAL_STATES]
    outside = [view for view in views if view.outside and view not in over]
    going = [view for view in views if view not in over and view not in outside]
    for view in going:
        await platform.publish(StopRequested(experiment=view.row.id, reason=args.reason[:1000]), identifier=new_id())
        session.out.note(f"{short(view.row.id)} {view.row.name}: asked to stop")
    ended = [await _wait(platform, view) for view in going] if args.wait else going
    if args.json:
        session.out.json([{"id": view.row.id, "state": view.row.state.value} for view in [*ended, *over, *outside]])
    elif args.wait:
        for view in ended:
            session.out.note(f"{short(view.row.id)} {view.row.name}: {view.row.state.value}")
    elif going:
        session.out.note(f"see it end: incl logs -f {short(going[0].row.id)}", "dim")
    if over:
        view = over[0]
        raise ConflictError(
            f"{short(view.row.id)} is {view.row.state.value} already; there is nothing to stop",
            hint=f"incl show {short(view.row.id)}",
        )
    if outside:
        raise ConflictError(
            f"{short(outside[0].row.id)} runs outside the platform, which cannot stop it",
            hint="end its process where it runs; without word from it, it is lost after a time",
        )
    return 0


async def _wait(platform: Any, view: ExperimentView) -> ExperimentView:
    from incl_shared.queries.tracker import GetExperiment
    from incl_shared.states import FINAL_STATES

    changed = asyncio.Event()
    unwatch = await platform.watch(view.row.id, lambda payload: changed.set())
    started = time.monotonic()
    try:
        while view.row.state not in FINAL_STATES:
            view = await platform.ask(GetExperiment(ref=view.row.id))
            if view.row.state not in FINAL_STATES:
                changed.clear()
                pause = _POLL_S if time.monotonic() - started < 30 else 5.0
                await asyncio.wait({asyncio.ensure_future(changed.wait())}, timeout=pause)
    finally:
        await unwatch()
    return view
