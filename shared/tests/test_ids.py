"""Names and ids from outside: nothing rides along behind them."""

from __future__ import annotations

import pytest

from incl_shared import subjects
from incl_shared.errors import InclError
from incl_shared.ids import is_id, new_id


def test_a_newline_behind_an_id_makes_it_none() -> None:
    identifier = new_id()
    assert is_id(identifier)
    assert not is_id(f"{identifier}\n")


def test_a_newline_behind_a_token_is_refused() -> None:
    with pytest.raises((InclError, ValueError)):
        subjects.event("team\n", "experiment", new_id())
