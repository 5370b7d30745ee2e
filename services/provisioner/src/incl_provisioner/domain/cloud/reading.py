"""Tables that people write, read strictly: every complaint has the file and the line."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import NoReturn

from incl_shared.errors import InvalidInput
from incl_shared.yamltext import Located, YamlProblem, read_yaml

_DATE = re.compile(r"^\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])$")


@dataclass(frozen=True)
class Entry:
    """A value of a table, where it stands, and how it is called."""

    located: Located
    source: str
    name: str = ""

    def fail(self, message: str, hint: str = "") -> NoReturn:
        """Complain of this value.

        Raises:
            InvalidInput: always.
        """
        called = f"{self.name}: " if self.name else ""
        raise InvalidInput(
            f"{self.source}:{self.located.line}: {called}{message}", hint=hint or f"correct {self.source}"
        )

    def _inner(self, key: object, located: Located) -> Entry:
        return Entry(located, self.source, f"{self.name}.{key}" if self.name else str(key))

    def items(self) -> Iterator[tuple[str, Entry]]:
        """The entries of a mapping, by their keys."""
        if not isinstance(self.located.value, dict):
            self.fail("expected a mapping (name: value)")
        for key, child in self.located.value.items():
            yield str(key), self._inner(key, child)

    def keys(self, known: Collection[str], needed: Collection[str] = ()) -> dict[str, Entry]:
        """The entries of a mapping whose keys are known."""
        found = dict(self.items())
        for key, entry in found.items():
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                entry.fail("unknown key", f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}")
        for key in needed:
            if key not in found:
                self.fail(f"{key!r} is missing")
        return found

    def text(self, pattern: str = r".{1,200}") -> str:
        """A text of a pattern."""
        value = self.located.value
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            self.fail(f"{value!r} is not a text that is allowed here")
        return value

    def date(self) -> str:
        """A day: 2026-11-28."""
        value = self.located.value
        if not isinstance(value, str) or _DATE.match(value) is None:
            self.fail(f"{value!r} is not a date", "write year-month-day: 2026-11-28")
        return value

    def number(self, least: float = 0.0, *, above: bool = False, most: float = 1e9) -> float:
        """A finite number of at least (or above) `least`."""
        value = self.located.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fail(f"{value!r} is not a number")
        if value > most or value < least or (above and value == least):
            self.fail(f"{value:g} is not {'above' if above else 'at least'} {least:g} and at most {most:g}")
        return float(value)

    def whole(self, least: int = 0, most: int = 1_000_000) -> int:
        """A whole number."""
        value = self.located.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.fail(f"{value!r} is not a whole number from {least} to {most}")
        return value

    def flag(self) -> bool:
        """true or false."""
        if not isinstance(self.located.value, bool):
            self.fail(f"{self.located.value!r} is not true or false")
        return self.located.value

    def entries(self) -> list[Entry]:
        """The entries of a list that is not empty."""
        if not isinstance(self.located.value, list) or not self.located.value:
            self.fail("expected a list with at least one entry")
        return [self._inner(index, child) for index, child in enumerate(self.located.value)]


def read_table(text: str, source: str) -> Entry:
    """The table of a text; `source` names it in complaints.

    Raises:
        InvalidInput: not YAML, or empty; with the line.
    """
    try:
        located = read_yaml(text)
    except YamlProblem as problem:
        raise InvalidInput(
            f"{source}:{problem.line}: {problem.message}",
            cause=problem.snippet,
            hint=problem.hint or f"correct {source}",
        ) from problem
    if located is None:
        raise InvalidInput(f"{source}: the file is empty", hint="see docs/mechanisms/where.md for its form")
    return Entry(located, source)
