"""uvicorn inside the loop of a service: no signal handlers, a socket bound before it starts.

For services that declare uvicorn themselves (the distribution's extra `http`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from incl_shared.errors import ConflictError


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, not to this server."""
        yield

    async def main_loop(self) -> None:
        """Wait for the end instead of looking for it ten times a second."""
        await self.on_tick(0)
        self.listening.set()
        await self.stopping.wait()


class HttpServer:
    """One ASGI application on one address.

    Args:
        application: what answers.
        host, port: where it listens; port 0 takes a free one.
        name: of the service, for its errors.
    """

    def __init__(self, application: ASGIApp, host: str, port: int, name: str) -> None:
        self._application = application
        self._name = name
        self._host, self._port = host, port
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port; the real one once it is started."""
        return self._port

    async def start(self) -> None:
        """Listen.

        Raises:
            ConflictError: the port is taken.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Named TCP: asyncio sends small answers at once (TCP_NODELAY) only where a socket says that it is TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            raise ConflictError(
                f"the {self._name} cannot listen on {self._host}:{self._port}",
                cause=error.strerror or str(error),
                hint="choose another port, or end what uses this one",
            ) from error
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._application, http="h11", ws="none", lifespan="off", log_config=None, access_log=False,
            date_header=False, server_header=False, timeout_keep_alive=30, timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name=f"{self._name} http")
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait((listening, self._task), return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Let requests end for a moment, and close."""
        server, task = self._server, self._task
        self._server = self._task = None
        if server is not None and task is not None:
            server.stopping.set()
            await task
