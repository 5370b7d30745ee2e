"""The HTTP API. Small on purpose: who am I, tokens, and a bus credential in exchange for a token."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from incl_gateway.door import AGENT_PATH, ENROLL_PATH, Authenticate, Door, Principal, problem_body
from incl_gateway.handlers import Handlers
from incl_gateway.signer import Signer
from incl_shared.clock import Clock
from incl_shared.errors import DeniedError, ErrorEnvelope, InclError, InternalError, NotFoundError
from incl_shared.ids import Token
from incl_shared.queries.gateway import CreateToken, Me, NewToken, TokenList

_log = structlog.get_logger("incl.gateway")
_ONE_TIME = re.compile(r"[A-Za-z0-9_-]{16,200}")
_PROBLEM = "application/problem+json"


class Health(BaseModel):
    """Whether the gateway can do its work."""

    status: str


class TokenWish(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    label: str = Field("", max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")
    ttl_s: float | None = Field(CreateToken.model_fields["ttl_s"].default, gt=0, le=3_660 * 86_400.0)


class CredentialWish(BaseModel):
    """A bus credential to make: for these projects (all of one's own by default), for so many seconds at most."""

    model_config = ConfigDict(extra="forbid")

    projects: tuple[str, ...] | None = Field(None, max_length=100)
    ttl_s: float | None = Field(None, gt=0)


class BusLogin(BaseModel):
    """Everything that a command line needs to reach the bus. `creds` is the text of a .creds file, and secret."""

    user: str
    projects: tuple[str, ...]
    urls: tuple[str, ...]
    creds: str
    inbox_prefix: str
    expires: float = Field(description="Seconds since the epoch.")


class NodeWish(BaseModel):
    """A machine that was made for an experiment, and the public key that it made."""

    model_config = ConfigDict(extra="ignore")

    node: Token
    key: str = Field(pattern=r"^U[A-Z2-7]{55}$")
    protocol: int = Field(0, ge=0)


class NodeLogin(BaseModel):
    """The credential of a machine, to be used with its own seed. Its end in seconds since the epoch."""

    jwt: str
    expires: float


def principal_of(request: Request) -> Principal:
    """Who was let in by the door."""
    principal = request.scope.get("state", {}).get("principal")
    if not isinstance(principal, Principal):
        raise InternalError("a route was reached without the authorisation door")
    return principal


Who = Annotated[Principal, Depends(principal_of)]


def create_api(
    handlers: Handlers,
    signer: Signer,
    authenticate: Authenticate,
    *,
    urls: tuple[str, ...],
    person_ttl: float,
    clock: Clock,
    healthy: Callable[[], bool],
    agent: Path | None = None,
) -> tuple[FastAPI, ASGIApp]:
    """(the routes, the application with the door around them). agent: the archive that machines of a cloud fetch."""
    api = FastAPI(title="INCL", version="1", docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json")
    _errors(api)
    _token_routes(api, handlers)
    _machine_routes(api, signer, agent)

    @api.get("/healthz")
    async def healthz(response: Response) -> Health:
        """Whether the gateway reaches the bus and its database."""
        if healthy():
            return Health(status="ok")
        response.status_code = 503
        return Health(status="unavailable")

    @api.get("/api/v1/whoami")
    async def whoami(who: Who) -> Me:
        """The user that the token stands for, and its projects."""
        return Me(user=who.user, projects=who.projects)

    @api.post("/api/v1/credentials", status_code=201)
    async def credentials(wish: CredentialWish, who: Who) -> BusLogin:
        """Exchange the token for a bus credential, which lives no longer than the token."""
        projects = who.projects if wish.projects is None else wish.projects
        foreign = sorted(set(projects) - set(who.projects))
        if foreign or not projects:
            raise DeniedError(f"{who.user} is no member of the project {foreign[0] if foreign else '(none)'}")
        ttl = min(wish.ttl_s or person_ttl, person_ttl)
        if who.expires is not None:
            ttl = min(ttl, who.expires - clock.now())
        made = await signer.person(who.user, tuple(projects), ttl)
        return BusLogin(
            user=who.user,
            projects=tuple(projects),
            urls=urls,
            creds=made.text,
            inbox_prefix=made.inbox,
            expires=made.expires or clock.now() + ttl,
        )

    return api, Door(api, authenticate)


def _token_routes(api: FastAPI, handlers: Handlers) -> None:
    @api.get("/api/v1/tokens")
    async def list_tokens(who: Who) -> TokenList:
        """One's own tokens."""
        return await handlers.tokens_of(who.user)

    @api.post("/api/v1/tokens", status_code=201)
    async def create_token(wish: TokenWish, who: Who) -> NewToken:
        """A new token of one's own, shown this once."""
        return await handlers.new_token(who.user, wish.label, wish.ttl_s)

    @api.delete("/api/v1/tokens/{token}", status_code=204)
    async def revoke_token(token: str, who: Who) -> None:
        """Revoke a token of one's own, by its id or how it begins."""
        await handlers.revoke(who.user, token)


def _machine_routes(api: FastAPI, signer: Signer, agent: Path | None) -> None:
    @api.post(ENROLL_PATH, status_code=201)
    async def enroll(wish: NodeWish, authorization: Annotated[str, Header()] = "") -> NodeLogin:
        """Trade the token of a machine that a cloud has made for a credential of its own."""
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not _ONE_TIME.fullmatch(token.strip()):
            raise DeniedError("a machine's token is needed", hint="it is in the metadata of the machine")
        jwt, expires = await signer.enroll(wish.node, wish.key, token.strip(), wish.protocol)
        return NodeLogin(jwt=jwt, expires=expires)

    @api.get(AGENT_PATH)
    def archive() -> FileResponse:
        """The agent, as machines of a cloud unpack it. There is no secret in it; its sha256 is what they check."""
        if agent is None or not agent.is_file():
            raise NotFoundError("there is no archive of the agent here", hint="set INCL_GATEWAY_AGENT_ARCHIVE")
        return FileResponse(agent, media_type="application/gzip")


def _errors(api: FastAPI) -> None:
    @api.exception_handler(InclError)
    async def known(request: Request, error: InclError) -> Response:
        return _problem(error.http_status, error.envelope())

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return _problem(422, ErrorEnvelope(code="invalid_input", message=f"{where}: {first['msg']}"))

    @api.exception_handler(HTTPException)
    async def routed(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "error")
        return _problem(error.status_code, ErrorEnvelope(code=code, message=str(error.detail)))

    @api.exception_handler(Exception)
    async def unknown(request: Request, error: Exception) -> Response:
        _log.error("a request failed", path=request.url.path, exc_info=error)
        return _problem(500, InternalError("the gateway failed", hint="see the gateway's log").envelope())


def _problem(status: int, problem: ErrorEnvelope) -> Response:
    return Response(problem_body(status, problem), status, media_type=_PROBLEM)
