"""The envelope."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_shared.bus import envelope as wire
from incl_shared.events import ExperimentWaiting, StopRequested
from incl_shared.ids import new_id

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=40)


@given(
    identifier=TOKEN, source=TOKEN, subject=TOKEN, time=st.floats(0, 4e9), version=st.integers(0, 2**53),
    traced=st.booleans(),
)  # fmt: skip
def test_what_is_said_is_what_is_heard(
    identifier: str, source: str, subject: str, time: float, version: int, traced: bool
) -> None:
    said = wire.Envelope(identifier, source, "X.v1", subject, time, version, wire.new_trace() if traced else None)
    headers = wire.headers_of(said)
    heard = wire.decode(headers)
    assert heard is not None
    assert abs(heard.time - time) < 1e-5
    assert (heard.id, heard.source, heard.subject, heard.version) == (identifier, source, subject, version)
    assert heard.traceparent == said.traceparent
    assert headers["Nats-Msg-Id"] == headers["ce-id"]


@pytest.mark.parametrize(("header", "value"), [("ce-time", "yesterday"), ("ce-inclversion", "many")])
def test_a_broken_envelope_is_an_error(header: str, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        wire.decode({"ce-id": "1", "ce-type": "X.v1", header: value})


def test_no_envelope_is_none() -> None:
    assert wire.decode({"Nats-Msg-Id": "1"}) is None


def test_a_child_keeps_the_trace() -> None:
    parent = wire.new_trace()
    child = wire.child_trace(parent)
    assert wire.trace_id(child) == wire.trace_id(parent)
    assert child != parent
    assert wire.trace_id(wire.child_trace("nonsense")) is not None
    token = wire.current_trace.set(parent)
    try:
        assert wire.trace_id(wire.child_trace()) == wire.trace_id(parent)
    finally:
        wire.current_trace.reset(token)


def test_subjects() -> None:
    identifier = new_id()
    stop = StopRequested(experiment=identifier)
    assert wire.subject_of(stop, project="p", user="u") == f"incl.request.p.u.stop.{identifier}"
    waiting = ExperimentWaiting(experiment=identifier, reason="x")
    assert wire.subject_of(waiting, project="p") == f"incl.event.p.experiment.{identifier}"
