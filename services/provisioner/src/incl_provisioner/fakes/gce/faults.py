"""What goes wrong on purpose: switched on and off while the cloud runs."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

from incl_provisioner.fakes.gce.problems import ApiError, denied, expired, rate_limited

Kind = Literal["cut", "hang", "slow", "error", "garbage", "partial", "operation", "stuck"]
KINDS: tuple[str, ...] = get_args(Kind)
_VERBS = {"insert": "create", "bulkInsert": "create", "aggregatedList": "list", "wait": "get", "getFromFamily": "get"}


@dataclass(eq=False)
class Fault:
    """One rule.

    Attributes:
        kind: cut (the connection is reset), hang (no answer ever), slow (an answer after `seconds`), error (`status`
            and `reason`), garbage (200 and something that is no JSON), partial (half of the answer, then a reset);
            operation (it ends with the error code `reason`), stuck (it never ends).
        method: such as instances.insert, or a pattern: instances.*, *.
        place: zone or region, or a pattern.
        name: the resource named in the path or the body, or a pattern.
        nth: it begins with the nth call that matches.
        times: how many calls it hits; None: all from then on.
        effect: whether what was asked for happens all the same (cut, hang, error, garbage, operation).
    """

    kind: Kind
    method: str = "*"
    place: str = "*"
    name: str = "*"
    nth: int = 1
    times: int | None = 1
    effect: bool = False
    status: int = 500
    reason: str = "backendError"
    message: str = ""
    seconds: float = 0.0
    seen: int = field(default=0, init=False)
    hit: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no such kind of fault: {self.kind}; there are {', '.join(KINDS)}")

    def matches(self, method: str, place: str, name: str) -> bool:
        """Whether this call is one that it hits; counts."""
        if not (fnmatchcase(method, self.method) and fnmatchcase(place, self.place) and fnmatchcase(name, self.name)):
            return False
        self.seen += 1
        if self.seen < self.nth or (self.times is not None and self.hit >= self.times):
            return False
        self.hit += 1
        return True

    def error(self) -> ApiError:
        """As an answer."""
        return ApiError(self.status, self.reason, self.message or "An error that was asked for.")


@dataclass(frozen=True)
class RateLimit:
    """At most `calls` in `seconds` of the methods that match."""

    method: str
    calls: int
    seconds: float = 1.0
    status: int = 403


class Faults:
    """All rules, and how often each method was called."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.rules: list[Fault] = []
        self.denied: set[str] = set()
        self.expired = False
        self.unreachable: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._limits: list[tuple[RateLimit, deque[float]]] = []

    def add(self, fault: Fault) -> Fault:
        """Switch a rule on."""
        self.rules.append(fault)
        return fault

    def clear(self) -> None:
        """All is well again."""
        self.rules.clear()
        self.denied.clear()
        self.unreachable.clear()
        self.expired = False
        self._limits.clear()

    def limit(self, method: str, calls: int, seconds: float = 1.0, status: int = 403) -> None:
        """Refuse what is more than so many calls in so many seconds."""
        self._limits.append((RateLimit(method, calls, seconds, status), deque()))

    def of_call(self, method: str, place: str, name: str) -> Fault | None:
        """The rule that hits this call."""
        for rule in self.rules:
            if rule.kind not in ("operation", "stuck") and rule.matches(method, place, name):
                return rule
        return None

    def of_operation(self, method: str, scope: str, name: str) -> Fault | None:
        """The rule that hits this operation; scope: zones/z."""
        for rule in self.rules:
            if rule.kind in ("operation", "stuck") and rule.matches(method, scope.rpartition("/")[2], name):
                return rule
        return None

    def admit(self, method: str, resource: str) -> None:
        """Count a call, and refuse it.

        Raises:
            ApiError: 401, 403 or 429.
        """
        self.calls[method] += 1
        try:
            self._admit(method, resource)
        except ApiError:
            self.refused[method] += 1
            raise

    def _admit(self, method: str, resource: str) -> None:
        if self.expired:
            raise expired()
        kind, _, verb = method.partition(".")
        kind = {"regionInstances": "instances"}.get(kind, kind)
        permission = f"compute.{kind}.{_VERBS.get(verb, verb)}"
        if any(fnmatchcase(permission, pattern) for pattern in self.denied):
            raise denied(permission, resource)
        now = self._clock()
        for rule, calls in self._limits:
            if not fnmatchcase(method, rule.method):
                continue
            while calls and calls[0] <= now - rule.seconds:
                calls.popleft()
            if len(calls) >= rule.calls:
                raise rate_limited("Queries", rule.status)
            calls.append(now)
