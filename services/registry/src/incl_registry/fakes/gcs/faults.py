"""What goes wrong on purpose: switched on and off while the storage runs."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from incl_registry.fakes.gcs.problems import ApiError

Kind = Literal["cut", "hang", "slow", "error", "garbage", "partial"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(eq=False)
class Fault:
    """One rule.

    Attributes:
        kind: cut (the connection is reset), hang (no answer for `seconds`, then a reset), slow (an answer after
            `seconds`), error (`status` and `reason`), garbage (200 and no JSON), partial (half of the answer, then a
            reset).
        method: such as objects.insert, or a pattern: objects.*, *. See server.py for the names.
        name: the object's, or a pattern.
        nth: it begins with the nth call that matches.
        times: how many calls it hits; None: all from then on.
        effect: whether what was asked for happens all the same (cut, hang, error, garbage).
    """

    kind: Kind
    method: str = "*"
    name: str = "*"
    nth: int = 1
    times: int | None = 1
    effect: bool = False
    status: int = 503
    reason: str = "backendError"
    message: str = "An error that was asked for."
    seconds: float = 0.0
    seen: int = field(default=0, init=False)
    hit: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such kind of fault: {self.kind}; there are {', '.join(KINDS)}")

    def matches(self, method: str, name: str) -> bool:
        """Whether this call is one that it hits; counts."""
        if not (fnmatchcase(method, self.method) and fnmatchcase(name, self.name)):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.hit >= self.times):
            return False
        self.hit += 1
        return True

    def error(self) -> ApiError:
        """As an answer."""
        return ApiError(self.status, self.reason, self.message)


class Faults:
    """All rules, and how often each method was called."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()

    def add(self, fault: Fault) -> Fault:
        """Switch a rule on."""
        with self._lock:
            self._rules.append(fault)
        return fault

    def clear(self) -> None:
        """All is well again."""
        with self._lock:
            self._rules.clear()

    def of_call(self, method: str, name: str) -> Fault | None:
        """Count a call; the rule that hits it."""
        with self._lock:
            self.calls[method] += 1
            return next((rule for rule in self._rules if rule.matches(method, name)), None)
