"""`incl down`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from incl_local.layout import Layout, default_data
from incl_local.running import STOP_PATIENCE_S, end_leftovers, find
from incl_shared.errors import NotFoundError


def run(arguments: argparse.Namespace) -> int:
    """Stop the platform of a data folder, and say what goes on."""
    layout = Layout((arguments.data or default_data()).absolute())
    began = time.monotonic()
    try:
        running = find(layout)
    except NotFoundError:
        left = end_leftovers(layout)
        if not left:
            raise
        return _say(arguments, f"stopped what was left: {', '.join(left)}", 0, began)
    politely = running.identity.stop(STOP_PATIENCE_S)
    end_leftovers(layout)
    jobs = jobs_alive(layout)
    note = "" if politely else " (it did not listen and was killed; nothing is lost)"
    return _say(arguments, f"the platform is stopped{note}", jobs, began)


def jobs_alive(layout: Layout) -> int:
    """How many jobs go on without the platform."""
    from incl_agent.jobfiles import JobFiles

    folders = (layout.agent / "jobs").glob("*/") if layout.agent.exists() else ()
    shims = [JobFiles(folder).shim() for folder in folders]
    return sum(1 for shim in shims if shim is not None and shim.alive())


def _say(arguments: argparse.Namespace, text: str, jobs: int, began: float) -> int:
    seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps({"stopped": True, "jobs": jobs, "seconds": round(seconds, 3)}))
        return 0
    sys.stderr.write(f"{text} ({seconds:.1f} s)\n")
    if jobs:
        plural = "job goes" if jobs == 1 else "jobs go"
        sys.stderr.write(f"{jobs} {plural} on and will be found again by: incl up\n")
    return 0
