"""A job's own connection to the bus, with a credential that can speak for nothing but this job."""

from __future__ import annotations

import asyncio
import logging

from incl_shared.auth.creds import life_of
from incl_shared.auth.names import Role, inbox_prefix, job_principal
from incl_shared.bus.client import BusClient
from incl_shared.control import JobWanted
from incl_shared.errors import DeniedError, InclError
from incl_shared.queries.base import AnswerT, Query
from incl_shared.queries.gateway import AttemptCredential, Credential
from incl_shared.settings import BusSettings
from incl_shared.subjects import NODES_PROJECT
from incl_shared.tasks import end_all

_log = logging.getLogger("incl.agent")
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 1.0
"""While the signer is away; its answer is what a job waits for before it can begin."""
_DENIED_RETRY_S = 5.0
_REFRESH_AT = 0.6
"""A credential is replaced after this part of its life."""


class JobLink:
    """Opens in the background; whoever needs it waits for it. Secrets live in memory only."""

    def __init__(self, node_client: BusClient, settings: BusSettings, node: str, job: JobWanted) -> None:
        self._node_client = node_client
        self._node = node
        self._job = job
        self.user = job_principal(job.experiment, job.attempt, job.rank)
        self._settings = settings.model_copy(
            update={
                "creds": None,
                "jwt": None,
                "seed": None,
                "name": job.job,
                "inbox_prefix": inbox_prefix(Role.ATTEMPT, self.user),
            }
        )
        self._credential: Credential | None = None
        self._ready: asyncio.Future[BusClient] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect."""
        if self._task is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._keep(self._ready))

    async def client(self) -> BusClient:
        """The open connection; waits until there is one."""
        self.start()
        if self._ready is None:
            raise RuntimeError("the link is closed")
        return await asyncio.shield(self._ready)

    async def ask(self, query: Query[AnswerT], seconds: float = 10.0) -> AnswerT:
        """Ask a service as this job."""
        client = await self.client()
        return await client.ask(query, project=self._job.project, user=self.user, timeout=seconds)

    async def renew(self) -> None:
        """Open the connection anew, should there be one."""
        if self._ready is not None and self._ready.done() and not self._ready.cancelled():
            await self._ready.result().renew()

    async def close(self) -> None:
        """Disconnect and forget the credential."""
        task, self._task = self._task, None
        await end_all((task,))
        if self._ready is not None:
            if self._ready.done() and not self._ready.cancelled():
                await self._ready.result().close()
            self._ready.cancel()
        self._credential = None

    async def _keep(self, ready: asyncio.Future[BusClient]) -> None:
        """Get a credential, connect, and replace the credential in time: the server closes an expired connection."""
        delay = _FIRST_RETRY_S
        while True:
            try:
                await self._renew()
                if not ready.done():
                    client = await BusClient.connect(self._settings, credentials=self._secret)
                    ready.set_result(client)
                delay = _FIRST_RETRY_S
            except InclError as error:
                level = logging.WARNING if isinstance(error, DeniedError) else logging.DEBUG
                _log.log(level, "job %s has no credential yet: %s", self._job.job, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _DENIED_RETRY_S if isinstance(error, DeniedError) else _LAST_RETRY_S)
                continue
            await asyncio.sleep(self._fresh_for())

    async def _renew(self) -> None:
        job = self._job
        query = AttemptCredential(experiment=job.experiment, attempt=job.attempt, rank=job.rank)
        self._credential = await self._node_client.ask(query, project=NODES_PROJECT, user=self._node)

    def _fresh_for(self) -> float:
        life = None if self._credential is None else life_of(self._credential.jwt.get_secret_value())
        return 3600.0 if life is None else max(1.0, life * _REFRESH_AT)

    def _secret(self) -> tuple[str, str]:
        if self._credential is None:
            raise ValueError("there is no credential")
        return self._credential.jwt.get_secret_value(), self._credential.seed.get_secret_value()
