"""docs/mechanisms/credentials.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from incl_shared.auth.names import EDGE, INBOXES, SERVICES, Role
from incl_shared.auth.page import filled
from incl_shared.auth.roles import SCOPES
from incl_shared.bus import topology

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_the_table() -> None:
    text = (ROOT / "docs" / "mechanisms" / "credentials.md").read_text(encoding="utf-8")
    assert text == filled(text), "run: python -m incl_shared.auth.page docs/mechanisms/credentials.md"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place"):
        filled("# nothing")


def test_every_role_has_a_scope_with_an_inbox_of_its_own() -> None:
    assert set(SCOPES) == set(Role)
    for role, scope in SCOPES.items():
        inboxes = [subject for subject in scope.subscribe if subject.startswith(INBOXES)]
        assert inboxes == [f"{INBOXES}.{role}.{{{{name()}}}}.>"]


def test_every_durable_has_its_reader() -> None:
    for durable in topology.DURABLES:
        scope = SCOPES[Role(durable.service)]
        assert scope.role in SERVICES
        assert f"$JS.API.CONSUMER.MSG.NEXT.{durable.stream}.{durable.name}" in scope.publish


def test_nobody_outside_touches_the_stream_api() -> None:
    for role in EDGE:
        api = [subject for subject in SCOPES[role].publish if subject.startswith("$")]
        assert api == (["$JS.API.DIRECT.GET.CONTROL.incl.control.{{name()}}"] if role is Role.NODE else [])
