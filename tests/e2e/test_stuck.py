"""incl admin stuck on a platform whose parts are broken for real: every service in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from incl_local.testing import Home, Result, wait
from incl_shared.bus.client import BusClient
from incl_shared.ids import new_id
from incl_shared.settings import BusSettings

STUCK = 9


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A platform in many processes."""
    place = Home(tmp_path_factory.mktemp("parts"))
    assert place.incl("up", "--detach", "--processes", timeout=90).code == 0
    yield place
    place.incl("down", timeout=60)


def findings(home: Home, *words: str) -> tuple[Result, dict[str, list[dict[str, Any]]]]:
    """What is stuck, by kind."""
    result = home.incl("admin", "stuck", "--json", *words)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in result.json["findings"]:
        found.setdefault(one["kind"], []).append(one)
    assert result.code == (STUCK if result.json["stuck"] else 0)
    return result, found


def until_found(home: Home, kind: str, *words: str, seconds: float = 40) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = wait(lambda: findings(home, *words)[1].get(kind), seconds, kind)
    assert all(one["reason"] and one["hint"] for one in found)
    return found


def until_well(home: Home) -> None:
    wait(lambda: findings(home)[0].code == 0, 60, "nothing is stuck any more")


def pid_of(home: Home, name: str) -> int:
    return int(json.loads((home.data / "run.json").read_text())["children"][name]["pid"])


@contextmanager
def frozen(home: Home, name: str) -> Iterator[None]:
    """A process that hangs."""
    pid = pid_of(home, name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def _publish(home: Home, subject: str, payload: bytes, headers: dict[str, str]) -> None:
    port = json.loads((home.data / "run.json").read_text())["ports"]["bus"]
    creds = home.data / "creds" / "admin.creds"
    settings = BusSettings(urls=(f"nats://127.0.0.1:{port}",), creds=creds, inbox_prefix="_INBOX.admin.admin")
    async with await BusClient.connect(settings) as client:
        await client.publish_confirmed(subject, payload, message_id=headers["ce-id"], headers=headers)


def poison(home: Home) -> None:
    """An event that nobody can read."""
    headers = {"ce-id": new_id(), "ce-type": "Nonsense.v1", "ce-time": ""}
    asyncio.run(_publish(home, f"incl.event.default.experiment.{new_id()}", b"{}", headers))


def test_nothing_is_stuck_on_a_platform_that_is_well(parts: Home) -> None:
    until_well(parts)
    result = parts.incl("admin", "stuck")
    assert (result.code, result.out) == (0, "")
    assert "nothing is stuck" in result.err
    assert "stuck" not in parts.incl("status").out


def test_a_full_room(parts: Home) -> None:
    work = parts.folder / "work"
    work.mkdir()
    (work / "s.py").write_text("import time; time.sleep(600)\n")
    cores = parts.incl("status", "--json").json["cluster"]["nodes"][0]["cpu"]
    ids = [parts.submit("--cpu", f"{cores:g}", "--", "python", "s.py", cwd=work) for _ in range(2)]
    (one,) = until_found(parts, "experiment.queued", "--after", "1s")
    assert ids[1][-8:] in one["subject"]
    assert "cores" in one["reason"]
    assert one["severity"] == "warning" and one["since_s"] > 1
    assert "experiment.queued" not in findings(parts)[1], "a wait of a moment is usual"
    for identifier in ids:
        parts.incl("stop", identifier)
    wait(lambda: all(parts.show(i)["row"]["state"] == "stopped" for i in ids), 40, "both stopped")


def test_a_tracker_that_hangs(parts: Home) -> None:
    with frozen(parts, "tracker"):
        (one,) = until_found(parts, "service.silent")
        assert one["subject"] == "tracker"
        poison(parts)

        def unread() -> bool:
            """Not fetched; or, while a request of the hanging process is open, fetched and never acknowledged."""
            found = findings(parts, "--after", "0.1s")[1]
            both = found.get("durable.unread", []) + found.get("durable.unacknowledged", [])
            return "EVENTS/tracker" in {one["subject"] for one in both}

        wait(unread, 60, "the server itself says that nobody reads")
        assert "stuck" in parts.incl("status").out
    replayed = wait(lambda: len(findings(parts)[1].get("message.dead", [])) == 2, 40, "the poison is buried by both")
    assert replayed
    dead = until_found(parts, "message.dead")
    assert "Nonsense" in dead[0]["reason"]
    shown = parts.incl("admin", "stuck")
    assert "message.dead" in shown.out and "→ incl admin dead-letters" in shown.out
    assert "2 warnings" in shown.err


def test_a_database_that_is_locked(parts: Home) -> None:
    thief = sqlite3.connect(parts.data / "db" / "tracker.db", isolation_level=None)
    thief.execute("BEGIN EXCLUSIVE")
    try:
        poison(parts)
        found = until_found(parts, "consumer.paused", "--after", "1s", seconds=60)
        assert all("locked" in one["reason"] and one["subject"].startswith("tracker ") for one in found)
        until_found(parts, "lease.free", "--after", "1s", seconds=60)
    finally:
        thief.execute("ROLLBACK")
        thief.close()
    wait(lambda: "consumer.paused" not in findings(parts)[1], 40, "it goes on")
    wait(lambda: "lease.free" not in findings(parts)[1], 40, "the leases are held again")


def test_a_machine_that_hangs(parts: Home) -> None:
    with frozen(parts, "agent"):
        (one,) = until_found(parts, "node.silent", seconds=40)
        assert one["subject"] == "node local"
        (one,) = until_found(parts, "node.lost", seconds=60)
        assert one["severity"] == "error"
    wait(lambda: not {"node.lost", "node.silent"} & findings(parts)[1].keys(), 40, "it is back")


def test_a_bus_that_hangs_and_a_platform_that_is_down(parts: Home) -> None:
    with frozen(parts, "nats"):
        result, found = findings(parts)
        assert result.code == STUCK
        assert found["bus.away"][0]["subject"] == "the bus"
        wait(
            lambda: (
                "cut off are provisioner, tracker, registry, gateway" in findings(parts)[1]["bus.away"][0]["reason"]
            ),
            60,
            "the services say so themselves, over their own ports",
        )
    wait(lambda: "bus.away" not in findings(parts)[1], 60, "it is back")
    assert parts.incl("down", timeout=60).code == 0
    result, found = findings(parts)
    assert result.code == STUCK
    assert found["platform.down"][0]["hint"].startswith("incl up")


def test_bad_words(parts: Home) -> None:
    wrong = parts.incl("admin", "stuck", "--after", "soon")
    assert wrong.code == 2
    assert "30s" in wrong.err
