"""The real platform: questions and events over the bus, bytes over HTTP."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from incl_cli.context import Context, exposed, load_context
from incl_cli.deferred import deferred_jetstream
from incl_cli.output import Output
from incl_cli.platform import Blob, Progress, Wanted
from incl_shared import subjects
from incl_shared.errors import DeniedError, NotFoundError, UnavailableError
from incl_shared.queries.base import AnswerT, Query
from incl_shared.settings import BusSettings

with deferred_jetstream():
    from incl_shared.bus.client import BusClient

if TYPE_CHECKING:
    from incl_shared.artifacts import ArtifactClient
    from incl_shared.errors import InclError
    from incl_shared.events.base import Event
    from incl_shared.queries.registry import Grant

_TRANSFERS = 4
_PATIENT = ("upload_grant", "commit", "register_model")
_PATIENCE_S = 5.0
"""So long these wait for a service that is being started again: what a submission packed is not thrown away, and a
registration that was handled, but not answered, is not one more version."""


class BusPlatform:
    """`Platform` over a connection to the bus."""

    def __init__(self, context: Context, client: BusClient, say: Callable[[str], None] = lambda _: None) -> None:
        """say: a remark for the person, from any thread."""
        self._context = context
        self._client = client
        self._say = say

    @property
    def context(self) -> Context:
        """Which platform, project and user."""
        return self._context

    async def ask(self, query: Query[AnswerT], *, timeout: float = 10.0) -> AnswerT:  # noqa: ASYNC109
        """The answer of a service."""
        context = self._context
        patience = _PATIENCE_S if type(query).name in _PATIENT else 0.0
        try:
            return await self._client.ask(
                query, project=context.project, user=context.user, timeout=timeout, patience=patience
            )
        except DeniedError as error:
            raise self._foreign(error) from error

    def _foreign(self, error: DeniedError) -> DeniedError:
        """The server names a subject; a person means a project."""
        if not error.message.startswith("not allowed to "):
            return error
        return DeniedError(
            f"{self._context.user} may not do this in project {self._context.project}",
            cause=error.message,
            hint="leave out --project, or log in with a token of a member: incl login",
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
        """Store blobs for an experiment; how many were not there already."""
        from incl_shared.artifacts import ArtifactClient
        from incl_shared.queries.registry import UploadGrant

        grant = await self.ask(UploadGrant(experiment=experiment))
        with ArtifactClient(
            grant, renew=self._renewal(UploadGrant(experiment=experiment)), waiting=self._wait_told()
        ) as client:
            return sum(await self._each([functools.partial(_put, client, blob, progress) for blob in blobs]))

    async def download(self, source: str | Query[Grant], wanted: Sequence[Wanted], progress: Progress) -> None:
        """Fetch blobs into files."""
        from incl_shared.artifacts import ArtifactClient
        from incl_shared.queries.registry import DownloadGrant

        door = DownloadGrant(experiment=source) if isinstance(source, str) else source
        grant = await self.ask(door)
        with ArtifactClient(grant, renew=self._renewal(door), waiting=self._wait_told()) as client:
            await self._each([functools.partial(_get, client, one, progress) for one in wanted])

    def _renewal(self, query: Query[Grant]) -> Callable[[], Grant]:
        """Asked from a worker thread when a grant has expired."""
        loop = asyncio.get_running_loop()
        return lambda: asyncio.run_coroutine_threadsafe(self.ask(query), loop).result(30)

    def _wait_told(self) -> Callable[[InclError], None]:
        """Says once why a transfer waits."""
        told = threading.Event()

        def waiting(error: InclError) -> None:
            if not told.is_set():
                told.set()
                why = f"{error.message}: {error.cause}" if error.cause else error.message
                self._say(f"the artifact store is waited for, a minute at most: {why}")

        return waiting

    async def _each(self, works: Sequence[Callable[[], bool]]) -> list[bool]:
        gate = asyncio.Semaphore(_TRANSFERS)

        async def one(work: Callable[[], bool]) -> bool:
            async with gate:
                return await asyncio.to_thread(work)

        return await asyncio.gather(*(one(work) for work in works))

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()


def _put(client: ArtifactClient, blob: Blob, progress: Progress) -> bool:
    from incl_shared import artifacts

    new = not client.has(artifacts.Blob(blob.sha256, blob.size))
    if new and blob.source is None:
        raise NotFoundError(
            f"the bytes {blob.sha256[:12]} are not in the artifact store any more", hint="incl run packs them again"
        )
    if new and isinstance(blob.source, bytes):
        client.put_bytes(blob.source)
    elif new and isinstance(blob.source, Path):
        client.put_file(blob.source, sha256=blob.sha256)
    progress(blob.size)
    return new


def _get(client: ArtifactClient, wanted: Wanted, progress: Progress) -> bool:
    progress(client.get(wanted.sha256, wanted.target, mode=wanted.mode))
    return True


async def connect(project: str | None, out: Output) -> BusPlatform:
    """The platform of the context in use.

    Raises:
        UnavailableError: no context, or nobody answers.
    """
    logging.getLogger("incl").addHandler(logging.NullHandler())
    context = load_context(project=project)
    for complaint in exposed(context):
        out.note(f"warning: {complaint}", "yellow")
    creds = Path(context.creds) if context.creds else None
    if creds is not None and not creds.exists():
        raise UnavailableError(
            "the credential of this platform is gone", cause=f"there is no {creds}", hint="incl up, or incl login again"
        )
    settings = BusSettings(urls=context.urls, creds=creds, name="incl-cli", inbox_prefix=context.inbox)
    return BusPlatform(context, await BusClient.connect(settings), lambda text: out.note(text, "yellow"))
