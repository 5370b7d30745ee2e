"""Jobs whose shim died while no agent looked after them: what is left of them is killed, also without the bus.

A job is ended by its shim, or by its agent where that is dead. An agent takes its jobs up once it has reached the bus;
until then it only sees to this: who is cut off, with nobody to watch his lease, would run on while his work is given to
another machine.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from incl_agent.jobfiles import JobFiles
from incl_agent.process import ProcessHandle, boot_id, end_survivors

_log = logging.getLogger("incl.agent")
_LOOK_S = 1.0


async def end_until_cancelled(jobs: Path) -> None:
    """Look again and again; `jobs` is the folder of all jobs."""
    while True:
        try:
            await asyncio.to_thread(end_orphans, jobs)
        except Exception:  # noqa: BLE001 - the edge of the loop: the agent says it again once it takes the job up
            _log.exception("jobs without a shim could not be looked for")
        await asyncio.sleep(_LOOK_S)


def end_orphans(jobs: Path) -> int:
    """How many processes were killed."""
    count = 0
    for path in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        files = JobFiles(path)
        shim = files.shim()
        if shim is None or shim.boot != boot_id():
            continue
        handle = ProcessHandle.open(shim)
        if handle is not None:
            handle.close()
        if handle is not None or files.exit() is not None:
            continue
        killed = end_survivors(shim.pid, shim.start, f"INCL_JOB={path.name}")
        if killed:
            _log.error("the shim of job %s had died; %d processes of it were killed", path.name, killed)
        count += killed
    return count
