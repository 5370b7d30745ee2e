"""The side that asks: keeps one worker process, bounds its time, and lives on whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

_log = logging.getLogger("incl.previews")
_MOST_BYTES: Final = 1 << 16
_USES: Final = 1000
"""Previews of one worker: then another takes its place, whatever its libraries have kept."""
_INHERITED: Final = ("LD_LIBRARY_PATH", "PATH")
Kind = Literal["image", "table"]
FORMATS: Final = frozenset({"webp", "png", "jpeg", "gif", "json"})


@dataclass(frozen=True, slots=True)
class Preview:
    """A thumbnail and what it is of. data is none where the file is its own thumbnail. width, height: pixels."""

    format: str
    data: bytes | None
    width: int | None = None
    height: int | None = None
    rows: int | None = None
    columns: int | None = None


class PreviewMaker:
    """Makes previews, one at a time. No process exists before the first one, nor after `close`.

    Args:
        timeout_s: for one preview; a worker that takes longer is killed, and the file has none.
        idle_s: how long a worker without work is kept.

    `made` and `failed` count.
    """

    def __init__(self, timeout_s: float = 10.0, idle_s: float = 30.0) -> None:
        self.made = 0
        self.failed = 0
        self._timeout = timeout_s
        self._idle = idle_s
        self._worker: _Worker | None = None
        self._lock = threading.Lock()
        self._reaper: threading.Timer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="incl-preview")

    async def of(self, kind: Kind, descriptor: int) -> Preview | None:
        """The preview of an open file; none when there can be none. The descriptor stays the caller's."""
        own = os.dup(descriptor)
        try:
            work = self._thread.submit(self._make, kind, own)
        except RuntimeError:  # closed meanwhile
            os.close(own)
            return None
        work.add_done_callback(lambda done: os.close(own) if done.cancelled() else None)
        return await asyncio.shield(asyncio.wrap_future(work))

    def make(self, kind: Kind, descriptor: int) -> Preview | None:
        """The same; blocks."""
        return self._make(kind, os.dup(descriptor))

    def close(self) -> None:
        """End the worker."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        worker = self._worker
        if worker is not None:
            worker.kill()  # whoever waits for it waits no longer
        self._let_go()

    def _make(self, kind: Kind, descriptor: int) -> Preview | None:
        try:
            with self._lock:
                preview = self._ask(kind, descriptor)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.failed += 1
            _log.warning("no preview of this %s: %s", kind, error or type(error).__name__)
            return None
        finally:
            os.close(descriptor)
        self.made += 1
        return preview

    def _ask(self, kind: Kind, descriptor: int) -> Preview:
        if self._reaper is not None:
            self._reaper.cancel()
        worker = self._worker
        if worker is None or worker.uses >= _USES or worker.process.poll() is not None:
            self._end()
            worker = self._worker = _Worker()
        try:
            answer, data = worker.ask(kind, descriptor, time.monotonic() + self._timeout)
        except BaseException:
            self._end()
            raise
        self._reaper = threading.Timer(self._idle, self._let_go)
        self._reaper.daemon = True
        self._reaper.start()
        if "error" in answer:
            raise ValueError(str(answer["error"])[:300])
        if answer["format"] not in FORMATS:
            raise ValueError("an unknown format")
        facts = {name: _count(answer.get(name)) for name in ("width", "height", "rows", "columns")}
        return Preview(format=str(answer["format"]), data=data, **facts)

    def _let_go(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        if worker is not None:
            worker.end()


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


class _Worker:
    """The process, and a socket to it."""

    def __init__(self) -> None:
        self.uses = 0
        self._door, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with other:
            command = [sys.executable, "-I", "-m", "incl_shared.previews.worker", str(other.fileno())]
            self.process = subprocess.Popen(
                command,
                pass_fds=(other.fileno(),),
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ask(self, kind: Kind, descriptor: int, deadline: float) -> tuple[dict[str, Any], bytes | None]:
        """The answer's fields and data.

        Raises:
            OSError, ValueError: it died, or was too slow, or answers nonsense.
        """
        self.uses += 1
        self._door.settimeout(max(0.01, deadline - time.monotonic()))
        socket.send_fds(self._door, [kind[0].encode()], [descriptor])
        received = bytearray()
        while b"\n" not in received:
            self._more(received, deadline)
        line, _, rest = bytes(received).partition(b"\n")
        answer = json.loads(line)
        length = answer.get("length", -1) if isinstance(answer, dict) else None
        if type(length) is not int or length > _MOST_BYTES:
            raise ValueError("the preview is too large")
        if length < 0:
            return answer, None
        received = bytearray(rest)
        while len(received) < length:
            self._more(received, deadline)
        return answer, bytes(received[:length])

    def _more(self, received: bytearray, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it took too long")
        self._door.settimeout(left)
        piece = self._door.recv(65_536)
        if not piece:
            raise ConnectionError("the process that looked into it died (too much memory, or a fault of its decoder)")
        received += piece
        if len(received) > 2 * _MOST_BYTES:
            raise ValueError("the preview is too large")

    def end(self) -> None:
        """Kill it, which is the quickest: it holds nothing."""
        self.kill()
        self.process.wait()
        self._door.close()

    def kill(self) -> None:
        """The same, without waiting for it."""
        with contextlib.suppress(OSError):
            self.process.kill()
