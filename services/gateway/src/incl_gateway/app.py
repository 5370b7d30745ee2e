"""The composition root of the gateway."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from incl_gateway import store
from incl_gateway.door import Authenticator
from incl_gateway.handlers import Handlers
from incl_gateway.http import create_api
from incl_gateway.settings import GatewaySettings
from incl_gateway.signer import Signer
from incl_gateway.vault import Vault
from incl_shared.auth.keys import SigningKeys
from incl_shared.auth.mint import Minter
from incl_shared.auth.names import Role
from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.findings import of_bus, serve_stuck
from incl_shared.bus.runtime import Bus
from incl_shared.clock import Clock, SystemClock
from incl_shared.control import NodeWanted
from incl_shared.db import Database, migrate
from incl_shared.http_server import HttpServer
from incl_shared.ops import OpsServer, serving
from incl_shared.queries.gateway import (
    AttemptCredential,
    CreateToken,
    DeleteSecret,
    ListSecrets,
    ListTokens,
    ReadSecrets,
    RevokeToken,
    RunCredential,
    SetSecret,
    WhoAmI,
)
from incl_shared.queries.provisioner import EnrollNode
from incl_shared.queries.stuck import Finding, GatewayStuck
from incl_shared.queries.tracker import ExperimentView, GetExperiment
from incl_shared.subjects import NODES_PROJECT, control

_SIGNS_FOR = (Role.ATTEMPT, Role.RUN, Role.PERSON)


class BusWorld:
    """What the signer looks at, over the bus."""

    def __init__(self, client: BusClient) -> None:
        self._client = client

    async def wanted(self, node: str) -> NodeWanted | None:
        """A direct get of the node's CONTROL."""
        stored = await self._client.last(topology.CONTROL, control(node))
        return None if stored is None else NodeWanted.model_validate_json(stored.payload)

    async def admit(self, node: str, key: str, token: str, protocol: int) -> float:
        """The provisioner's answer."""
        query = EnrollNode(node=node, key=key, token=token, protocol=protocol)
        return (await self._client.ask(query, project=NODES_PROJECT, user=str(Role.GATEWAY))).ttl_s

    async def experiment(self, project: str, experiment: str) -> ExperimentView:
        """The tracker's answer."""
        return await self._client.ask(GetExperiment(ref=experiment), project=project, user=str(Role.GATEWAY))


class App:
    """The gateway: `start` it, `stop` it. The signer has a connection and a service name of its own."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, clock=clock)
        self.bus = Bus(settings.bus, service="gateway", database=self.database, clock=clock)
        self.signer_bus = Bus(settings.bus, service="signer", clock=clock, registry=self.bus.metrics.registry)
        self.http: HttpServer | None = None
        self.ops: OpsServer | None = None
        self._clock = clock
        self._running = AsyncExitStack()

    @property
    def ready(self) -> bool:
        """Whether it does its work now."""
        return self.bus.health().ready and self.signer_bus.health().ready

    @property
    def url(self) -> str:
        """Where the HTTP API listens, once started."""
        port = self.settings.port if self.http is None else self.http.port
        return f"http://{self.settings.host}:{port}"

    async def start(self) -> None:
        """Migrate, open, connect, serve. What was started is stopped again when a later part fails.

        Raises:
            InclError: a key that is missing or not private, a bus or a database that is away, a port that is taken.
        """
        async with AsyncExitStack() as undo:
            await asyncio.to_thread(migrate, self.settings.database_url, "incl_gateway")
            await self.database.start()
            undo.push_async_callback(self.database.stop)
            handlers, signer = await self._parts()
            self._serve(handlers, signer)
            for bus in (self.bus, self.signer_bus):
                await bus.start()
                undo.push_async_callback(bus.stop)
            _, app = create_api(
                handlers,
                signer,
                Authenticator(self.database),
                urls=self.settings.public_urls or self.settings.bus.urls,
                person_ttl=self.settings.person_ttl_s,
                clock=self._clock,
                healthy=lambda: self.ready,
                agent=self.settings.agent_archive,
            )
            self.http = HttpServer(app, self.settings.host, self.settings.port, "gateway")
            await self.http.start()
            undo.push_async_callback(self.http.stop)
            self.ops = await serving(self.settings, "gateway", self.bus, lambda: self.ready)
            if self.ops is not None:
                undo.push_async_callback(self.ops.stop)
            self._running = undo.pop_all()

    async def stop(self) -> None:
        """End in the opposite order."""
        await self._running.aclose()

    async def _parts(self) -> tuple[Handlers, Signer]:
        settings = self.settings
        used = await self.database.read(store.any_secret)
        vault = await asyncio.to_thread(lambda: Vault.open(settings.vault_key, make=not used))
        await self.database.write(lambda tx: store.bootstrap(tx, settings.local_user, settings.projects))
        roles = (*_SIGNS_FOR, Role.NODE) if settings.enrolls else _SIGNS_FOR
        keys = await asyncio.to_thread(SigningKeys.load, settings.keys_dir, roles)
        signer = Signer(
            Minter(keys, self._clock),
            BusWorld(self.signer_bus.client),
            self.database,
            attempt_ttl=settings.attempt_ttl_s,
            run_ttl=settings.run_ttl_s,
        )
        return Handlers(self.database, vault), signer

    def _serve(self, handlers: Handlers, signer: Signer) -> None:
        self.bus.serve(WhoAmI, handlers.whoami)
        self.bus.serve(CreateToken, handlers.create_token)
        self.bus.serve(ListTokens, handlers.list_tokens)
        self.bus.serve(RevokeToken, handlers.revoke_token)
        self.bus.serve(SetSecret, handlers.set_secret)
        self.bus.serve(ListSecrets, handlers.list_secrets)
        self.bus.serve(DeleteSecret, handlers.delete_secret)
        self.bus.serve(ReadSecrets, handlers.read_secrets)
        self.signer_bus.serve(AttemptCredential, signer.attempt)
        self.signer_bus.serve(RunCredential, signer.run)
        serve_stuck(self.bus, GatewayStuck, self._stuck)

    async def _stuck(self, query: GatewayStuck) -> list[Finding]:
        return list(of_bus(self.signer_bus, query.patience))


def create_app(settings: GatewaySettings, *, clock: Clock | None = None) -> App:
    """Build the gateway; nothing runs yet."""
    return App(settings, clock or SystemClock())
