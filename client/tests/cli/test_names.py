"""Names that somebody gave to a thing, on a terminal."""

from __future__ import annotations

import io

import pytest

from incl_cli import text
from incl_cli.output import Output


@pytest.mark.parametrize("name", ["o\x1b[31m\x9bn", "a\nb", "t\x1b]0;x\x07", "r\u202excod", "\udcff", "\x7f"])
def test_a_name_in_a_table_cannot_steer_the_terminal(name: str) -> None:
    out = Output(io.StringIO(), io.StringIO())
    (line,) = text.table(out, [text.Column("")], [[name]])
    assert line.isprintable()
    assert text.table(out, [text.Column("")], [[text.Cell(name, "red")]]) == [line]


def test_other_names_stay() -> None:
    for name in ("plain-1.txt", "é 漢字 ✓", "a\N{NO-BREAK SPACE}b"):
        assert text.plain(name) == name
