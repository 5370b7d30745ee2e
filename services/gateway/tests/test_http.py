"""The HTTP API over a real socket: one door before every route, problems as the answer to what is wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from fastapi.routing import APIRoute

from incl_gateway.door import AGENT_PATH, ENROLL_PATH, MAX_BODY, OPEN_PATHS, OWN_PATHS, Authenticator
from incl_gateway.handlers import Handlers
from incl_gateway.http import create_api
from incl_gateway.signer import Signer
from incl_gateway.tables import members
from incl_shared.auth import jwt
from incl_shared.auth.creds import creds_text, parse_info
from incl_shared.auth.names import Role
from incl_shared.db import Database
from incl_shared.errors import ConflictError
from incl_shared.http_server import HttpServer
from incl_shared.queries.gateway import CreateToken, ListTokens, WhoAmI
from incl_shared.subjects import Asker
from incl_shared.testing.clock import FakeClock

from .conftest import FakeWorld

ANN = Asker("default", "ann")
URLS = ("nats://127.0.0.1:4222",)


class Site:
    """The API as it listens."""

    def __init__(self, handlers: Handlers, signer: Signer, database: Database, clock: FakeClock, agent: Path) -> None:
        self.healthy = True
        self.routes, app = create_api(
            handlers, signer, Authenticator(database), urls=URLS, person_ttl=86_400, clock=clock,
            healthy=lambda: self.healthy, agent=agent,
        )  # fmt: skip
        self.server = HttpServer(app, "127.0.0.1", 0, "gateway")


@pytest.fixture
async def site(
    handlers: Handlers, signer: Signer, database: Database, fake_clock: FakeClock, tmp_path: Path
) -> AsyncIterator[Site]:
    site = Site(handlers, signer, database, fake_clock, tmp_path / "agent.tar.gz")
    await site.server.start()
    yield site
    await site.server.stop()


@pytest.fixture
async def http(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{site.server.port}", trust_env=False, verify=False
    ) as client:
        yield client


async def bearer(handlers: Handlers, ttl: float | None = 3600) -> dict[str, str]:
    made = await handlers.create_token(ANN, CreateToken(label="test", ttl_s=ttl))
    return {"Authorization": f"Bearer {made.token.get_secret_value()}"}


def problem(answer: httpx.Response, status: int) -> str:
    """The code of a problem, once its form is seen to be right."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    return str(body["code"])


async def test_every_route_but_health_is_behind_the_door(site: Site, http: httpx.AsyncClient) -> None:
    paths = {
        (str(method), str(getattr(route, "path", "")))
        for route in site.routes.routes
        for method in getattr(route, "methods", None) or ()
    }
    paths |= {("GET", "/"), ("GET", "/docs"), ("GET", "/api/v1/nothing"), ("OPTIONS", "/api/v1/tokens"),
              ("GET", "/healthz/"), ("GET", "//healthz"), ("GET", "/healthz/../api/v1/whoami")}  # fmt: skip
    behind = {(method, path) for method, path in paths if path not in OPEN_PATHS | OWN_PATHS}
    assert len([route for route in site.routes.routes if isinstance(route, APIRoute)]) >= 6
    assert len(behind) >= 12
    for method, path in behind:
        for headers in ({}, {"Authorization": "Bearer incl_" + "x" * 43}, {"Authorization": "Basic YTpi"}):
            answer = await http.request(method, path.replace("{token}", "abcd"), headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "access-control-allow-origin" not in answer.headers
            if method != "HEAD":
                assert problem(answer, 401) == "unauthenticated"


async def test_health_is_open_and_true(site: Site, http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json() == {"status": "ok"}
    site.healthy = False
    assert (await http.get("/healthz")).status_code == 503


async def test_a_token_says_who_one_is(http: httpx.AsyncClient, handlers: Handlers) -> None:
    headers = await bearer(handlers)
    assert (await http.get("/api/v1/whoami", headers=headers)).json() == {
        "user": "ann",
        "projects": ["default", "vision"],
    }
    lower = {"authorization": headers["Authorization"].replace("Bearer", "bearer")}
    assert (await http.get("/api/v1/whoami", headers=lower)).status_code == 200


async def test_tokens_are_made_listed_and_revoked(http: httpx.AsyncClient, handlers: Handlers) -> None:
    headers = await bearer(handlers)
    made = (await http.post("/api/v1/tokens", headers=headers, json={"label": "laptop", "ttl_s": 60})).json()
    other = {"Authorization": f"Bearer {made['token']}"}
    listed = (await http.get("/api/v1/tokens", headers=other)).json()["tokens"]
    assert {one["label"] for one in listed} == {"laptop", "test"}
    assert made["token"] not in (await http.get("/api/v1/tokens", headers=other)).text
    assert (await http.delete(f"/api/v1/tokens/{made['view']['id']}", headers=headers)).status_code == 204
    assert problem(await http.get("/api/v1/whoami", headers=other), 401) == "unauthenticated"
    assert (await http.get("/api/v1/whoami", headers=headers)).status_code == 200
    assert problem(await http.delete("/api/v1/tokens/nothing", headers=headers), 404) == "not_found"


async def test_a_token_ends(http: httpx.AsyncClient, handlers: Handlers, fake_clock: FakeClock) -> None:
    headers = await bearer(handlers, ttl=100)
    fake_clock.advance(99)
    assert (await http.get("/api/v1/whoami", headers=headers)).status_code == 200
    fake_clock.advance(2)
    assert problem(await http.get("/api/v1/whoami", headers=headers), 401) == "unauthenticated"


async def test_a_token_is_exchanged_for_a_credential(
    http: httpx.AsyncClient, handlers: Handlers, fake_clock: FakeClock
) -> None:
    headers = await bearer(handlers, ttl=1000)
    login = (await http.post("/api/v1/credentials", headers=headers, json={})).json()
    info = parse_info(login["creds"])
    assert (info.name, info.projects, info.role) == ("ann", ("default", "vision"), "person")
    assert login["urls"] == list(URLS)
    assert login["inbox_prefix"] == info.inbox
    assert info.expires == login["expires"] == int(fake_clock.now() + 1000)
    short = await http.post("/api/v1/credentials", headers=headers, json={"projects": ["vision"], "ttl_s": 60})
    assert parse_info(short.json()["creds"]).projects == ("vision",)
    assert short.json()["expires"] == int(fake_clock.now() + 60)


@pytest.mark.parametrize("projects", [["other"], ["vision", "other"], [], ["*"], ["_nodes"]])
async def test_no_credential_for_anothers_project(
    http: httpx.AsyncClient, handlers: Handlers, projects: list[str]
) -> None:
    answer = await http.post("/api/v1/credentials", headers=await bearer(handlers), json={"projects": projects})
    assert problem(answer, 403) == "denied"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"ttl_s": -1}', b'{"unknown": 1}', b'{"projects": [1]}'])
async def test_what_is_not_understood_is_a_problem(http: httpx.AsyncClient, handlers: Handlers, body: bytes) -> None:
    headers = {**await bearer(handlers), "Content-Type": "application/json"}
    answer = await http.post("/api/v1/credentials", headers=headers, content=body)
    assert problem(answer, 422) == "invalid_input"


async def test_large_bodies_and_unknown_routes(http: httpx.AsyncClient, handlers: Handlers) -> None:
    headers = await bearer(handlers)
    large = await http.post("/api/v1/tokens", headers=headers, content=b"x" * 100_000)
    assert problem(large, 413) == "too_large"
    assert problem(await http.get("/api/v1/nothing", headers=headers), 404) == "not_found"
    assert problem(await http.put("/api/v1/tokens", headers=headers), 405) == "method_not_allowed"
    assert "paths" in (await http.get("/api/v1/openapi.json", headers=headers)).json()


async def test_a_database_that_is_away_is_a_503(
    http: httpx.AsyncClient, handlers: Handlers, database: Database
) -> None:
    headers = await bearer(handlers)
    await database.stop()
    assert problem(await http.get("/api/v1/whoami", headers=headers), 503) == "unavailable"


async def test_the_use_of_a_token_is_noted(handlers: Handlers, http: httpx.AsyncClient, fake_clock: FakeClock) -> None:
    headers = await bearer(handlers)
    assert (await handlers.list_tokens(ANN, ListTokens())).tokens[0].used is None
    await http.get("/api/v1/whoami", headers=headers)
    first = (await handlers.list_tokens(ANN, ListTokens())).tokens[0].used
    assert first == fake_clock.now()
    fake_clock.advance(30)
    await http.get("/api/v1/whoami", headers=headers)
    assert (await handlers.list_tokens(ANN, ListTokens())).tokens[0].used == first


async def test_who_leaves_a_project_loses_it_at_once(
    http: httpx.AsyncClient, handlers: Handlers, database: Database
) -> None:
    headers = await bearer(handlers)
    gone = sa.delete(members).where(members.c.user == "ann", members.c.project == "vision")
    await database.write(lambda tx: tx.connection.execute(gone))
    assert (await http.get("/api/v1/whoami", headers=headers)).json()["projects"] == ["default"]
    assert (await handlers.whoami(ANN, WhoAmI())).projects == ("default",)


async def test_a_port_that_is_taken_is_said(site: Site) -> None:
    with pytest.raises(ConflictError, match="cannot listen"):
        await HttpServer(site.routes, "127.0.0.1", site.server.port, "gateway").start()


async def test_a_machine_trades_its_token_for_a_credential_of_its_own_key(
    http: httpx.AsyncClient, world: FakeWorld
) -> None:
    token, key = "t" * 43, jwt.Key.new(jwt.USER)
    world.machines["vm-1", token] = 600.0
    headers = {"Authorization": f"Bearer {token}"}
    newer = {"node": "vm-1", "key": key.public, "protocol": 7, "of_the_future": True}
    made = await http.post(ENROLL_PATH, headers=headers, json=newer)
    assert made.status_code == 201, made.text
    assert world.spoken == [7]
    info = parse_info(creds_text(made.json()["jwt"], key.seed))
    assert (info.role, info.name, info.expires) == (Role.NODE, "vm-1", made.json()["expires"])
    assert key.seed not in made.text


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, {}, 403),
        ({"Authorization": "Basic YTpi"}, {}, 403),
        ({"Authorization": "Bearer " + "x" * 43}, {}, 403),
        ({"Authorization": "Bearer short"}, {}, 403),
        ({"Authorization": "Bearer " + "t" * 43}, {"node": "vm-2"}, 403),
        ({"Authorization": "Bearer " + "t" * 43}, {"node": "a.b"}, 422),
        ({"Authorization": "Bearer " + "t" * 43}, {"node": "*"}, 422),
        ({"Authorization": "Bearer " + "t" * 43}, {"key": "SUAB"}, 422),
        ({"Authorization": "Bearer " + "t" * 43}, {"protocol": -1}, 422),
    ],
)
async def test_another_token_or_machine_is_refused(
    http: httpx.AsyncClient, world: FakeWorld, headers: dict[str, str], body: dict[str, object], status: int
) -> None:
    world.machines["vm-1", "t" * 43] = 600.0
    wish = {"node": "vm-1", "key": jwt.Key.new(jwt.USER).public, **body}
    answer = await http.post(ENROLL_PATH, headers=headers, json=wish)
    problem(answer, status)
    assert answer.json()["message"]


async def test_a_large_body_is_no_enrolment(http: httpx.AsyncClient) -> None:
    answer = await http.post(ENROLL_PATH, content=b"x" * (MAX_BODY + 1))
    problem(answer, 401)


async def test_the_agent_is_there_for_all_machines(http: httpx.AsyncClient, tmp_path: Path) -> None:
    problem(await http.get(AGENT_PATH), 404)
    (tmp_path / "agent.tar.gz").write_bytes(b"an archive")
    answer = await http.get(AGENT_PATH)
    assert (answer.status_code, answer.content) == (200, b"an archive")
