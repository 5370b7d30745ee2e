"""What passes between the two accounts of the bus.

A NATS server answers to whatever reply subject a publisher names, with no look at the publisher's permissions: with
the streams in their own account, anybody who may publish one request could have its acknowledgement written over a
node's wanted state, or sent to the stream API. So the streams and services live in the account CORE, and everybody
else in EDGE, which has no streams: what EDGE may send crosses as a service import, whose answers the server leads
back into EDGE alone.
"""

from __future__ import annotations

from typing import Any

_STORED = ("incl.request.>", "incl.report.*", "incl.metrics.>", "incl.logs.>")
"""Inwards, into a stream: the answer is its acknowledgement."""
_READ = ("$JS.API.DIRECT.GET.CONTROL.>",)
"""Inwards: the last message of a subject."""
_ASKED = ("incl.query.>",)
"""Inwards, and answered in one part or several."""
_ANSWERED_NS = 60 * 1_000_000_000
"""How long the way back stays open for further parts of an answer, in nanoseconds."""
_HEARD = ("incl.event.>", "incl.live.>", "incl.stored.>", "incl.control.*")
"""Outwards."""


def borders(core: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(exports of CORE, imports of EDGE) as claims; `core` is the public key of the account CORE."""
    stored = [_claim(subject, "service") for subject in (*_STORED, *_READ)]
    asked = [_claim(subject, "service") for subject in _ASKED]
    heard = [_claim(subject, "stream") for subject in _HEARD]
    exports = [
        *({**one, "response_type": "Singleton"} for one in stored),
        *({**one, "response_type": "Stream", "response_threshold": _ANSWERED_NS} for one in asked),
        *heard,
    ]
    return exports, [{**one, "account": core} for one in (*stored, *asked, *heard)]


def _claim(subject: str, kind: str) -> dict[str, Any]:
    return {"name": subject, "subject": subject, "type": kind}
