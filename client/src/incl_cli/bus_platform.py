"""The real platform: questions and events over the bus, bytes over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.context import Context, exposed, load_context
from incl_cli.output import Output
from incl_cli.platform import Blob, Progress
from incl_shared import subjects
from incl_shared.bus.client import BusClient
from incl_shared.errors import NotFoundError, UnavailableError
from incl_shared.queries.base import AnswerT, Query
from incl_shared.settings import BusSettings

if TYPE_CHECKING:
    from incl_shared.artifacts import ArtifactClient
    from incl_shared.events.base import Event
    from incl_shared.queries.registry import Grant

_TRANSFERS = 4


class BusPlatform:
    """`Platform` over a connection to the bus."""

    def __init__(self, context: Context, client: BusClient) -> None:
        self._context = context
        self._client = client

    @property
    def context(self) -> Context:
        """Which platform, project and user."""
        return self._context

    async def ask(self, query: Query[AnswerT], *, timeout: float = 10.0) -> AnswerT:  # noqa: ASYNC109
        """The answer of a service."""
        return await self._client.ask(
            query, project=self._context.project, user=self._context.user, timeout=timeout
        )

    async def publish(self, event: Event, *, identifier: str) -> None:
        """Store an event in the bus."""
        await self._client.publish_event(
            event, project=self._context.project, user=self._context.user, event_id=identifier
        )

    async def watch(self, experiment: str, receive: Callable[[bytes], None]) -> Callable[[], Awaitable[None]]:
        """Hear the live messages of an experiment."""

        async def received(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
            receive(payload)

        subscription = await self._client.subscribe(subjects.live(self._context.project, experiment), received)
        return subscription.unsubscribe

    async def upload(self, experiment: str, blobs: Sequence[Blob], progress: Progress) -> int:
        """Store blobs for an experiment."""
        from incl_shared.queries.registry import UploadGrant

        client = self._artifacts(await self.ask(UploadGrant(experiment=experiment)))
        gate = asyncio.Semaphore(_TRANSFERS)

        def store(blob: Blob) -> bool:
            return put(client, blob, progress)

        async def one(blob: Blob) -> bool:
            async with gate:
                return await asyncio.to_thread(store, blob)

        try:
            return sum(await asyncio.gather(*(one(blob) for blob in blobs)))
        finally:
            client.close()

    async def download(self, experiment: str, wanted: Sequence[tuple[str, int, Path]], progress: Progress) -> None:
        """Fetch blobs into files."""
        from incl_shared.queries.registry import DownloadGrant

        client = self._artifacts(await self.ask(DownloadGrant(experiment=experiment)))
        gate = asyncio.Semaphore(_TRANSFERS)

        async def one(sha256: str, target: Path) -> None:
            async with gate:
                await asyncio.to_thread(get, client, sha256, target, progress)

        try:
            await asyncio.gather(*(one(sha256, target) for sha256, _, target in wanted))
        finally:
            client.close()

    def _artifacts(self, grant: Grant) -> ArtifactClient:
        from incl_shared.artifacts import ArtifactClient

        return ArtifactClient(grant.url, grant.token)

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()


def put(client: ArtifactClient, blob: Blob, progress: Progress) -> bool:
    """Store one blob; whether it was new."""
    raise NotImplementedError


def get(client: ArtifactClient, sha256: str, target: Path, progress: Progress) -> None:
    """Fetch one blob."""
    raise NotImplementedError


async def connect(project: str | None, out: Output) -> BusPlatform:
    """The platform of the context in use.

    Raises:
        UnavailableError: no context, or nobody answers.
    """
    context = load_context(project=project)
    for complaint in exposed(context):
        out.note(f"warning: {complaint}", "yellow")
    creds = Path(context.creds) if context.creds else None
    if creds is not None and not creds.exists():
        raise UnavailableError(
            "the credential of this platform is gone", cause=f"there is no {creds}", hint="incl up, or incl login again"
        )
    settings = BusSettings(urls=context.urls, creds=creds, name="incl-cli", inbox_prefix=context.inbox)
    return BusPlatform(context, await BusClient.connect(settings))


__all__ = ["BusPlatform", "NotFoundError", "connect"]
