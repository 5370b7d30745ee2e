"""Who is told of what was stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from incl_shared.subjects import Origin
    from incl_shared.telemetry.wire import Line


class Audience(Protocol):
    """Who is told once something is stored. Called in the event loop; must not block."""

    def changed(self, project: str, experiment: str) -> None:
        """Something that a view shows."""

    def lines(self, project: str, experiment: str, after: int, lines: list[tuple[int, int, Line]]) -> None:
        """Lines after the cursor `after`: (attempt, rank, line)."""

    def points(self, project: str, experiment: str, newest: dict[str, tuple[int, float]], count: int) -> None:
        """Points: the newest (step, value) of each metric."""

    def stored(self, origin: Origin, stream: str, writer: str, watermark: int) -> None:
        """A writer's records are stored up to here."""
