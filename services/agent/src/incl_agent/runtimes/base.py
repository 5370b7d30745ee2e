"""The port that every runtime fills."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from incl_shared.states import EndReason

if TYPE_CHECKING:
    from incl_agent.runtimes.pulling import Login


class RuntimeFailure(Exception):  # noqa: N818
    """A runtime cannot run this job, with the typed reason."""

    def __init__(self, reason: EndReason, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Mount:
    """Something of the machine (source) that the job finds at another path (target)."""

    source: Path
    target: Path
    writable: bool = False


@dataclass(frozen=True)
class Plan:
    """A job as a runtime sees it; all paths are absolute and, but for mounts, the same inside and outside."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    writable: tuple[Path, ...]
    readable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    """Folders that the job must not see into (where the runtime can hide anything)."""
    mounts: tuple[Mount, ...] = ()
    """Data; its paths may differ inside and outside."""
    private: frozenset[str] = frozenset()
    """Names of env whose values are secret: never in a command line."""
    image: str | None = None
    cpu: float | None = None
    memory: int | None = None
    gpus: tuple[int, ...] = ()
    grace_s: float = 30.0
    max_duration_s: float | None = None


@dataclass(frozen=True)
class Prepared:
    """What preparing found: for an image, the digest that will run; when it was pulled (epoch s), if it had to be."""

    image: str | None = None
    digest: str | None = None
    pulling: float | None = None
    pulled: float | None = None


@dataclass(frozen=True)
class Launch:
    """What the shim is told; see shim.py for the meaning of each field."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    grace_s: float
    max_duration_s: float | None
    reap: bool = True
    wrappers: int = 0
    kill: tuple[str, ...] | None = None
    cleanup: tuple[str, ...] | None = None
    lease: Path | None = None

    def document(self) -> dict[str, Any]:
        """The dict that crosses to the shim, of plain values only."""
        return {
            "argv": list(self.argv),
            "env": dict(self.env),
            "cwd": str(self.cwd),
            "grace": float(self.grace_s),
            "max_duration": self.max_duration_s,
            "reap": self.reap,
            "wrappers": self.wrappers,
            "kill": None if self.kill is None else list(self.kill),
            "cleanup": None if self.cleanup is None else list(self.cleanup),
            "lease": None if self.lease is None else str(self.lease),
        }


@dataclass(frozen=True)
class Exit:
    """How a job's process ended, as its shim wrote it down."""

    exit_code: int | None = None
    signal: int | None = None
    cause: str | None = None
    killed: bool = False
    started: float = 0.0
    ended: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_kb: int = 0
    error: str | None = None
    errno: int = 0
    stage: str = ""


@dataclass(frozen=True)
class Refusal:
    """The command never ran: the typed reason, in the runtime's words."""

    reason: EndReason
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Outcome:
    """An exit as the user's command made it, with wrappers taken off."""

    exit: Exit
    refusal: Refusal | None = field(default=None)


class Runtime(Protocol):
    """One way to run a command under a shim."""

    name: str

    async def available(self) -> bool:
        """Whether it really works here; tried, not guessed."""
        ...

    async def prepare(self, image: str | None, login: Login | None = None, digest: str | None = None) -> Prepared:
        """Fetch what the job needs besides its files.

        Args:
            login: for the image's registry.
            digest: what the image's name meant when the first attempt ran it; that is what is run again.

        Raises:
            RuntimeFailure: with reason image when it cannot be had, in the runtime's words.
        """
        ...

    def launch(self, plan: Plan, prepared: Prepared) -> Launch:
        """What the shim is to start."""
        ...

    def outcome(self, exit_: Exit, errors: str) -> Outcome:
        """The exit of the user's command; `errors` is the end of the job's stderr."""
        ...
