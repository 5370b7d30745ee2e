"""Every subject of the bus is built and taken apart here, and nowhere else.

Subjects carry project, user, experiment or node, so that a credential can be bound to its own by subject
and no payload is believed about who sent it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from incl_shared.errors import InvalidInput
from incl_shared.ids import TOKEN_PATTERN

SYSTEM_PROJECT = "_system"
"""The project token of facts that belong to no project (nodes), and of what only an operator asks."""
NODES_PROJECT = "_nodes"
"""The project token of queries that nodes ask."""

_TOKEN = re.compile(TOKEN_PATTERN)


def token(text: str) -> str:
    """Text as one subject token.

    Raises:
        InvalidInput: when it is not one (empty, too long, with dots, wildcards or blanks).
    """
    if text in (SYSTEM_PROJECT, NODES_PROJECT) or _TOKEN.fullmatch(text):
        return text
    raise InvalidInput(f"{text[:80]!r} cannot be part of a subject", hint="use letters, digits, - and _, at most 63")


def request(project: str, user: str, kind: str, identifier: str) -> str:
    """incl.request.<project>.<user>.<kind>.<id>: what people and tools ask for."""
    return f"incl.request.{token(project)}.{token(user)}.{token(kind)}.{token(identifier)}"


def event(project: str, kind: str, identifier: str) -> str:
    """incl.event.<project>.<kind>.<id>: the facts of one aggregate."""
    return f"incl.event.{token(project)}.{token(kind)}.{token(identifier)}"


def report(node: str) -> str:
    """incl.report.<node>: what an agent says, numbered."""
    return f"incl.report.{token(node)}"


def control(node: str) -> str:
    """incl.control.<node>: the wanted state of a node."""
    return f"incl.control.{token(node)}"


def metrics(project: str, experiment: str, attempt: int, rank: int) -> str:
    """incl.metrics.<project>.<experiment>.<attempt>.<rank>: numbered batches of metric records."""
    return f"incl.metrics.{token(project)}.{token(experiment)}.{attempt}.{rank}"


def logs(project: str, experiment: str, attempt: int, rank: int) -> str:
    """incl.logs.<project>.<experiment>.<attempt>.<rank>: numbered batches of log lines."""
    return f"incl.logs.{token(project)}.{token(experiment)}.{attempt}.{rank}"


def live(project: str, experiment: str) -> str:
    """incl.live.<project>.<experiment>: what the tracker has just stored."""
    return f"incl.live.{token(project)}.{token(experiment)}"


def stored(project: str, experiment: str, attempt: int, rank: int) -> str:
    """incl.stored.<project>.<experiment>.<attempt>.<rank>: the tracker's watermarks, back to the shipper."""
    return f"incl.stored.{token(project)}.{token(experiment)}.{attempt}.{rank}"


def query(project: str, user: str, service: str, name: str) -> str:
    """incl.query.<project>.<user>.<service>.<name>: a typed question."""
    return f"incl.query.{token(project)}.{token(user)}.{token(service)}.{token(name)}"


def dead(stream: str, durable: str) -> str:
    """incl.dead.<stream>.<durable>: a message that can never be handled, with the reason."""
    return f"incl.dead.{token(stream)}.{token(durable)}"


@dataclass(frozen=True)
class Asker:
    """Who asked, read from the subject that the credential allowed."""

    project: str
    user: str


@dataclass(frozen=True)
class Origin:
    """The place of a telemetry batch, read from its subject."""

    project: str
    experiment: str
    attempt: int
    rank: int


def parse_request(subject: str) -> tuple[Asker, str, str]:
    """(asker, kind, id) of a request's subject."""
    _, _, project, user, kind, identifier = _split(subject, "request", 6)
    return Asker(project, user), kind, identifier


def parse_event(subject: str) -> tuple[str, str, str]:
    """(project, kind, id) of an event's subject."""
    _, _, project, kind, identifier = _split(subject, "event", 5)
    return project, kind, identifier


def parse_query(subject: str) -> tuple[Asker, str, str]:
    """(asker, service, name) of a query's subject."""
    _, _, project, user, service, name = _split(subject, "query", 6)
    return Asker(project, user), service, name


def parse_report(subject: str) -> str:
    """The node of a report's subject."""
    return _split(subject, "report", 3)[2]


def parse_telemetry(subject: str) -> Origin:
    """The origin of a batch on METRICS or LOGS."""
    parts = subject.split(".")
    if len(parts) != 6 or parts[0] != "incl" or parts[1] not in ("metrics", "logs"):
        raise InvalidInput(f"not a telemetry subject: {subject[:120]!r}")
    return Origin(parts[2], parts[3], int(parts[4]), int(parts[5]))


def unpartitioned(subject: str) -> str:
    """The subject of a batch as it was sent: METRICS and LOGS store it with the partition after the kind.

    Any other subject is given back as it is.
    """
    kind = next((kind for kind in ("incl.metrics.", "incl.logs.") if subject.startswith(kind)), None)
    if kind is None or subject.count(".") != _STORED_DOTS:
        return subject
    return kind + subject[len(kind) :].partition(".")[2]


_STORED_DOTS = 6


def _split(subject: str, kind: str, count: int) -> list[str]:
    parts = subject.split(".")
    if len(parts) != count or parts[0] != "incl" or parts[1] != kind:
        raise InvalidInput(f"not a subject of kind {kind}: {subject[:120]!r}")
    return parts
