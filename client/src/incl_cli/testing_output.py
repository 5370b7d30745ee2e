"""What a command wrote, for tests of the commands."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any


class Terminal(io.StringIO):
    """Text that a person would look at."""

    def isatty(self) -> bool:
        """It says that it is a terminal."""
        return True


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The error envelope on stderr."""
        return json.loads(self.err.splitlines()[-1])["error"]
