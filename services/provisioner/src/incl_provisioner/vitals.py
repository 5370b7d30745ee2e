"""What nodes said of themselves last, in memory: their heartbeats come every few seconds, and an old one is worth
nothing. With several provisioners each hears a part of the heartbeats, and so soon of every node."""

from __future__ import annotations

from collections.abc import Mapping

from incl_shared.clock import Clock
from incl_shared.reports import NodeVitals

KEPT_S = 60.0


class Vitals:
    """By node. Noted in the writer thread, read in the event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._said: dict[str, tuple[float, NodeVitals]] = {}

    def note(self, node: str, said: NodeVitals) -> None:
        """A heartbeat brought this."""
        self._said[node] = (self._clock.monotonic(), said)

    def known(self) -> Mapping[str, NodeVitals]:
        """What was said lately."""
        since = self._clock.monotonic() - KEPT_S
        return {node: said for node, (at, said) in sorted(self._said.copy().items()) if at > since}
