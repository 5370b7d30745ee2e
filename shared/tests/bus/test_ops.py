"""Health and metrics over HTTP, and the logs."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from incl_shared.bus import envelope as wire
from incl_shared.errors import ConflictError
from incl_shared.logs import BLOT, about, get_logger, redact, setup_logs
from incl_shared.ops import OpsServer
from incl_shared.testing.bus import BusFactory


@pytest.fixture
async def ops() -> AsyncIterator[OpsServer]:
    server = OpsServer(port=0)
    await server.start()
    yield server
    await server.stop()


async def get(ops: OpsServer, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.request(method, f"http://127.0.0.1:{ops.port}{path}")


async def test_one_server_for_several_services(ops: OpsServer) -> None:
    well = {"a": True, "b": False}
    for name in well:
        registry = CollectorRegistry()
        Counter(f"incl_{name}_things_total", "Things.", registry=registry).inc(3)
        ops.add(
            name, registry=registry, live=lambda: True, ready=partial(well.__getitem__, name),
            detail=lambda: {"why": "x"},
        )  # fmt: skip
    assert (await get(ops, "/healthz")).status_code == 200
    ready = await get(ops, "/readyz")
    assert ready.status_code == 503
    assert ready.json()["services"]["b"] == {"ok": False, "why": "x"}
    assert (await get(ops, "/a/readyz")).status_code == 200
    well["b"] = True
    assert (await get(ops, "/readyz?verbose=1")).status_code == 200
    metrics = await get(ops, "/metrics")
    assert "incl_a_things_total 3.0" in metrics.text
    assert "incl_b_things_total 3.0" in metrics.text
    assert "incl_b" not in (await get(ops, "/a/metrics")).text
    assert (await get(ops, "/c/healthz")).status_code == 404
    assert (await get(ops, "/")).status_code == 404
    assert (await get(ops, "/metrics", "POST")).status_code == 405


async def test_a_port_that_is_taken(ops: OpsServer) -> None:
    with pytest.raises(ConflictError, match=str(ops.port)):
        await OpsServer(port=ops.port).start()


async def test_nonsense_does_not_hurt(ops: OpsServer) -> None:
    for nonsense in (b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 20_000, b"GET /healthz HTTP/1.1\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", ops.port)
        writer.write(nonsense)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (await get(ops, "/healthz")).status_code == 404, "no service yet"


async def test_a_bus_shows_itself(ops: OpsServer, bus_factory: BusFactory) -> None:
    bus = await bus_factory("tracker")
    ops.add("tracker", registry=bus.metrics.registry, live=lambda: bus.health().live, ready=lambda: bus.health().ready)
    assert (await get(ops, "/readyz")).status_code == 200
    text = (await get(ops, "/metrics")).text
    assert 'incl_bus_outbox_age_seconds{service="tracker"} 0.0' in text
    await bus.stop()
    assert (await get(ops, "/healthz")).status_code == 503


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    setup_logs("info", stream=out, json_lines=True)
    yield out
    root.handlers[:] = handlers
    root.setLevel(level)


def test_lines_are_json_with_what_they_are_about(lines: io.StringIO) -> None:
    trace = wire.new_trace()
    token = wire.current_trace.set(trace)
    with about(experiment="e1", attempt=2):
        get_logger("incl.x").info("placed", node="n1", token="abc")
        logging.getLogger("other").warning("plain %s", "eyJhbGciOiJFZDI1.eyJzdWIiOiJVQUJ.c2lnbmF0dXJl")
    wire.current_trace.reset(token)
    get_logger("incl.x").debug("too quiet")
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (first["event"], first["experiment"], first["attempt"], first["node"]) == ("placed", "e1", 2, "n1")
    assert first["trace"] == wire.trace_id(trace)
    assert first["token"] == BLOT
    assert second["event"] == f"plain {BLOT}"
    assert second["level"] == "warning"


def test_an_exception_is_blotted_too(lines: io.StringIO) -> None:
    try:
        int("nats://ada:geheim@127.0.0.1:4222")
    except ValueError:
        get_logger("incl.x").exception("failed")
    (line,) = lines.getvalue().splitlines()
    assert "geheim" not in line
    assert "ValueError" in json.loads(line)["exception"]


def test_a_terminal_gets_readable_lines() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    out = io.StringIO()
    try:
        setup_logs("info", stream=out, json_lines=False)
        try:
            int("no")
        except ValueError:
            logging.getLogger("x").exception("failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "failed" in out.getvalue()
    assert "ValueError: invalid" in out.getvalue()


SECRETS = st.sampled_from(["jwt", "user_seed", "TOKEN", "client_secret", "Password", "authorization", "api_key"])


@given(key=SECRETS, value=st.text(min_size=1), depth=st.integers(0, 3))
def test_what_names_a_secret_never_shows(key: str, value: str, depth: int) -> None:
    event: dict[str, object] = {key: f"<<{value}>>"}
    for _ in range(depth):
        event = {"inner": [event]}
    assert f"<<{value}>>" not in repr(redact(None, "info", dict(event)))


def test_seeds_are_known_by_their_form() -> None:
    seed = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
    assert redact(None, "info", {"event": f"got {seed}."})["event"] == f"got {BLOT}."
