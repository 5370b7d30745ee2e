"""Words to the person at the terminal: each kind of problem once, never an exception."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as typing has it; importing typing costs more than all the rest
if TYPE_CHECKING:
    from typing import Set

_said: Set[str] = set()


def warn(kind: str, message: str) -> None:
    """Say message on stderr, the first time that this kind of problem is met in this process."""
    if kind in _said:
        return
    _said.add(kind)
    _print("incl: " + message)


def info(message: str) -> None:
    """Say message on stderr unless INCL_QUIET is set."""
    if not os.environ.get("INCL_QUIET"):
        _print("incl: " + message)


def _print(text: str) -> None:
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except Exception:
        pass  # a closed or missing stderr is no reason to stop a training


def forget() -> None:
    """Let every kind be said again (a new run)."""
    _said.clear()
