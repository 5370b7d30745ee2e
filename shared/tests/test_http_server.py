"""The HTTP server of services."""

from __future__ import annotations

import asyncio
import socket

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from incl_shared.http_server import HttpServer


async def test_small_answers_are_sent_at_once() -> None:
    """A socket without TCP_NODELAY holds the second part of an answer back for 40 ms."""
    seen: list[int] = []

    async def look(request: Request) -> PlainTextResponse:
        assert server._server is not None
        for protocol in server._server.server_state.connections:
            peer: socket.socket = protocol.transport.get_extra_info("socket")
            seen.append(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return PlainTextResponse("here")

    server = HttpServer(Starlette(routes=[Route("/", look)]), "127.0.0.1", 0, "test")
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
    finally:
        await server.stop()
    assert seen == [1]
