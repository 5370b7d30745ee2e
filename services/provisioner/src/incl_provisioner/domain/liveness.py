"""Which machines have been silent for too long. Time counts only while we could have heard them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Watch:
    """Counts the silence of each machine, by a clock that stands while the bus is away or this process is paused.

    longest_s: a step longer than this means that we were paused; it counts as nothing.
    """

    def __init__(self, lease_s: float, longest_s: float) -> None:
        self._lease_s = lease_s
        self._longest_s = longest_s
        self._clock = 0.0
        self._last: float | None = None
        self._healthy = False
        self._heard: dict[str, tuple[float, float]] = {}
        self._asked: dict[str, float] = {}

    def tick(self, monotonic: float, *, healthy: bool) -> bool:
        """Time passes. True: we can hear again after an outage or a pause; every machine has a full lease anew."""
        step = 0.0 if self._last is None else monotonic - self._last
        self._last = monotonic
        if healthy and self._healthy and step <= self._longest_s:
            self._clock += step
            return False
        recovered = healthy
        self._healthy = healthy
        if recovered:
            self.forgive()
        return recovered

    def forgive(self) -> None:
        """Every machine has a full lease anew: what it said may have been lost."""
        self._heard = {node: (said, self._clock) for node, (said, _) in self._heard.items()}

    def heard(self, words: Mapping[str, float]) -> None:
        """The time of each living machine's last word, as the database has it; a new one begins its lease."""
        before = self._heard
        self._heard = {}
        for node, said in words.items():
            known = before.get(node)
            self._heard[node] = known if known is not None and known[0] == said else (said, self._clock)

    def doubtful(self) -> set[str]:
        """Machines that have been silent for half a lease, each once in a sixth of it.

        Their wanted state is written anew: should the bus take that, it would have taken their word as well.
        """
        after, again = self._lease_s / 2, self._lease_s / 6
        found = {
            node
            for node, (_, since) in self._heard.items()
            if self._clock - since > after and self._clock - self._asked.get(node, -again) >= again
        }
        self._asked = {node: at for node, at in self._asked.items() if node in self._heard}
        self._asked |= dict.fromkeys(found, self._clock)
        return found

    def spare(self, nodes: Iterable[str]) -> None:
        """These have spoken, though nobody has read it yet: they are asked about again after a sixth of a lease."""
        since = self._clock - self._lease_s * 5 / 6
        self._heard |= {node: (self._heard[node][0], since) for node in nodes if node in self._heard}

    def silent(self) -> dict[str, float]:
        """Machines whose lease is over, with the seconds of their silence."""
        return {
            node: self._clock - since
            for node, (_, since) in self._heard.items()
            if self._clock - since > self._lease_s
        }  # fmt: skip
