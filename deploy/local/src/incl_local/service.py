"""One service in a process of its own: `python -m incl_local.service NAME --data DIR` (see `incl up --processes`)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from incl_local.ops import serve
from incl_local.place import SERVICE_NAMES, Place
from incl_local.services import build
from incl_shared.errors import InclError
from incl_shared.logs import setup_logs


async def run(name: str, root: Path) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    place = Place.load(root)
    app = build(name, place)
    await app.start()
    async with contextlib.AsyncExitStack() as undo:
        undo.push_async_callback(app.stop)
        await undo.enter_async_context(serve({name: app}, place.ops_port(name)))
        await stop.wait()


def main(arguments: list[str]) -> int:
    """Parse, and run."""
    parser = argparse.ArgumentParser(prog="incl_local.service")
    parser.add_argument("name", choices=SERVICE_NAMES)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args(arguments)
    setup_logs(json_lines=True)
    try:
        asyncio.run(run(given.name, given.data))
    except InclError as error:
        sys.stderr.write(f"error: {error.message}\ncause: {error.cause}\nhint: {error.hint}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
