"""An event loop in a thread: the main thread of a part waits for questions on its standard input."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop:
    """Runs coroutines to their end, one question at a time; tasks go on in between."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="loop").start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
