"""The platform as the commands see it: a port. The real one is `BusPlatform`, the fake is incl_cli.testing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from incl_cli.context import Context
from incl_shared.events.base import Event
from incl_shared.queries.base import AnswerT, Query

if TYPE_CHECKING:
    from incl_shared.queries.registry import Grant

Progress = Callable[[int], None]
"""Called with the bytes moved since the last call; from any thread."""


@dataclass(frozen=True)
class Blob:
    """Bytes that lie in a file, or in memory, or (none) are stored already under another experiment; their checksum."""

    sha256: str
    size: int
    source: Path | bytes | None


@dataclass(frozen=True)
class Wanted:
    """A file to fetch."""

    sha256: str
    size: int
    target: Path
    mode: int = 0o644


class Platform(Protocol):
    """Everything that a command can do with a platform."""

    @property
    def context(self) -> Context:
        """Which platform, project and user."""
        ...

    async def ask(self, query: Query[AnswerT], *, timeout: float = 10.0) -> AnswerT:  # noqa: ASYNC109
        """The answer of a service.

        Raises:
            InclError: what the service refused with; UnavailableError: nobody answered.
        """
        ...

    async def publish(self, event: Event, *, identifier: str) -> None:
        """Store an event in the bus. The same identifier again is the same event.

        Raises:
            UnavailableError: it is not known to be stored.
        """
        ...

    async def watch(self, experiment: str, receive: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        """Hear the live messages of an experiment, from now on; returns what ends it."""
        ...

    async def upload(self, experiment: str, blobs: Sequence[Blob], progress: Progress) -> int:
        """Store blobs for an experiment; how many were not there already."""
        ...

    async def download(self, source: str | Query[Grant], wanted: Sequence[Wanted], progress: Progress) -> None:
        """Fetch files, each checked and put into its place in one step.

        source: an experiment, or what gives the grant to read other files.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
