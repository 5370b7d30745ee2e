"""The signer: the only holder of the signing keys for attempts, runs and persons.

It believes nobody's payload. A node gets the credential of a job only while the provisioner's CONTROL says that the
job is that node's, and afterwards for what that job left to ship, with none of its secrets; a person gets the
credential of a run only while the tracker says that the run is its own.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from pydantic import SecretStr

from incl_gateway import store
from incl_shared.auth import mint
from incl_shared.auth.names import job_principal
from incl_shared.control import JobWanted, NodeWanted
from incl_shared.db import Database
from incl_shared.errors import DeniedError, NotFoundError
from incl_shared.ids import job_id
from incl_shared.queries.gateway import AttemptCredential, Credential, RunCredential
from incl_shared.queries.tracker import ExperimentView
from incl_shared.subjects import NODES_PROJECT, Asker

_PATIENCE_S = 3.0
_PAUSE_S = 0.05


class World(Protocol):
    """What the signer looks at before it signs."""

    async def wanted(self, node: str) -> NodeWanted | None:
        """The wanted state of a node as the provisioner wrote it, or none."""
        ...

    async def admit(self, node: str, key: str, token: str, protocol: int) -> float:
        """How long a machine that shows this token may have a credential, in seconds; DeniedError where none."""
        ...

    async def experiment(self, project: str, experiment: str) -> ExperimentView:
        """What the tracker knows of an experiment; NotFoundError where it does not know it (yet)."""
        ...


class Signer:
    """Serves the queries of the service 'signer'. Times to live in seconds."""

    def __init__(
        self, minter: mint.Minter, world: World, database: Database, *, attempt_ttl: float, run_ttl: float
    ) -> None:
        self._minter = minter
        self._world = world
        self._database = database
        self._attempt_ttl = attempt_ttl
        self._run_ttl = run_ttl

    async def attempt(self, asker: Asker, query: AttemptCredential) -> Credential:
        """For a node: the credential of a job that it is to run now, or that it ran and has telemetry of.

        Raises:
            DeniedError: when the asker is no node, or the job is not wanted there and never was.
        """
        if asker.project != NODES_PROJECT:
            raise DeniedError("only a node gets the credential of an attempt")
        job = _find(await self._world.wanted(asker.user), query, asker.user)
        if job is None:
            return await self._former(asker.user, query)
        credential = self._minter.attempt(job.project, job.experiment, job.attempt, job.rank, self._attempt_ttl)
        expires = credential.expires or math.inf
        principal = job_principal(job.experiment, job.attempt, job.rank)
        await self._database.write(
            lambda tx: store.put_grant(tx, principal, job.project, asker.user, job.spec.read_secrets, expires)
        )
        return _answer(credential)

    async def _former(self, node: str, query: AttemptCredential) -> Credential:
        principal = job_principal(query.experiment, query.attempt, query.rank)
        project = await self._database.write(
            lambda tx: store.once_granted(tx.connection, principal, node, tx.clock.now())
        )
        if project is None:
            job = job_id(query.experiment, query.attempt, query.rank)
            raise DeniedError(f"the job {job} is not to run on the node {node}")
        ttl = self._attempt_ttl
        return _answer(self._minter.attempt(project, query.experiment, query.attempt, query.rank, ttl))

    async def run(self, asker: Asker, query: RunCredential) -> Credential:
        """For a person: the credential of a run of its own outside the platform.

        The tracker may hear of a run a moment later than its person asks, so a little patience is had.

        Raises:
            DeniedError: when the asker is no member, or the run is another's or is managed by the platform.
            NotFoundError: when there is no such run.
        """
        member = await self._database.read(lambda c: store.is_member(c, asker.project, asker.user))
        if not member:
            raise DeniedError(f"{asker.user} is no member of the project {asker.project}")
        view = await self._find_run(asker.project, query.experiment)
        row = view.row
        if (row.id, row.project, row.user) != (query.experiment, asker.project, asker.user) or not view.outside:
            raise DeniedError(f"{query.experiment} is not a run of {asker.user} outside the platform")
        return _answer(self._minter.run(asker.project, asker.user, query.experiment, self._run_ttl))

    async def enroll(self, node: str, key: str, token: str, protocol: int) -> tuple[str, float]:
        """(JWT, its end) for a machine of a cloud, for the public key that it made. The provisioner lets it in.

        Raises:
            DeniedError: when the provisioner knows no such machine, or not this token of it.
        """
        ttl = await self._world.admit(node, key, token, protocol)
        return self._minter.node_of(node, key, ttl)

    async def person(self, user: str, projects: tuple[str, ...], ttl: float) -> mint.Credential:
        """A person's credential. Only for the authorisation door of the HTTP API, which has checked who asks."""
        return self._minter.person(user, projects, ttl)

    async def _find_run(self, project: str, experiment: str) -> ExperimentView:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        while True:
            try:
                return await self._world.experiment(project, experiment)
            except NotFoundError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_S)


def _find(wanted: NodeWanted | None, query: AttemptCredential, node: str) -> JobWanted | None:
    job = job_id(query.experiment, query.attempt, query.rank)
    if wanted is None or wanted.node != node:
        return None
    return next((one for one in wanted.jobs if one.job == job), None)


def _answer(credential: mint.Credential) -> Credential:
    return Credential(
        jwt=SecretStr(credential.jwt),
        seed=SecretStr(credential.seed),
        name=credential.name,
        expires=credential.expires,
    )
