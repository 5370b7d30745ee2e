"""What does not move in a platform: every service is asked, the bus is looked at; what cannot be asked is told too."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats.errors
from nats.js.errors import APIError, NotFoundError

from incl_shared.bus import topology
from incl_shared.bus.deadletters import list_dead
from incl_shared.disk import disk
from incl_shared.errors import InclError, UnavailableError
from incl_shared.queries.stuck import STUCK, Finding
from incl_shared.subjects import SYSTEM_PROJECT

if TYPE_CHECKING:
    from nats.js.api import ConsumerInfo, SequenceInfo

    from incl_shared.bus.client import BusClient

ASK_S = 4.0
UNREAD_S = 30.0
_NEARLY, _FULL = 0.8, 0.95
_OPS_PORTS = 6
_LETTERS = 200
_SEVERITIES = ("error", "warning", "note")
Connect = Callable[[], AbstractAsyncContextManager["BusClient"]]
_Trouble = (nats.errors.Error, OSError, TimeoutError, APIError)


@dataclass
class Found:
    """All findings, the worst first, each once. more: those that services left out, by kind."""

    findings: list[Finding] = field(default_factory=list)
    more: Counter[str] = field(default_factory=Counter)

    def add(self, found: Iterable[Finding]) -> None:
        """Take these in, but for what is told already."""
        known = {(one.kind, one.subject) for one in self.findings}
        for one in found:
            if (one.kind, one.subject) not in known:
                known.add((one.kind, one.subject))
                self.findings.append(one)
        self.findings.sort(key=lambda one: (_SEVERITIES.index(one.severity), one.kind, -(one.since_s or 0.0)))

    @property
    def stuck(self) -> int:
        """How many ask for something to be done."""
        return sum(one.severity != "note" for one in self.findings) + sum(self.more.values())


async def look(connect: Connect, data: Path | None, after_s: float | None = None) -> Found:
    """Everything that does not move. data: the folder of a platform on this machine. after_s: see the `…Stuck` queries.

    Raises:
        DeniedError: the credential is not the administrator's.
    """
    found = Found()
    if data is not None:
        found.add(disk(str(data)))
    try:
        async with connect() as client:
            await _with_bus(client, found, after_s)
    except UnavailableError as error:
        told = await asyncio.to_thread(_without_bus, data, after_s) if data is not None else []
        if not any(one.kind == "platform.down" for one in told):  # which says why there is no bus
            found.add([_away(error, [one for one in told if one.kind == "bus.away"])])
        found.add(one for one in told if one.kind != "bus.away")
    return found


async def _with_bus(client: BusClient, found: Found, after_s: float | None) -> None:
    asked = asyncio.gather(*(_service(client, kind, found, after_s) for kind in STUCK))
    services, streams, durables = await asyncio.gather(asked, _streams(client), _durables(client, after_s))
    for some in (*services, streams):
        found.add(some)
    told = {one.subject.partition(" ")[0] for one in found.findings if one.kind.startswith("consumer.")}
    found.add(one for service, one in durables if service not in told)


async def _service(client: BusClient, kind: type[Any], found: Found, after_s: float | None) -> list[Finding]:
    name = str(kind.service)
    try:
        answer = await client.ask(kind(after_s=after_s), project=SYSTEM_PROJECT, user="admin", timeout=ASK_S)
    except UnavailableError as error:
        return [
            Finding(
                kind="service.silent", severity="error", subject=name,
                reason=f"it does not answer: {error.cause or error.message}", hint="incl status",
            )
        ]  # fmt: skip
    except InclError as error:
        why = f"{error.message}: {error.cause}" if error.cause else error.message
        return [Finding(kind="service.failing", severity="error", subject=name, reason=why, hint=error.hint)]
    found.more.update(answer.more)
    return list(answer.findings)


# --- the bus


async def _streams(client: BusClient) -> list[Finding]:
    """Streams that are nearly full, and dead letters."""
    js, found = client.jetstream(), list[Finding]()
    for wanted in topology.streams():
        name = str(wanted.name)
        try:
            info = await js.stream_info(name)
        except NotFoundError:
            found.append(_stream(name, "stream.missing", "error", "it is not there", "incl down && incl up"))
            continue
        except _Trouble as error:
            why = str(error) or type(error).__name__
            found.append(_stream(name, "stream.silent", "error", f"it cannot be asked: {why}", "incl doctor"))
            continue
        used, limit = info.state.bytes, info.config.max_bytes or -1
        refuses = wanted.discard is not None and wanted.discard.value == "new"
        if refuses and limit > 0 and used > _NEARLY * limit:
            full = used > _FULL * limit
            text = f"{100 * used // limit} % of {limit / 1e6:,.0f} MB are used; a full one takes nothing more"
            hint = "is the service up that reads it? incl status"
            found.append(
                _stream(
                    name, "stream.full" if full else "stream.nearly-full", "error" if full else "warning", text, hint
                )
            )
        if name == topology.DEAD and info.state.messages:
            found += await _dead(client, info.state.messages)
    return found


def _stream(name: str, kind: str, severity: Any, reason: str, hint: str) -> Finding:
    return Finding(kind=kind, severity=severity, subject=f"stream {name}", reason=reason, hint=hint)


async def _dead(client: BusClient, count: int) -> list[Finding]:
    letters = defaultdict(list)
    for letter in await list_dead(client, limit=_LETTERS):
        letters[f"{letter.stream}/{letter.durable}"].append(letter)
    more = f" (of the first {_LETTERS} of {count})" if count > _LETTERS else ""
    return [
        Finding(
            kind="message.dead", severity="warning", subject=where, since_s=_since(some[0].time),
            reason=f"{len(some)} could not be handled{more}; the first: {some[0].reason[:200]}",
            hint="incl admin dead-letters ls   once it is mended: incl admin dead-letters replay",
        )
        for where, some in letters.items()
    ]  # fmt: skip


async def _durables(client: BusClient, after_s: float | None) -> list[tuple[str, Finding]]:
    """(service, finding) of durables that nobody reads: told by the server, whatever their service says."""
    js, patience = client.jetstream(), UNREAD_S if after_s is None else after_s

    async def one(durable: topology.Durable) -> Finding | None:
        where = f"{durable.stream}/{durable.name}"
        try:
            info = await js.consumer_info(durable.stream, durable.name)
        except NotFoundError:
            hint = f"the {durable.service} makes it when it starts: incl status"
            return Finding(kind="durable.missing", severity="error", subject=where, reason="it is not there", hint=hint)
        except _Trouble:
            return None
        return _unread(durable, where, info, patience)

    found = await asyncio.gather(*map(one, topology.DURABLES))
    return [(durable.service, it) for durable, it in zip(topology.DURABLES, found, strict=True) if it is not None]


def _unread(durable: topology.Durable, where: str, info: ConsumerInfo, patience: float) -> Finding | None:
    """Messages that nobody fetches; or that were, and are not acknowledged however often they are delivered."""
    delivered, acknowledged = _active(info.delivered), _active(info.ack_floor)
    if info.num_pending and (delivered is None or delivered > patience):
        return Finding(
            kind="durable.unread", severity="error", subject=where, since_s=delivered,
            reason=f"{info.num_pending} messages wait and the {durable.service} fetches none", hint="incl status",
        )  # fmt: skip
    if info.num_redelivered and (acknowledged is None or acknowledged > patience):
        text = f"{info.num_redelivered} messages were delivered again, and the {durable.service} acknowledges none"
        return Finding(
            kind="durable.unacknowledged", severity="warning", subject=where, since_s=acknowledged, reason=text,
            hint=f"does it hang, or fail? see the log of the {durable.service}",
        )  # fmt: skip
    return None


def _active(place: SequenceInfo | None) -> float | None:
    moment = place.last_active if place is not None else None
    return None if moment is None else _since(moment.timestamp())


def _since(then: float | None) -> float | None:
    return max(0.0, time.time() - then) if then else None


# --- without the bus


def _away(error: UnavailableError, told: list[Finding]) -> Finding:
    """told: what the services say of it."""
    why = f"{error.message}: {error.cause}" if error.cause else error.message
    if told:
        why += f"; cut off are {', '.join(one.subject for one in told)}"
    since = max((one.since_s or 0.0 for one in told), default=None)
    return Finding(
        kind="bus.away", severity="error", subject="the bus", since_s=since, reason=why,
        hint=error.hint or "incl status",
    )  # fmt: skip


def _without_bus(data: Path, after_s: float | None) -> list[Finding]:
    """What the services of this machine say over their own port for health and metrics."""
    try:
        running = json.loads((data / "run.json").read_text(encoding="utf-8"))
        pid, port = int(running["pid"]), int(running["ports"]["ops"])
    except (OSError, ValueError, KeyError, TypeError):
        return [_down("no platform runs here")]
    if not _alive(pid):
        return [_down("its process is gone")]
    asked = "" if after_s is None else f"?after={after_s}"
    found: list[Finding] = []
    for number in range(_OPS_PORTS if running.get("processes") else 1):
        url = f"http://127.0.0.1:{port + number}/stuck{asked}"
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                found += [Finding.model_validate(one) for one in json.load(answer)["findings"]]
        except (OSError, ValueError, KeyError) as error:
            found.append(
                Finding(
                    kind="service.silent", severity="error", subject=f"port {port + number}",
                    reason=f"no health and metrics: {error}", hint="incl status",
                )
            )  # fmt: skip
    return found


def _down(reason: str) -> Finding:
    return Finding(
        kind="platform.down", severity="error", subject="the platform", reason=reason, hint="incl up   or: incl doctor"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
