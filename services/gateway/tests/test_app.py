"""The whole gateway on a real bus in operator mode: the node, the job, the person and the token, end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from incl_gateway.app import App, create_app
from incl_gateway.settings import GatewaySettings
from incl_shared.auth.creds import parse_info
from incl_shared.auth.mint import Credential
from incl_shared.auth.names import Role, job_principal
from incl_shared.bus.runtime import Bus
from incl_shared.control import NodeWanted
from incl_shared.errors import ConflictError, DeniedError, InvalidInput, NotFoundError
from incl_shared.queries.gateway import (
    AttemptCredential,
    CreateToken,
    ListSecrets,
    ReadSecrets,
    RunCredential,
    SetSecret,
    WhoAmI,
)
from incl_shared.queries.gateway import Credential as Answered
from incl_shared.queries.tracker import ExperimentView, GetExperiment
from incl_shared.settings import BusSettings
from incl_shared.subjects import Asker
from incl_shared.testing.secure_nats import SecureNats

from .conftest import E1, E2, FakeWorld, wanted


@pytest.fixture
def settings(secure_nats: SecureNats, tmp_path: Path) -> GatewaySettings:
    creds = secure_nats.minter.service(Role.GATEWAY).write(tmp_path / "creds" / "gateway.creds")
    inbox = parse_info(creds.read_text()).inbox
    return GatewaySettings(
        database_url=f"sqlite:///{tmp_path / 'gateway.db'}",
        bus=BusSettings(urls=(secure_nats.url,), creds=creds, inbox_prefix=inbox, name="gateway"),
        keys_dir=secure_nats.paths.keys_dir,
        vault_key=tmp_path / "vault.key",
        local_user="ann",
    )


@pytest.fixture
async def app(settings: GatewaySettings) -> AsyncIterator[App]:
    app = create_app(settings)
    await app.start()
    yield app
    await app.stop()


def principal(answered: Answered, role: Role) -> Credential:
    jwt, seed = answered.jwt.get_secret_value(), answered.seed.get_secret_value()
    return Credential(role, answered.name, answered.expires, jwt, seed)


async def want(server: SecureNats, *experiments: str, secrets: tuple[str, ...] = ()) -> None:
    """The provisioner writes the wanted state of n1."""
    jobs = tuple(wanted(experiment, secrets=secrets) for experiment in experiments)
    async with await server.service(Role.PROVISIONER) as provisioner:
        state = NodeWanted(node="n1", generation=1, jobs=jobs)
        await provisioner.publish_confirmed("incl.control.n1", state.model_dump_json().encode(), message_id=str(jobs))


async def test_from_the_node_to_the_secrets_of_its_job(app: App, secure_nats: SecureNats) -> None:
    job = job_principal(E1, 1, 0)
    async with await secure_nats.connect(secure_nats.minter.person("ann", ("default",), 60)) as ann:
        await ann.ask(SetSecret(secret="KEY", value="v"), project="default", user="ann")
        assert (await ann.ask(ListSecrets(), project="default", user="ann")).names == ("KEY",)
        with pytest.raises(DeniedError):
            await ann.ask(ReadSecrets(names=("KEY",)), project="default", user="ann")
    await want(secure_nats, E1, secrets=("KEY",))
    async with await secure_nats.connect(secure_nats.minter.node("n1")) as node:
        ask = AttemptCredential(experiment=E1, attempt=1, rank=0)
        answered = await node.ask(ask, project="_nodes", user="n1")
        with pytest.raises(DeniedError, match="not to run"):
            await node.ask(AttemptCredential(experiment=E2, attempt=1, rank=0), project="_nodes", user="n1")
    async with await secure_nats.connect(principal(answered, Role.ATTEMPT)) as shipper:
        values = await shipper.ask(ReadSecrets(names=("KEY",)), project="default", user=job)
        assert values.values == {"KEY": "v"}
        await shipper.publish_confirmed(f"incl.logs.default.{E1}.1.0", b"x", message_id="1")
        with pytest.raises(DeniedError):
            await shipper.publish_confirmed(f"incl.logs.default.{E1}.1.1", b"x", message_id="2")
    async with await secure_nats.connect(secure_nats.minter.node("n2")) as other:
        with pytest.raises(DeniedError, match="not to run on the node n2"):
            await other.ask(ask, project="_nodes", user="n2")


async def test_from_the_person_to_the_credential_of_a_run(app: App, secure_nats: SecureNats) -> None:
    world = FakeWorld()
    world.run_is(E1, "default", "ann")
    world.run_is(E2, "default", "bob")
    asked: list[Asker] = []

    async def experiment(asker: Asker, query: GetExperiment) -> ExperimentView:
        asked.append(asker)
        return await world.experiment(asker.project, query.ref)

    tracker = Bus(secure_nats.settings_of(secure_nats.minter.service(Role.TRACKER)), service="tracker")
    tracker.serve(GetExperiment, experiment)
    await tracker.start()
    try:
        async with await secure_nats.connect(secure_nats.minter.person("ann", ("default",), 60)) as ann:
            answered = await ann.ask(RunCredential(experiment=E1), project="default", user="ann")
            with pytest.raises(DeniedError):
                await ann.ask(RunCredential(experiment=E2), project="default", user="ann")
    finally:
        await tracker.stop()
    assert asked == [Asker("default", "gateway")] * 2
    async with await secure_nats.connect(principal(answered, Role.RUN)) as run:
        await run.publish_confirmed(f"incl.metrics.default.{E1}.1.0", b"x", message_id="1")
        with pytest.raises(DeniedError):
            await run.publish_confirmed(f"incl.request.default.ann.runend.{E2}", b"x", message_id="2")


async def test_from_a_token_to_the_bus(app: App, secure_nats: SecureNats) -> None:
    async with await secure_nats.connect(secure_nats.minter.person("ann", ("default",), 60)) as ann:
        made = await ann.ask(CreateToken(label="laptop"), project="default", user="ann")
    headers = {"Authorization": f"Bearer {made.token.get_secret_value()}"}
    async with httpx.AsyncClient(base_url=app.url, trust_env=False, verify=False) as http:
        assert (await http.get("/healthz")).status_code == 200
        login = (await http.post("/api/v1/credentials", headers=headers, json={})).json()
    assert login["urls"] == [secure_nats.url]
    path = secure_nats.folder / "laptop.creds"
    path.write_text(login["creds"])
    settings = BusSettings(urls=tuple(login["urls"]), creds=path, inbox_prefix=login["inbox_prefix"])
    async with await type(ann).connect(settings) as laptop:
        me = await laptop.ask(WhoAmI(), project="default", user="ann")
    assert (me.user, me.projects) == ("ann", ("default",))


async def test_it_starts_again_with_the_same_secrets(settings: GatewaySettings, secure_nats: SecureNats) -> None:
    await want(secure_nats, E1, secrets=("KEY",))
    async with await secure_nats.connect(secure_nats.minter.person("ann", ("default",), 60)) as ann:
        first = create_app(settings)
        await first.start()
        await ann.ask(SetSecret(secret="KEY", value="v"), project="default", user="ann")
        await first.stop()
        second = create_app(settings)
        await second.start()
        assert (await ann.ask(ListSecrets(), project="default", user="ann")).names == ("KEY",)
        await second.stop()
        await second.stop()
    settings.vault_key.unlink()
    with pytest.raises(NotFoundError, match="is gone"):
        await create_app(settings).start()


async def test_what_cannot_start_says_why_and_leaves_nothing_open(
    settings: GatewaySettings, secure_nats: SecureNats, app: App
) -> None:
    assert app.http is not None
    taken = create_app(settings.model_copy(update={"port": app.http.port}))
    with pytest.raises(ConflictError, match="cannot listen"):
        await taken.start()
    assert not taken.bus.client.connected
    key = secure_nats.paths.keys_dir / "signing" / "attempt.seed"
    await asyncio.to_thread(key.chmod, 0o644)
    with pytest.raises(DeniedError, match="others may read"):
        await create_app(settings).start()
    await asyncio.to_thread(key.chmod, 0o600)
    await asyncio.to_thread(key.write_text, "nonsense")
    with pytest.raises(InvalidInput):
        await create_app(settings).start()


async def test_the_keys_it_holds_are_not_those_of_services(app: App, settings: GatewaySettings) -> None:
    for role in (Role.ADMIN, Role.PROVISIONER, Role.NODE):
        (settings.keys_dir / "signing" / f"{role}.seed").unlink()
    await app.stop()
    again = create_app(settings)
    await again.start()
    assert again.ready
    await again.stop()
