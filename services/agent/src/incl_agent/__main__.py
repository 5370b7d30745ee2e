"""`python -m incl_agent`: one agent, until SIGTERM or SIGINT. Settings from the environment (INCL_AGENT_…)."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from incl_agent.app import serve
from incl_shared.errors import InclError


async def _main() -> None:
    task = asyncio.ensure_future(serve())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        asyncio.run(_main())
    except InclError as error:
        logging.getLogger("incl.agent").critical("%s; %s", error, error.hint)
        sys.exit(error.exit_code)
