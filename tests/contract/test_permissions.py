"""Every role against a real server: what it may say and hear is exactly what is written here, and nothing more."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client

from incl_shared.auth import jwt
from incl_shared.auth.mint import Credential, Minter
from incl_shared.auth.names import Role
from incl_shared.auth.roles import SCOPES
from incl_shared.bus import topology
from incl_shared.bus.client import BusClient
from incl_shared.bus.connection import Callbacks, open_connection
from incl_shared.clock import SystemClock
from incl_shared.errors import DeniedError
from incl_shared.ids import derived_id
from incl_shared.settings import BusSettings
from incl_shared.testing.secure_nats import SecureNats

E1, E2 = derived_id("one"), derived_id("two")
JOB = f"job_{E1}-2-1"
RUN = f"job_{E1}-1-0"

CREDENTIALS: dict[str, Callable[[Minter], Credential]] = {
    "provisioner": lambda minter: minter.service(Role.PROVISIONER),
    "tracker": lambda minter: minter.service(Role.TRACKER),
    "registry": lambda minter: minter.service(Role.REGISTRY),
    "gateway": lambda minter: minter.service(Role.GATEWAY),
    "hpo": lambda minter: minter.service(Role.HPO),
    "admin": lambda minter: minter.service(Role.ADMIN),
    "person": lambda minter: minter.person("Ann-B", ("default", "Vision_2"), 600),
    "node": lambda minter: minter.node("n1"),
    "attempt": lambda minter: minter.attempt("default", E1, 2, 1, 600),
    "run": lambda minter: minter.run("default", "Ann-B", E1, 600),
}


def _own_durable(stream: str, service: str) -> set[str]:
    return {*_durable_api(stream, service), f"incl.dead.{stream}.{service}"}


def _durable_api(stream: str, service: str) -> set[str]:
    return {
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{service}",
        f"$JS.API.CONSUMER.INFO.{stream}.{service}",
        f"$JS.API.CONSUMER.CREATE.{stream}.{service}",
        f"$JS.ACK.{stream}.{service}.1.1.1.1.0",
        f"$JS.ACK._.hash.{stream}.{service}.1.1.1.1.0.x",
    }


SERVICES = ("provisioner", "tracker", "registry", "gateway", "hpo")

MAY_PUBLISH: dict[str, set[str]] = {
    "provisioner": {
        "_INBOX.admin.admin.x",
        f"incl.event.default.experiment.{E1}", "incl.event._system.node.n1", "incl.control.n1", "incl.control.n2",
        "$JS.API.DIRECT.GET.CONTROL.incl.control.n1", "$JS.API.DIRECT.GET.CONTROL.incl.control.n2", "_R_.a.b",
        "$JS.API.DIRECT.GET.REPORTS.incl.report.n1",
        "_INBOX.gateway.gateway.x", "_INBOX.hpo.hpo.x", "$JS.API.STREAM.INFO.EVENTS",
    },
    "tracker": {
        "$JS.API.STREAM.INFO.EVENTS",
        "_INBOX.admin.admin.x",
        f"incl.event.default.settlement.{E1}", f"incl.event.default.alert.{E1}", f"incl.live.default.{E1}",
        f"incl.live.other.{E1}", f"incl.stored.default.{E1}.2.1", f"incl.stored.default.{E1}.2.0", "_R_.a.b",
        f"incl.stored.default.{E1}.1.0", "_INBOX.gateway.gateway.x", "_INBOX.hpo.hpo.x",
        "_INBOX.registry.registry.x",
    },
    "hpo": {
        "$JS.API.STREAM.INFO.EVENTS", "_INBOX.admin.admin.x", "_INBOX.gateway.gateway.x", "_R_.a.b",
        f"incl.event.default.sweep.{E1}",
        f"incl.request.default.Ann-B.experiment.{E1}", f"incl.request.Vision_2.Ann-B.stop.{E1}",
        f"incl.request.other.Ann-B.experiment.{E1}", f"incl.request.default.bob.experiment.{E1}",
        "incl.query.default.hpo.tracker.metrics", "incl.query.default.hpo.tracker.points",
    },
    "registry": {
        "_INBOX.admin.admin.x", f"incl.event.default.artifact.{E1}", "_R_.a.b", "_INBOX.gateway.gateway.x",
        "incl.event.default.model.chest-xray", "incl.query.default.registry.tracker.experiment",
        "$JS.API.STREAM.INFO.EVENTS",
    },
    "gateway": {
        "_INBOX.admin.admin.x",
        "incl.query.default.gateway.tracker.experiment", "_R_.a.b",
        "incl.query._nodes.gateway.provisioner.enroll",
        "$JS.API.DIRECT.GET.CONTROL.incl.control.n1", "$JS.API.DIRECT.GET.CONTROL.incl.control.n2",
    },
    "admin": {
        *(f"incl.query._system.admin.{name}.stuck" for name in SERVICES),
        "incl.query._system.admin.registry.purge_model", "incl.event.default.model.chest-xray",
        "$JS.API.STREAM.INFO.EVENTS", "$JS.API.STREAM.DELETE.NOPE", "$JS.API.STREAM.MSG.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS.incl.event.default.experiment.x",
        "$JS.API.DIRECT.GET.REPORTS.incl.report.n1",
        "$JS.API.DIRECT.GET.CONTROL.incl.control.n1", "$JS.API.DIRECT.GET.CONTROL.incl.control.n2",
        "incl.request.default.Ann-B.nonsense.x",
        "$JS.API.CONSUMER.CREATE.EVENTS.spy", "$JS.API.CONSUMER.CREATE.CONTROL.spy",
        "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.gateway",
        f"incl.event.default.experiment.{E1}", f"incl.event.default.artifact.{E1}", "incl.event._system.node.n1",
        f"incl.event.default.settlement.{E1}", f"incl.event.default.alert.{E1}", f"incl.event.default.sweep.{E1}",
        f"incl.request.default.Ann-B.sweep.{E1}", f"incl.request.default.Ann-B.sweepstop.{E1}",
        f"incl.request.default.Ann-B.sweepresume.{E1}",
        f"incl.request.default.Ann-B.experiment.{E1}", f"incl.request.Vision_2.Ann-B.stop.{E1}",
        f"incl.request.other.Ann-B.experiment.{E1}", f"incl.request.default.bob.experiment.{E1}",
        f"incl.request.default.Ann-B.runend.{E1}", f"incl.request.default.Ann-B.runend.{E2}",
        "incl.report.n1", "incl.report.n2",
        f"incl.metrics.default.{E1}.2.1", f"incl.metrics.default.{E1}.2.0", f"incl.metrics.default.{E1}.1.0",
        f"incl.metrics.default.{E2}.2.1", f"incl.metrics.other.{E1}.2.1",
        f"incl.logs.default.{E1}.2.1", f"incl.logs.default.{E1}.2.0", f"incl.logs.default.{E1}.1.0",
    },
    "person": {
        f"incl.request.default.Ann-B.experiment.{E1}", f"incl.request.Vision_2.Ann-B.stop.{E1}",
        f"incl.request.default.Ann-B.runend.{E1}", f"incl.request.default.Ann-B.runend.{E2}",
        f"incl.request.default.Ann-B.sweep.{E1}", f"incl.request.default.Ann-B.sweepstop.{E1}",
        f"incl.request.default.Ann-B.sweepresume.{E1}",
        "incl.query.default.Ann-B.tracker.experiment", "incl.query.Vision_2.Ann-B.signer.run",
    },
    "node": {
        "incl.report.n1", "incl.query._nodes.n1.signer.attempt", "$JS.API.DIRECT.GET.CONTROL.incl.control.n1",
    },
    "attempt": {
        f"incl.metrics.default.{E1}.2.1", f"incl.logs.default.{E1}.2.1",
        f"incl.query.default.{JOB}.tracker.watermarks", f"incl.query.default.{JOB}.registry.commit",
        f"incl.query.default.{JOB}.gateway.read_secrets",
    },
    "run": {
        f"incl.metrics.default.{E1}.1.0", f"incl.logs.default.{E1}.1.0",
        f"incl.query.default.{RUN}.tracker.watermarks", f"incl.query.default.{RUN}.registry.upload_grant",
        f"incl.request.default.Ann-B.runend.{E1}",
    },
}  # fmt: skip

for service in ("provisioner", "tracker", "registry", "hpo", "admin"):
    MAY_PUBLISH[service].add("$JS.API.DIRECT.GET.EVENTS")
for durable in topology.DURABLES:
    if durable.stream == topology.EVENTS:
        for service in ("provisioner", "tracker", "registry", "hpo"):
            MAY_PUBLISH[service].add(f"$JS.API.CONSUMER.INFO.EVENTS.{durable.name}")
    MAY_PUBLISH[durable.service] |= _own_durable(durable.stream, durable.name)
    MAY_PUBLISH["admin"] |= _durable_api(durable.stream, durable.name)
    if durable.owner:
        MAY_PUBLISH[durable.service].add(f"$JS.API.CONSUMER.DELETE.{durable.stream}.{durable.name}")
        MAY_PUBLISH["admin"].add(f"$JS.API.CONSUMER.DELETE.{durable.stream}.{durable.name}")

MAY_HEAR: dict[str, set[str]] = {
    "provisioner": {"incl.query.*.*.provisioner.>", "_INBOX.provisioner.provisioner.>"},
    "tracker": {"incl.query.*.*.tracker.>", "_INBOX.tracker.tracker.>"},
    "registry": {"incl.query.*.*.registry.>", "_INBOX.registry.registry.>"},
    "hpo": {
        "incl.query.*.*.hpo.>", "_INBOX.hpo.hpo.>", "incl.live.*.*", "incl.live.default.>", "incl.live.other.>",
        f"incl.live.Vision_2.{E1}",
    },
    "gateway": {"incl.query.*.*.gateway.>", "incl.query.*.*.signer.>", "_INBOX.gateway.gateway.>"},
    "admin": {"_INBOX.admin.admin.>"},
    "person": {
        "incl.live.default.>", f"incl.live.Vision_2.{E1}", "incl.event.default.>", "_INBOX.person.Ann-B.>",
    },
    "node": {"incl.control.n1", "_INBOX.node.n1.>"},
    "attempt": {f"incl.stored.default.{E1}.2.1", f"_INBOX.attempt.{JOB}.>"},
    "run": {f"incl.stored.default.{E1}.1.0", f"_INBOX.run.{RUN}.>"},
}  # fmt: skip

NOBODY_PUBLISHES = {
    "incl.query._system.Ann-B.tracker.stuck", "incl.query._system.admin.tracker.experiments",
    "incl.query.default.admin.tracker.stuck",
    "incl.query._nodes.n1.gateway.read_secrets",
    "incl.anything", "$SYS.REQ.SERVER.PING", "$SYS.REQ.CLAIMS.UPDATE", "incl.query._nodes.n2.signer.attempt",
    "incl.query.default.bob.tracker.experiment", "incl.query.other.Ann-B.tracker.experiment",
    f"incl.query.default.job_{E2}-1-0.gateway.read_secrets", f"incl.query.default.{JOB}.signer.attempt",
    "_INBOX.person.bob.x", "_INBOX.node.n2.x", "_INBOX.attempt.x.y", "incl.dead.EVENTS.gateway",
    "$JS.FC.EVENTS.x", "_GR_.x",
}  # fmt: skip
NOBODY_HEARS = {
    ">", "incl.>", "incl.event.>", "incl.live.>", "incl.event.other.>", "incl.live.other.>", "incl.control.*",
    "incl.control.n2", "incl.report.*", "incl.report.n1", "incl.request.>", "incl.metrics.>", "incl.logs.>",
    "incl.query.>", "incl.query.default.Ann-B.>", "_INBOX.>", "_INBOX.person.bob.>", "_INBOX.*.*.>", "_R_.>",
    f"incl.stored.default.{E1}.2.0", f"incl.stored.default.{E2}.2.1", "incl.stored.>", "$JS.EVENT.>", "$SYS.>",
    "$JS.API.>", "incl.dead.>",
}  # fmt: skip
SUBJECTS = sorted(set().union(*MAY_PUBLISH.values()) | NOBODY_PUBLISHES)
FILTERS = sorted(set().union(*MAY_HEAR.values()) | NOBODY_HEARS)


class Probe:
    """A bare connection that counts what the server refuses."""

    def __init__(self, client: Client, refusals: list[str]) -> None:
        self.client = client
        self._refusals = refusals

    async def refused(self) -> bool:
        """Whether the server refused something since the last time. Its PONG comes after its errors.

        Two of them: nats-py's first PING may overtake what is still buffered.
        """
        await self.client.flush(timeout=5)
        await self.client.flush(timeout=5)
        refused, self._refusals[:] = bool(self._refusals), []
        return refused

    async def publishes(self, subject: str, reply: str = "") -> bool:
        await self.client.publish(subject, b"{}", reply=reply)
        return not await self.refused()

    async def hears(self, subject: str) -> bool:
        subscription = await self.client.subscribe(subject)
        heard = not await self.refused()
        if heard:
            await subscription.unsubscribe()
        return heard


@asynccontextmanager
async def probe(server: SecureNats, credential: Credential) -> AsyncIterator[Probe]:
    refusals: list[str] = []

    async def on_error(error: Exception) -> None:
        refusals.append(str(error))

    client = await open_connection(server.settings_of(credential), Callbacks(error=on_error))
    try:
        yield Probe(client, refusals)
    finally:
        await client.close()


async def connects(server: SecureNats, token: str, seed: str) -> bool:
    """Whether the server lets a JWT in."""
    try:
        async with probe(server, Credential(Role.PERSON, "x", None, token, seed)):
            return True
    except DeniedError:
        return False


def test_every_role_is_tried() -> None:
    assert set(MAY_PUBLISH) == set(MAY_HEAR) == set(CREDENTIALS) == set(Role)


@pytest.mark.parametrize("role", [role.value for role in Role])
async def test_a_role_publishes_exactly_what_it_may(shared_secure_nats: SecureNats, role: str) -> None:
    async with probe(shared_secure_nats, CREDENTIALS[role](shared_secure_nats.minter)) as principal:
        allowed = {subject for subject in SUBJECTS if await principal.publishes(subject)}
    assert allowed == MAY_PUBLISH[role]


@pytest.mark.parametrize("role", [role.value for role in Role])
async def test_a_role_hears_exactly_what_it_may(shared_secure_nats: SecureNats, role: str) -> None:
    async with probe(shared_secure_nats, CREDENTIALS[role](shared_secure_nats.minter)) as principal:
        allowed = {subject for subject in FILTERS if await principal.hears(subject)}
    assert allowed == MAY_HEAR[role]


async def test_nobody_enters_without_a_credential(shared_secure_nats: SecureNats) -> None:
    with pytest.raises(DeniedError):
        await open_connection(shared_secure_nats.settings())


async def test_a_password_is_no_credential(shared_secure_nats: SecureNats) -> None:
    url = shared_secure_nats.url.replace("://", "://incl:incl@")
    with pytest.raises(DeniedError):
        await open_connection(BusSettings(urls=(url,)))


async def test_an_expired_credential_is_refused(shared_secure_nats: SecureNats) -> None:
    expired = shared_secure_nats.minter.person("ann", ("default",), ttl=-10)
    assert not await connects(shared_secure_nats, expired.jwt, expired.seed)
    with pytest.raises(DeniedError):
        await shared_secure_nats.connect(expired)


async def test_a_jwt_without_its_seed_is_refused(shared_secure_nats: SecureNats) -> None:
    minter = shared_secure_nats.minter
    mine, stolen = minter.person("ann", ("default",), 600), minter.person("bob", ("default",), 600)
    assert await connects(shared_secure_nats, mine.jwt, mine.seed)
    assert not await connects(shared_secure_nats, stolen.jwt, mine.seed)


@pytest.mark.parametrize(
    "widening",
    [
        {"pub": {"allow": [">"]}},
        {"sub": {"allow": [">"]}},
        {"resp": {"max": 10, "ttl": 1_000_000_000}},
        {"subs": -1, "data": -1, "payload": -1},
    ],
)
async def test_a_signer_cannot_widen_its_role(shared_secure_nats: SecureNats, widening: dict[str, object]) -> None:
    keys, user = shared_secure_nats.paths.keys, jwt.Key.new(jwt.USER)
    claims = {"type": "user", "issuer_account": keys.edge.public, "tags": ["role:person", "project:default"]}
    now = SystemClock().now()
    plain = jwt.encode(keys.signing[Role.PERSON], user.public, "ann", claims, issued=now)
    widened = jwt.encode(keys.signing[Role.PERSON], user.public, "ann", {**claims, **widening}, issued=now)
    assert await connects(shared_secure_nats, plain, user.seed)
    assert not await connects(shared_secure_nats, widened, user.seed)


async def test_a_signing_key_is_worth_nothing_in_another_account(shared_secure_nats: SecureNats) -> None:
    keys, user = shared_secure_nats.paths.keys, jwt.Key.new(jwt.USER)
    claims = {"type": "user", "issuer_account": keys.core.public, "tags": ["role:admin"]}
    forged = jwt.encode(keys.signing[Role.ATTEMPT], user.public, "admin", claims, issued=SystemClock().now())
    assert not await connects(shared_secure_nats, forged, user.seed)


async def test_a_changed_jwt_is_refused(shared_secure_nats: SecureNats) -> None:
    mine = shared_secure_nats.minter.person("ann", ("default",), 600)
    head, body, signature = mine.jwt.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    claims["name"] = "bob"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert not await connects(shared_secure_nats, f"{head}.{forged}.{signature}", mine.seed)


INJECTED = ("incl.control.n2", "$JS.API.STREAM.DELETE.EVENTS", f"incl.event.default.experiment.{E2}",
            f"incl.request.default.bob.stop.{E2}", "incl.report.n2")  # fmt: skip


@pytest.mark.parametrize("reply", INJECTED)
async def test_a_reply_subject_cannot_carry_a_write(secure_nats: SecureNats, reply: str) -> None:
    """The server answers to any reply subject, unchecked: that must not reach a stream, its API, or another's name."""
    ours = {"REQUESTS": f"incl.request.default.ann.stop.{E1}", "REPORTS": "incl.report.n1"}
    async with (
        await secure_nats.service(Role.ADMIN) as admin,
        await secure_nats.service(Role.PROVISIONER) as provisioner,
    ):
        for node in ("n1", "n2"):
            await provisioner.publish_confirmed(f"incl.control.{node}", node.encode(), message_id=node)
        before = await _stored(admin)
        async with probe(secure_nats, secure_nats.minter.person("ann", ("default",), 600)) as ann:
            assert await ann.publishes(ours["REQUESTS"], reply)
        async with probe(secure_nats, secure_nats.minter.node("n1")) as n1:
            assert await n1.publishes(ours["REPORTS"], reply)
            assert await n1.publishes("$JS.API.DIRECT.GET.CONTROL.incl.control.n1", reply)
        after = await _stored(admin)
        kept = await admin.last("CONTROL", "incl.control.n2")
    assert kept is not None
    assert kept.payload == b"n2"
    assert after == {**before, **dict.fromkeys(ours.items(), 1)}


async def _stored(admin: BusClient) -> dict[tuple[str, str], int]:
    """(stream, subject) -> messages. Every stream must be there."""
    found: dict[tuple[str, str], int] = {}
    for stream in ("REQUESTS", "EVENTS", "REPORTS", "CONTROL", "METRICS", "LOGS", "DEAD"):
        info = await admin.jetstream().stream_info(stream, subjects_filter=">")
        found |= {(stream, subject): count for subject, count in (info.state.subjects or {}).items()}
    return found


def test_a_service_that_may_be_asked_may_answer() -> None:
    """Whoever has leave to ask a service has an inbox that this service may publish to."""
    served = {one.split(".")[4]: scope for scope in SCOPES.values() for one in scope.subscribe if _is_query(one)}
    asked = 0
    for asker in SCOPES.values():
        for subject in filter(_is_query, asker.publish):
            owner = served.get(subject.split(".")[4])
            if owner is None or asker.role not in set(map(Role, SERVICES)):
                continue
            inbox = next(one for one in asker.subscribe if one.startswith("_INBOX."))
            prefix = ".".join(inbox.split(".")[:2])
            assert any(one.startswith(prefix) for one in owner.publish), f"{owner.role} cannot answer {asker.role}"
            asked += 1
    assert asked >= 6


def _is_query(subject: str) -> bool:
    return subject.startswith("incl.query.")
