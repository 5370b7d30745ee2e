"""A gate before the artifact store: requests that match are held until somebody opens it. For tests.

It holds code that is uploaded or fetched, checkpoints and outputs where they are, for as long as a fault takes. It
listens on the loopback and hands every request on; INCL_REGISTRY_PUBLIC_URL=<url of the gate> puts it into the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from incl_local.layout import LOOPBACK

_HEAD_MOST = 64 * 1024
_PIECE = 256 * 1024
_START_S = 10.0
_LOOK_S = 0.05


@dataclass(eq=False)
class Hold:
    """Requests that are held. matches: of the first line of a request, such as `PUT /blobs/…?size=7 HTTP/1.1`."""

    matches: Callable[[str], bool]
    seen: threading.Event = field(default_factory=threading.Event)
    """Set once a request is held."""
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    answered: threading.Event = field(default_factory=threading.Event)
    """Set once a request that was held has its answer, or its connection is cut."""


class Gate:
    """The gate, in a thread of its own. The store behind it may go and come meanwhile."""

    def __init__(self, port: int = 0) -> None:
        self._store = 0
        self._holds: list[Hold] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(port,), name="gate", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Listen."""
        self._thread.start()
        assert self._ready.wait(_START_S), "the gate did not open its port"

    def stop(self) -> None:
        """Cut everything that is under way."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)

    def lead_to(self, port: int) -> None:
        """Where the store listens, on the loopback."""
        self._store = port

    @property
    def url(self) -> str:
        """What others take for the store."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def busy(self) -> int:
        """Requests that are held or under way."""
        return len(self._tasks)

    def hold(self, matches: Callable[[str], bool]) -> Hold:
        """Hold requests from now on."""
        made = Hold(matches)
        self._holds.append(made)
        return made

    def release(self, *holds: Hold) -> None:
        """Let what these hold go on; all of them without any named."""
        for hold in holds or tuple(self._holds):
            with contextlib.suppress(ValueError):
                self._holds.remove(hold)
            self._loop.call_soon_threadsafe(hold.opened.set)

    @contextlib.contextmanager
    def running(self) -> Iterator[Gate]:
        """Started, and stopped at the end."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _run(self, port: int) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, LOOPBACK, port, limit=_HEAD_MOST))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: the answer closes it."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)  # asyncio itself holds tasks and readers weakly
        upstream: asyncio.StreamWriter | None = None
        holds: list[Hold] = []
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line = head.split(b"\r\n", 1)[0].decode("latin-1")
            holds = [hold for hold in self._holds if hold.matches(line)]
            for hold in holds:
                hold.seen.set()
                if not await _opened(hold, reader):
                    return
            answer, upstream = await asyncio.open_connection(LOOPBACK, self._store)
            upstream.write(_once(head))
            await asyncio.gather(_pipe(reader, upstream, _length(head)), _pipe(answer, writer, None))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # either side went away: the other one sees it
        finally:
            for end in (writer, upstream):
                if end is not None:
                    end.close()
            self._tasks.discard(task)
            for hold in holds:
                if hold.opened.is_set():
                    hold.answered.set()


async def _opened(hold: Hold, client: asyncio.StreamReader) -> bool:
    """Wait at the gate; False: the client gave up meanwhile, and nothing of its request goes on."""
    while not hold.opened.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hold.opened.wait(), _LOOK_S)
        if client.at_eof():
            return False
    return True


def _once(head: bytes) -> bytes:
    """The head of a request, asking for the connection to be closed after the answer."""
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


async def _pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter, count: int | None) -> None:
    """So many bytes, or all until the end."""
    left = count
    while left is None or left > 0:
        piece = await source.read(_PIECE if left is None else min(left, _PIECE))
        if not piece:
            return
        left = None if left is None else left - len(piece)
        target.write(piece)
        await target.drain()
