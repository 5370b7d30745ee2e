"""What is known of a run once it is over. Every part may be left out: what is not there is not checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from incl_shared.events.base import Event
from incl_shared.states import FINAL_STATES, ExperimentState

Stream = Literal["metrics", "logs"]


@dataclass(frozen=True)
class Submitted:
    """An experiment that somebody submitted, and what is right for it."""

    experiment: str
    right: frozenset[ExperimentState] = FINAL_STATES
    """The final states that are right."""
    attempts: int | None = None
    """At most so many; none: as many as it took."""
    lossless: bool = False
    """Nothing of it may be lost, not even counted."""


@dataclass(frozen=True)
class Fact:
    """An event of the stream EVENTS. sequence: of the stream; version: of the aggregate; time: epoch s."""

    sequence: int
    id: str
    version: int
    event: Event
    time: float = 0.0


@dataclass(frozen=True)
class Ran:
    """The process of one rank, by its own ledger. began, ended (its last sign of life): one monotonic clock, s."""

    experiment: str
    attempt: int
    rank: int
    began: float
    ended: float
    resumed: int | None = None
    """The step of the checkpoint that it began from; -1: from none; None: it did not say."""


@dataclass(frozen=True)
class Logged:
    """One point or line that a job logged, by its own ledger. `what` is unique within its attempt and stream.

    record: the record that it was part of; alone in one where empty. sure: the call returned; what was killed within
    the call may be stored or not.
    """

    experiment: str
    attempt: int
    rank: int
    stream: Stream
    what: str
    record: str = ""
    sure: bool = True


@dataclass(frozen=True)
class Stored:
    """One point or line as the tracker gives it; `what` as in `Logged`."""

    experiment: str
    attempt: int
    rank: int
    stream: Stream
    what: str


@dataclass(frozen=True)
class Told:
    """What the tracker says of an experiment. lost: by attempt, the records that it counts as lost (its gaps)."""

    experiment: str
    state: ExperimentState
    attempts: int
    settled: bool
    lost: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Leftover:
    """Something that should be gone. kind: process, folder, credential, lease, outbox …"""

    kind: str
    what: str


@dataclass(frozen=True)
class Dead:
    """A dead letter. id: of the message that it was."""

    stream: str
    durable: str
    id: str
    reason: str


@dataclass(frozen=True)
class Evidence:
    """All of it. facts: in any order; they are put in that of their sequence."""

    submitted: tuple[Submitted, ...] = ()
    facts: tuple[Fact, ...] = ()
    ran: tuple[Ran, ...] = ()
    logged: tuple[Logged, ...] = ()
    stored: tuple[Stored, ...] = ()
    told: tuple[Told, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    dead: tuple[Dead, ...] = ()
    poisoned: frozenset[str] = frozenset()
    """Ids of messages that were made to be dead letters."""
    tracked: bool = True
    """Whether a tracker was there, which settles every attempt."""


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold. experiment: empty where it is about none."""

    rule: str
    experiment: str
    text: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.rule}: {self.experiment or '-'}: {self.text}"


def point(metric: str, step: int, value: float) -> str:
    """A point as `Logged` and `Stored` name it."""
    return f"{metric}@{step}={value!r}"
