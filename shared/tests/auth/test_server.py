"""What the real server makes of the configuration, the borders between its accounts, and the end of a credential."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from incl_shared.auth.borders import borders
from incl_shared.auth.creds import read_info
from incl_shared.auth.names import Role
from incl_shared.auth.server_config import max_store, prepare
from incl_shared.bus.client import BusClient
from incl_shared.errors import DeniedError, UnavailableError
from incl_shared.ids import derived_id, new_id
from incl_shared.queries.tracker import GetExperiment
from incl_shared.settings import BusSettings
from incl_shared.testing.nats import server_binary
from incl_shared.testing.secure_nats import SecureNats
from incl_shared.testing.wait import until

EXPERIMENT = derived_id("one")


@pytest.mark.parametrize("folder", ["plain", 'sp ace "quo\\ted" $HOME ünï #x'])
def test_the_server_accepts_every_line(tmp_path: Path, folder: str) -> None:
    paths = prepare(tmp_path / folder, 4222)
    checked = subprocess.run([server_binary(), "-t", "-c", str(paths.config)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert paths.url == "nats://127.0.0.1:4222"
    text = paths.config.read_text()
    for key in (paths.keys.operator, paths.keys.core, paths.keys.edge, *paths.keys.signing.values()):
        assert key.seed not in text


def test_preparing_again_keeps_the_keys(tmp_path: Path) -> None:
    assert prepare(tmp_path, 1).keys.core.public == prepare(tmp_path, 2).keys.core.public


def test_the_store_stays_below_what_the_volume_has(tmp_path: Path) -> None:
    (tmp_path / "block").write_bytes(b"x" * 1_000_000)
    assert max_store(tmp_path) < shutil.disk_usage(tmp_path).free + 1_000_000


def test_every_border_is_crossed_both_ways() -> None:
    exports, imports = borders("ACORE")
    assert [(one["subject"], one["type"]) for one in exports] == [(one["subject"], one["type"]) for one in imports]
    assert {one["account"] for one in imports} == {"ACORE"}


async def test_the_server_listens_on_loopback_only_and_says_who_it_is(secure_nats: SecureNats) -> None:
    assert "Listening for client connections on 127.0.0.1" in secure_nats.log
    async with await secure_nats.service(Role.ADMIN) as admin:
        assert admin.connection.max_payload == 8 * 1024 * 1024


async def test_keys_and_messages_outlive_the_server(secure_nats: SecureNats) -> None:
    credential = secure_nats.minter.person("ann", ("default",), 600)
    async with await secure_nats.connect(credential) as ann:
        subject = f"incl.request.default.ann.stop.{new_id()}"
        first = await ann.publish_confirmed(subject, b"{}", message_id="a")
        await asyncio.to_thread(secure_nats.kill)
        prepare(secure_nats.folder, secure_nats.port)
        await asyncio.to_thread(secure_nats.start)
        again = await ann.publish_confirmed(subject, b"{}", message_id="a")
    assert (again.sequence, again.duplicate) == (first.sequence, True)


async def test_an_answer_of_many_parts_crosses_the_border(secure_nats: SecureNats) -> None:
    parts = 40
    async with await secure_nats.service(Role.TRACKER) as tracker, await _person(secure_nats) as ann:

        async def answer(message: Msg) -> None:
            for number in range(parts):
                headers = {"Incl-Part": str(number), **({"Incl-More": "1"} if number < parts - 1 else {})}
                await tracker.connection.publish(message.reply, b"x" * 1000, headers=headers)

        await tracker.connection.subscribe("incl.query.*.*.tracker.>", cb=answer)
        await tracker.connection.flush()
        said: list[bytes] = []
        finished = asyncio.Event()

        async def part(message: Msg) -> None:
            said.append(message.data)
            if "Incl-More" not in (message.headers or {}):
                finished.set()

        inbox = ann.connection.new_inbox()
        await ann.connection.subscribe(inbox, cb=part)
        await ann.connection.publish("incl.query.default.ann.tracker.experiment", b"{}", reply=inbox)
        await asyncio.wait_for(finished.wait(), 5)
    assert said == [b"x" * 1000] * parts


async def test_a_question_that_nobody_serves_fails_at_once(secure_nats: SecureNats) -> None:
    async with await _person(secure_nats) as ann:
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match="tracker does not answer"):
            await ann.ask(GetExperiment(ref="@last"), project="default", user="ann", timeout=30)
        assert time.monotonic() - begun < 5


async def test_what_is_not_allowed_fails_at_once_and_says_so(secure_nats: SecureNats) -> None:
    credential = secure_nats.minter.person("Ann-B", ("Vision_2",), 600)
    async with await secure_nats.connect(credential) as ann:
        begun = time.monotonic()
        with pytest.raises(DeniedError):
            await ann.ask(GetExperiment(ref="@last"), project="Other", user="Ann-B", timeout=30)
        with pytest.raises(DeniedError):
            await ann.publish_confirmed("incl.request.Vision_2.Bob.stop.x", b"", message_id="1", timeout=30)
        with pytest.raises(DeniedError):
            await ann.last("CONTROL", "incl.control.n1", timeout=30)
        assert time.monotonic() - begun < 5


async def test_a_person_hears_its_own_projects_only(secure_nats: SecureNats) -> None:
    heard: list[str] = []

    async def listen(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        heard.append(subject)

    async with await _person(secure_nats) as ann, await secure_nats.service(Role.TRACKER) as tracker:
        await ann.subscribe("incl.live.default.>", listen)
        await ann.connection.flush()
        for project in ("other", "default"):
            await tracker.publish_live(f"incl.live.{project}.x", b"")
        await until(lambda: bool(heard), timeout=5)
    assert heard == ["incl.live.default.x"]


async def test_a_node_reads_its_wanted_state_and_hears_of_changes(secure_nats: SecureNats) -> None:
    heard: list[bytes] = []

    async def listen(subject: str, payload: bytes, headers: Mapping[str, str]) -> None:
        heard.append(payload)

    node_credential = secure_nats.minter.node("n1")
    async with await secure_nats.connect(node_credential) as node, await secure_nats.service(Role.PROVISIONER) as owner:
        assert await node.last("CONTROL", "incl.control.n1") is None
        await node.subscribe("incl.control.n1", listen)
        await node.connection.flush()
        await owner.publish_confirmed("incl.control.n2", b"other", message_id="2", expected_sequence=0)
        await owner.publish_confirmed("incl.control.n1", b"wanted", message_id="1", expected_sequence=0)
        await until(lambda: bool(heard), timeout=5)
        stored = await node.last("CONTROL", "incl.control.n1")
        assert stored is not None
        assert (heard, stored.payload) == ([b"wanted"], b"wanted")
        with pytest.raises(DeniedError):
            await node.last("CONTROL", "incl.control.n2")


async def test_the_server_ends_a_connection_when_its_credential_ends(secure_nats: SecureNats) -> None:
    """The end counts in whole seconds, so that a connection in the same second may still be let in."""
    credential = secure_nats.minter.person("ann", ("default",), ttl=2)

    async def refused() -> bool:
        try:
            await (await secure_nats.connect(credential)).close()
        except DeniedError:
            return True
        return False

    async with await secure_nats.connect(credential) as ann:
        assert ann.connected
        await until(lambda: not ann.connected, timeout=10)
    assert await until(refused, timeout=5, every=0.1)


async def test_a_refreshed_creds_file_is_used_at_the_next_connection(secure_nats: SecureNats, tmp_path: Path) -> None:
    path = secure_nats.minter.attempt("default", EXPERIMENT, 1, 0, ttl=2).write(tmp_path / "attempt.creds")
    inbox = read_info(path).inbox
    settings = BusSettings(urls=(secure_nats.url,), creds=path, inbox_prefix=inbox)
    async with await BusClient.connect(settings) as shipper:
        secure_nats.minter.attempt("default", EXPERIMENT, 1, 0, ttl=600).write(path)
        await until(lambda: shipper.reconnects > 0, timeout=10)
        await shipper.publish_confirmed(f"incl.metrics.default.{EXPERIMENT}.1.0", b"x", message_id="1", timeout=10)


async def _person(server: SecureNats) -> BusClient:
    return await server.connect(server.minter.person("ann", ("default",), 600))


async def test_the_registry_answers_the_tracker(secure_nats: SecureNats) -> None:
    async with (
        await secure_nats.service(Role.REGISTRY) as registry,
        await secure_nats.service(Role.TRACKER) as tracker,
    ):

        async def answer(message: Msg) -> None:
            await registry.connection.publish(message.reply, b"granted")

        await registry.connection.subscribe("incl.query.*.*.registry.>", cb=answer)
        await registry.connection.flush()
        subject = "incl.query.default.tracker.registry.upload_grant"
        assert (await tracker.connection.request(subject, b"{}", timeout=5.0)).data == b"granted"
