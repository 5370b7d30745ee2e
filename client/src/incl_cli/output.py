"""What goes to the screen: stdout is data, stderr is everything else."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any, TextIO

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "error": "1;31",
}

_WIDTH = 100


class Output:
    """Two streams, whether each is a terminal, and whether colours are wanted."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, *, as_json: bool = False, color: bool | None = None
    ) -> None:
        self.out = out if out is not None else sys.stdout
        self.err = err if err is not None else sys.stderr
        self.as_json = as_json
        wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" if color is None else color
        self.color = wanted and self.out.isatty()
        self.color_err = wanted and self.err.isatty()

    @property
    def interactive(self) -> bool:
        """Whether a person looks at both streams: only then is anything redrawn."""
        return self.out.isatty() and self.err.isatty() and os.environ.get("TERM") != "dumb" and not self.as_json

    @property
    def width(self) -> int:
        """Columns of the terminal; wide when the reader is no terminal, so that nothing is cut."""
        return _columns(self.out)

    @property
    def width_err(self) -> int:
        """The same of stderr."""
        return _columns(self.err)

    def line(self, text: str = "") -> None:
        """A line of data."""
        self.out.write(text + "\n")

    def json(self, value: Any) -> None:
        """One JSON value of data, on one line unless a person reads it."""
        indent = 2 if self.out.isatty() else None
        self.out.write(json.dumps(jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
        self.out.flush()

    def json_line(self, value: Any) -> None:
        """One JSON value on one line, whoever reads it."""
        self.out.write(json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False) + "\n")
        self.out.flush()

    def note(self, text: str, style: str = "") -> None:
        """A line that is not data."""
        self.err.write(paint(text, style if self.color_err else "") + "\n")
        self.err.flush()

    def paint(self, text: str, style: str) -> str:
        """Text in a style, where stdout shows styles."""
        return paint(text, style if self.color else "")


def _columns(stream: TextIO) -> int:
    if not stream.isatty():
        return 10_000
    try:  # asked of this stream: stdout may be a pipe where stderr is the terminal
        own = os.get_terminal_size(stream.fileno()).columns or _WIDTH
    except (OSError, ValueError):
        own = _WIDTH
    return shutil.get_terminal_size((own, 24)).columns


def paint(text: str, style: str) -> str:
    """Text between the codes of a style; no style, no codes."""
    codes = ";".join(_STYLES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if codes and text else text


def jsonable(value: Any) -> Any:
    """A value that JSON can hold: models as their fields, NaN and infinities as text."""
    if hasattr(value, "model_dump"):
        return jsonable(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): jsonable(child) for key, child in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(child) for child in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return value
