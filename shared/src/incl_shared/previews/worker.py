"""The process that looks into what jobs wrote: `python -I -m incl_shared.previews.worker <socket>`.

One request at a time: a byte (i: image, t: table) with the file's descriptor. One answer: a line of JSON with the
length of the data that follows. It ends with its socket. Memory is limited, so that a bomb ends this process alone;
the time is limited by the one who asks, who kills it.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from typing import Any, Final

from incl_shared.previews.images import thumbnail
from incl_shared.previews.tables import first_rows

MEMORY_BYTES: Final = 1 << 30
"""Of address space beyond what the process has at its start."""


def main(descriptor: int) -> int:
    """Answer until the socket is closed."""
    door = socket.socket(fileno=descriptor)
    _limit()
    while True:
        kind, received, _, _ = socket.recv_fds(door, 1, 1)
        if not kind or len(received) != 1:
            return 0
        answer = _answer(kind, received[0])
        data = answer.pop("data", None)
        head = answer | {"length": -1 if data is None else len(data)}
        door.sendall(json.dumps(head).encode() + b"\n" + (data or b""))


def _answer(kind: bytes, descriptor: int) -> dict[str, Any]:
    with os.fdopen(descriptor, "rb") as source:
        try:
            source.seek(0)
            return thumbnail(source) if kind == b"i" else first_rows(source)
        except (Exception, MemoryError) as error:  # noqa: BLE001 - whatever is wrong with it, the next one is another
            return {"error": f"{type(error).__name__}: {error}"[:300]}


def _limit() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(10)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
