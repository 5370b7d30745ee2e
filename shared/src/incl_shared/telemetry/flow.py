"""How much of one job may be on its way: confirmed by the bus, and not stored by the tracker yet.

The bus holds the telemetry of everybody. A job that logs faster than the tracker stores keeps what is left on its own
disk, and only a window of it in the bus, so that what others say is not behind it. The window follows the time that
the tracker takes: it shrinks while that is long, and grows while it is short.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

WINDOW = 4_000_000
LEAST_WINDOW = 500_000
MOST_WINDOW = 16_000_000
SOON_S, LATE_S = 0.25, 0.75
"""Below and above these times from sent to stored the window grows, or shrinks."""
STALL_S = 1.0
TRICKLE_S = 0.4
_MANY = 256
_MERGE_BYTES = 65_536


class _Sent:
    """A batch of one writer; small ones are joined when many wait."""

    __slots__ = ("last", "size", "time")

    def __init__(self, last: int, size: int, time: float) -> None:
        self.last, self.size, self.time = last, size, time


class Flow:
    """Bytes of one source between the bus and the tracker. now: monotonic seconds."""

    def __init__(self, now: float, window: int = WINDOW) -> None:
        self.window = window
        self.unstored = 0
        """Bytes that the bus has confirmed and the tracker has not."""
        self.moved = now
        """When the tracker last stored something of this, or there was nothing left for it to store."""
        self.stored_at = 0.0
        """When the tracker last stored something of this."""
        self.away = False
        """The tracker was asked and did not answer."""
        self._sent: dict[str, deque[_Sent]] = {}
        self._changed = now
        self._next_trickle = now

    def sent(self, writer: str, last: int, size: int, now: float) -> None:
        """The bus has confirmed a writer's records up to `last`."""
        if not self._sent:
            self.moved = now
        queue = self._sent.setdefault(writer, deque())
        if len(queue) > _MANY and queue[-1].size + size < _MERGE_BYTES:
            queue[-1].last = max(last, queue[-1].last)
            queue[-1].size += size
        else:
            queue.append(_Sent(last, size, now))
        self.unstored += size

    def stored(self, marks: Mapping[str, int], now: float) -> None:
        """The tracker has each writer's records up to here."""
        for writer, queue in list(self._sent.items()):
            mark = marks.get(writer, 0)
            while queue and queue[0].last <= mark:
                entry = queue.popleft()
                self.unstored -= entry.size
                self.moved = self.stored_at = now
                self.away = False
                if entry.size:
                    self._steer(now - entry.time, now)
            if not queue:
                del self._sent[writer]

    def _steer(self, took: float, now: float) -> None:
        """Halve at most once in the time that one took; grow a little with each that was quick."""
        if took > LATE_S:
            if now - self._changed > took:
                self.window = max(LEAST_WINDOW, self.window // 2)
                self._changed = now
        elif took < SOON_S:
            self.window = min(MOST_WINDOW, self.window + 100_000)

    def clear(self, now: float) -> None:
        """What was sent is not expected to be stored any more: it is sent again."""
        self._sent.clear()
        self.unstored, self.moved, self.window = 0, now, LEAST_WINDOW

    @property
    def open(self) -> bool:
        """Whether something is sent and not stored."""
        return bool(self._sent)

    def room(self, now: float) -> int:
        """Bytes that may be sent now; 0: wait. While the tracker is away, a little all the same."""
        left = self.window - self.unstored
        if left > 0:
            return left
        if self.away and now >= self._next_trickle:
            self._next_trickle = now + TRICKLE_S
            return 1
        return 0

    def behind(self) -> dict[str, int]:
        """Up to which record each writer is expected to be stored, of those that are not."""
        return {writer: queue[-1].last for writer, queue in self._sent.items()}
