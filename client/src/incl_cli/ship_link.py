"""A run's way to the platform: begun as the person, everything else with a credential of the run's own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, Self

from incl_cli.context import Context
from incl_shared import subjects
from incl_shared.artifacts import ArtifactClient
from incl_shared.auth.creds import life_of
from incl_shared.auth.names import Role, inbox_prefix
from incl_shared.bus.client import BusClient
from incl_shared.errors import DeniedError, InclError, NotFoundError, UnavailableError
from incl_shared.events import RunEnded, RunStarted
from incl_shared.ids import derived_id
from incl_shared.queries.base import AnswerT, Query
from incl_shared.queries.gateway import Credential, RunCredential
from incl_shared.queries.models import RegisterModel
from incl_shared.queries.registry import CommitArtifacts, Entry, Grant, UploadGrant
from incl_shared.queries.tracker import GetWatermarks
from incl_shared.settings import BusSettings
from incl_shared.telemetry import read_marks

_log = logging.getLogger("incl.ship")

ATTEMPT, RANK = 1, 0
_REFRESH_AT = 0.6
_REGISTER_S = 20.0
_PAGE = 500


class Link(Protocol):
    """What the shipping of a run needs of a platform: a port. The real one is `BusLink`."""

    async def publish_confirmed(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> object:
        """Store a batch."""
        ...

    async def watermarks(self) -> Mapping[str, int]:
        """What the tracker has of this run."""
        ...

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        """From now on tell of what the tracker has, as it says so."""
        ...

    async def upload(self, path: Path) -> tuple[str, int]:
        """Store a file's bytes; (sha256, size)."""
        ...

    async def commit(self, entries: list[Entry]) -> None:
        """List stored bytes as files of the run."""
        ...

    async def register(self, query: RegisterModel) -> None:
        """Make listed files a version of a model."""
        ...

    async def end(self, event: RunEnded) -> None:
        """Say that it ended."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class BusLink:
    """`Link` over the bus and the artifact store."""

    def __init__(self, context: Context, run: str) -> None:
        self._context = context
        self._run = run
        self._credential: Credential | None = None
        self._client: BusClient | None = None
        self._store: ArtifactClient | None = None
        self._refresher: asyncio.Task[None] | None = None

    @classmethod
    async def begin(cls, context: Context, event: RunStarted) -> Self:
        """Say that a run began (again, should it be known) and connect as this run.

        Raises:
            InclError: the platform cannot be reached, or refuses.
        """
        link = cls(context, event.experiment)
        async with await link._as_person() as person:
            identifier = derived_id("RunStarted", event.experiment)
            await person.publish_event(event, project=context.project, user=context.user, event_id=identifier)
            await link._renew(person, _REGISTER_S)
        credential = link._known()
        settings = BusSettings(
            urls=context.urls, name=f"run-{event.experiment}", inbox_prefix=inbox_prefix(Role.RUN, credential.name)
        )
        link._client = await BusClient.connect(settings, credentials=link._secret)
        link._refresher = asyncio.create_task(link._refresh())
        return link

    async def _as_person(self) -> BusClient:
        context = self._context
        creds = Path(context.creds) if context.creds else None
        if creds is not None and not creds.exists():
            raise UnavailableError("the credential of this platform is gone", hint="incl up, or incl login again")
        settings = BusSettings(urls=context.urls, creds=creds, name="incl-ship", inbox_prefix=context.inbox)
        return await BusClient.connect(settings)

    async def _renew(self, person: BusClient, patience_s: float) -> None:
        """Ask for the run's credential. The tracker may not have heard of the run yet: ask again for a while."""
        deadline, delay = time.monotonic() + patience_s, 0.05
        query = RunCredential(experiment=self._run)
        while True:
            try:
                self._credential = await person.ask(query, project=self._context.project, user=self._context.user)
                return
            except (NotFoundError, DeniedError, UnavailableError):
                if time.monotonic() + delay > deadline:
                    raise
            await asyncio.sleep(delay)
            delay = min(delay * 2, 1.0)

    async def _refresh(self) -> None:
        while True:
            life = life_of(self._known().jwt.get_secret_value())
            await asyncio.sleep(3600.0 if life is None else max(5.0, life * _REFRESH_AT))
            try:
                async with await self._as_person() as person:
                    await self._renew(person, 5.0)
            except InclError as error:
                _log.warning("the credential of the run is not renewed yet: %s", error)
                await asyncio.sleep(1.0)

    def _known(self) -> Credential:
        if self._credential is None:
            raise UnavailableError("the run has no credential yet")
        return self._credential

    def _secret(self) -> tuple[str, str]:
        credential = self._known()
        return credential.jwt.get_secret_value(), credential.seed.get_secret_value()

    @property
    def _bus(self) -> BusClient:
        if self._client is None:
            raise UnavailableError("the run is not connected")
        return self._client

    async def publish_confirmed(
        self, subject: str, payload: bytes, *, message_id: str, headers: Mapping[str, str] | None = None
    ) -> object:
        """See Link."""
        return await self._bus.publish_confirmed(subject, payload, message_id=message_id, headers=headers)

    async def _ask(self, query: Query[AnswerT], seconds: float = 20.0) -> AnswerT:
        return await self._bus.ask(query, project=self._context.project, user=self._known().name, timeout=seconds)

    async def watermarks(self) -> Mapping[str, int]:
        """See Link."""
        return (await self._ask(GetWatermarks(experiment=self._run, attempt=ATTEMPT, rank=RANK))).stored

    async def listen(self, heard: Callable[[Mapping[str, int]], None]) -> None:
        """See Link."""

        async def said(_subject: str, payload: bytes, _headers: Mapping[str, str]) -> None:
            heard(read_marks(payload))

        await self._bus.subscribe(subjects.stored(self._context.project, self._run, ATTEMPT, RANK), said)

    async def upload(self, path: Path) -> tuple[str, int]:
        """See Link."""
        if self._store is None:
            grant = await self._ask(UploadGrant(experiment=self._run))
            loop = asyncio.get_running_loop()

            def renew() -> Grant:
                return asyncio.run_coroutine_threadsafe(self._ask(UploadGrant(experiment=self._run)), loop).result(30)

            self._store = ArtifactClient(grant, renew=renew)
        blob = await asyncio.to_thread(self._store.put_file, path)
        return blob.sha256, blob.size

    async def commit(self, entries: list[Entry]) -> None:
        """See Link."""
        for at in range(0, len(entries), _PAGE):
            await self._ask(CommitArtifacts(experiment=self._run, entries=tuple(entries[at : at + _PAGE])))

    async def register(self, query: RegisterModel) -> None:
        """See Link."""
        await self._ask(query)

    async def end(self, event: RunEnded) -> None:
        """See Link."""
        records = sum(writer.records + writer.dropped for writer in event.writers)
        identifier = derived_id("RunEnded", event.experiment, event.state.value, records)
        await self._bus.publish_event(
            event, project=self._context.project, user=self._context.user, event_id=identifier
        )

    async def close(self) -> None:
        """See Link."""
        task, self._refresher = self._refresher, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._store is not None:
            self._store.close()
        if self._client is not None:
            await self._client.close()
