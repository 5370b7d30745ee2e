"""The examples of docs/mechanisms/filters.md are filters, and its grammar is the parser's."""

from __future__ import annotations

from pathlib import Path

import pytest

from incl_shared.filters import fields_of, parse, parser, to_text

PAGE = Path(__file__).resolve().parents[3] / "docs" / "mechanisms" / "filters.md"
EXAMPLES = PAGE.read_text(encoding="utf-8").split("```filter\n")[1].split("```")[0].splitlines()


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_parses(example: str) -> None:
    tree = parse(example)
    assert fields_of(tree)
    assert parse(to_text(tree)) == tree


def test_the_page_shows_the_grammar_of_the_code() -> None:
    rules = [line.strip() for line in (parser.__doc__ or "").splitlines() if " = " in line]
    page = PAGE.read_text(encoding="utf-8")
    assert len(rules) == 5
    assert [rule for rule in rules if rule not in page] == []
