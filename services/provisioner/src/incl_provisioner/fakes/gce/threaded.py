"""The fake cloud in a thread of its own: for synchronous callers, and for tests whose loop is busy."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TypeVar

from incl_provisioner.fakes.gce.cloud import CloudSettings, FakeCloud

T = TypeVar("T")


class ThreadedCloud:
    """A context manager.

    Attributes:
        url, token: as of `FakeCloud`.
    """

    def __init__(self, settings: CloudSettings) -> None:
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake cloud", daemon=True)
        self._cloud: FakeCloud | None = None

    @property
    def cloud(self) -> FakeCloud:
        """What runs; it belongs to its thread: change it through `do`."""
        if self._cloud is None:
            raise RuntimeError("the fake cloud is not started")
        return self._cloud

    @property
    def url(self) -> str:
        """For `api_endpoint`."""
        return self.cloud.url

    @property
    def token(self) -> str:
        """Of the control API."""
        return self.cloud.token

    def do(self, work: Callable[[FakeCloud], T | Awaitable[T]]) -> T:
        """Run something in the cloud's thread; waits for what it returns."""

        async def run() -> T:
            made = work(self.cloud)
            return await made if inspect.isawaitable(made) else made

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)

    def __enter__(self) -> ThreadedCloud:
        self._thread.start()

        async def begin() -> FakeCloud:
            cloud = FakeCloud(self._settings)
            await cloud.start()
            return cloud

        try:
            self._cloud = asyncio.run_coroutine_threadsafe(begin(), self._loop).result(60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self.cloud.stop(), self._loop).result(60)
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
