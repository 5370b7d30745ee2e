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
_ASKED = ("incl.query.>", "$JS.API.DIRECT.GET.CONTROL.>")
"""Inwards, and answered."""
_HEARD = ("incl.event.>", "incl.live.>", "incl.stored.>", "incl.control.*")
"""Outwards."""


def borders(core: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(exports of CORE, imports of EDGE) as claims; `core` is the public key of the account CORE."""
    services = [{"name": subject, "subject": subject, "type": "service"} for subject in (*_STORED, *_ASKED)]
    streams = [{"name": subject, "subject": subject, "type": "stream"} for subject in _HEARD]
    exports = [*({**one, "response_type": "Singleton"} for one in services), *streams]
    return exports, [{**one, "account": core} for one in (*services, *streams)]
