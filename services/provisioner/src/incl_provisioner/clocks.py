"""How far the clocks of nodes are off. What a node says of times is told in the platform's time.

A heartbeat is never kept for later, so the moment when the bus stored it is the moment when it was written.
"""

from __future__ import annotations

from incl_shared.events.experiments import RankTimes

TRUSTED_S = 30.0
"""A clock that is off by less is left alone: the network's delay is in the measure too."""


class NodeClocks:
    """What the last heartbeat of each node showed; in memory, so known anew moments after a start."""

    def __init__(self) -> None:
        self._behind: dict[str, float] = {}

    def note(self, node: str, written: float, stored: float) -> None:
        """A heartbeat, written by the node's clock and stored by the bus's (epoch s)."""
        behind = stored - written
        if abs(behind) > TRUSTED_S:
            self._behind[node] = behind
        else:
            self._behind.pop(node, None)

    def behind(self, node: str) -> float:
        """Seconds to add to what the node says."""
        return self._behind.get(node, 0.0)

    def told(self, node: str, times: RankTimes) -> RankTimes:
        """A rank's times in the platform's time."""
        by = self.behind(node)
        if not by:
            return times
        moments = {name: value + by for name, value in times if isinstance(value, float)}
        return times.model_copy(update=moments)
