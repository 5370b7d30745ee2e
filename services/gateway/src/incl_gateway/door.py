"""The one authorisation door of the HTTP API: nothing behind it runs before a token has been recognised."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from incl_gateway import store, tokens
from incl_shared.db import Database
from incl_shared.errors import ErrorEnvelope, InclError

_log = structlog.get_logger("incl.gateway")
ENROLL_PATH = "/api/v1/nodes/enroll"
AGENT_PATH = "/agent.tar.gz"
OPEN_PATHS = frozenset({"/healthz", AGENT_PATH})
"""What anybody may ask. Everything else, whether it exists or not, needs a token."""
OWN_PATHS = frozenset({ENROLL_PATH})
"""What asks for another kind of token, by itself."""
MAX_BODY = 64 * 1024


@dataclass(frozen=True)
class Principal:
    """Who a request comes from. `expires` is the end of its token (seconds since the epoch; none: no end)."""

    user: str
    projects: tuple[str, ...]
    token: str
    expires: float | None


Authenticate = Callable[[str], Awaitable[Principal | None]]


class Authenticator:
    """Recognises tokens by their hash."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def __call__(self, token: str) -> Principal | None:
        """Who a token stands for, or none."""
        if not tokens.well_formed(token):
            return None
        found = await self._database.read(lambda c: store.token_by_hash(c, tokens.digest(token)))
        now = self._database.clock.now()
        if found is None or not tokens.valid(now, expires=found[1].expires, revoked=found[1].revoked):
            return None
        user, view = found
        if store.needs_touch(view, now):
            await self._database.write(lambda tx: store.touch_token(tx, view.id))
        projects = await self._database.read(lambda c: store.projects_of(c, user))
        return Principal(user, projects, view.id, view.expires)


class Door:
    """ASGI middleware around the whole application. It also gives every error the form of RFC 9457."""

    def __init__(self, app: ASGIApp, authenticate: Authenticate) -> None:
        self._app = app
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let through what is open or has a valid token."""
        if scope["type"] != "http":
            return
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = {bytes(key).lower(): bytes(value) for key, value in scope["headers"]}
        if scope["path"] in OWN_PATHS and _small(headers):
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._recognise(headers)
        except InclError as error:
            await send_problem(send, error.http_status, error.envelope())
            return
        if principal is None:
            hint = "send the header `Authorization: Bearer <token>`; make a token with: incl token create"
            problem = ErrorEnvelope(code="unauthenticated", message="a valid API token is needed", hint=hint)
            await send_problem(send, 401, problem, ((b"www-authenticate", b'Bearer realm="incl"'),))
            return
        if not _small(headers):
            problem = ErrorEnvelope(
                code="too_large", message=f"a request has at most {MAX_BODY} bytes, and says how many"
            )
            await send_problem(send, 413, problem)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)

    async def _recognise(self, headers: dict[bytes, bytes]) -> Principal | None:
        kind, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        return await self._authenticate(token.strip()) if kind.lower() == "bearer" else None


def _small(headers: dict[bytes, bytes]) -> bool:
    if b"transfer-encoding" in headers:
        return False
    length = headers.get(b"content-length", b"0")
    return length.isdigit() and int(length) <= MAX_BODY


def problem_body(status: int, problem: ErrorEnvelope) -> bytes:
    """application/problem+json (RFC 9457) of an error."""
    body = {
        "type": f"urn:incl:error:{problem.code}",
        "title": problem.message,
        "status": status,
        "detail": problem.cause or problem.message,
        **problem.model_dump(),
    }
    return json.dumps(body).encode()


async def send_problem(
    send: Send, status: int, problem: ErrorEnvelope, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Answer with a problem."""
    body = problem_body(status, problem)
    start = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
