"""HTTP on sockets that somebody else bound, with connections that can be broken."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable
from typing import Any, ClassVar

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from incl_provisioner.fakes.gce.problems import JSON

Ends = tuple[tuple[str, int], tuple[str, int]]


class CuttableProtocol(H11Protocol):
    """uvicorn's protocol; whoever answers can find the connection that the call came by."""

    open: ClassVar[dict[Ends, asyncio.Transport]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None and self.server is not None and self.server[1] is not None:
            self._ends: Ends = (self.client, (self.server[0], self.server[1]))
            self.open[self._ends] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.pop(self._ends, None)
        super().connection_lost(exc)


def _transport(scope: Scope) -> asyncio.Transport | None:
    return CuttableProtocol.open.get((tuple(scope["client"]), tuple(scope["server"])))


def cut(scope: Scope) -> None:
    """Reset the connection: the client sees no answer."""
    transport = _transport(scope)
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        transport.abort()


def half(scope: Scope, content: bytes) -> None:
    """Half of an answer, and then the end of the connection."""
    transport = _transport(scope)
    if transport is not None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        transport.write(head.encode() + content[: len(content) // 2])
        transport.close()


async def read(receive: Receive) -> bytes:
    """The body of a request."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def closed(receive: Receive) -> None:
    """Wait for the end of the connection."""
    while (await receive())["type"] != "http.disconnect":
        continue


async def respond(
    send: Send,
    status: int,
    content: bytes,
    kind: str = "application/json; charset=UTF-8",
    more: Iterable[tuple[str, str]] = (),
) -> None:
    """An answer."""
    headers = [("content-type", kind), ("content-length", str(len(content))), *more]
    raw = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def respond_json(send: Send, status: int, body: JSON | list[Any]) -> None:
    """The same with JSON."""
    await respond(send, status, json.dumps(body).encode())


class Listeners:
    """One application on any number of sockets, in the running loop."""

    def __init__(self, application: ASGIApp) -> None:
        self._config = uvicorn.Config(
            application, interface="asgi3", proxy_headers=False, http=CuttableProtocol, ws="none", lifespan="off",
            log_config=None, access_log=False,
            date_header=False, server_header=False, timeout_keep_alive=120,
        )  # fmt: skip
        self._config.load()
        self._state = ServerState()
        self._servers: dict[socket.socket, asyncio.Server] = {}

    def _protocol(self) -> asyncio.Protocol:
        return CuttableProtocol(config=self._config, server_state=self._state, app_state={})

    async def listen(self, sock: socket.socket) -> None:
        """Answer on a socket that is bound already; it is closed with the server."""
        loop = asyncio.get_running_loop()
        self._servers[sock] = await loop.create_server(self._protocol, sock=sock, backlog=1024)

    def close(self, sock: socket.socket) -> None:
        """Answer there no more."""
        server = self._servers.pop(sock, None)
        if server is not None:
            server.close()

    async def stop(self) -> None:
        """Close everything, open connections too."""
        for sock in list(self._servers):
            self.close(sock)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        tasks = list(self._state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def bind(host: str, port: int) -> socket.socket:
    """A TCP socket on an address of this network.

    Raises:
        OSError: it is taken.
    """
    # Named TCP: asyncio sends small answers at once (TCP_NODELAY) only where a socket says that it is TCP.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
