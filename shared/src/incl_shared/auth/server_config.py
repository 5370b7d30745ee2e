"""The configuration of the private nats-server: operator mode, JetStream, loopback."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from incl_shared.auth.files import private_dir, write_private
from incl_shared.auth.keys import PlatformKeys
from incl_shared.auth.mint import Minter

MAX_PAYLOAD = 8 * 1024 * 1024
_SHARE_OF_FREE = 0.8
_LEAST_STORE = 64 * 1024 * 1024
_MOST_STORE = 1 << 40
_SLACK = 1 << 20
"""The server refuses a limit for the account (`refuse`) where the streams reserve all that it has."""


@dataclass(frozen=True)
class BusPaths:
    """What `prepare` made: start `nats-server -c <config>`, mint with `minter`."""

    config: Path
    taking: Path
    """The usual configuration, and one with which nothing is stored. `config` is one of them."""
    refusing: Path
    keys_dir: Path
    store: Path
    ports_dir: Path
    port: int
    keys: PlatformKeys
    minter: Minter

    @property
    def url(self) -> str:
        """Where clients connect (only meaningful when the port was given)."""
        return f"nats://127.0.0.1:{self.port}"


def prepare(directory: Path, port: int, *, reserved: int = 0) -> BusPaths:
    """Keys, JetStream store and nats-server.conf of a platform under `directory`; what exists is kept.

    `port` -1 lets the server choose; it then writes the ports that it took into a file below `ports_dir`.
    reserved: bytes that the streams reserve; the server would not load them again with less than that.
    """
    private_dir(directory)
    keys = PlatformKeys.create(directory / "keys")
    store = private_dir(directory / "jetstream")
    ports = private_dir(directory / "ports")
    config = directory / "nats-server.conf"
    taking, refusing = directory / "nats-server.taking.conf", directory / "nats-server.refusing.conf"
    room = max(max_store(store), reserved + _SLACK)
    for path, refuse in ((config, False), (taking, False), (refusing, True)):
        text = config_text(keys, store=store, ports_dir=ports, port=port, room=room, refuse=refuse)
        write_private(path, text.encode())
    return BusPaths(
        config, taking, refusing, directory / "keys", store, ports, port, keys, Minter(keys.signers())
    )  # fmt: skip


def config_text(keys: PlatformKeys, *, store: Path, ports_dir: Path, port: int, room: int, refuse: bool = False) -> str:
    """The text of nats-server.conf. It holds no secret: public keys and signed claims only.

    room: bytes that JetStream may use; another number takes a restart. refuse: nothing more is stored.

    js_ack_fc_v2 stays off: it breaks ordered consumers, KV and object get of nats-py 2.16.
    """
    preload = "\n".join(f"  {account}: {token}" for account, token in keys.account_jwts(refuse=refuse).items())
    return f"""\
server_name: incl
host: 127.0.0.1
port: {port}
ports_file_dir: {_quoted(ports_dir)}
max_payload: {MAX_PAYLOAD}
write_deadline: "10s"
feature_flags {{ js_ack_fc_v2: false }}

operator: {keys.operator_jwt()}
system_account: {keys.system.public}
resolver: MEMORY
resolver_preload {{
{preload}
}}

jetstream {{
  store_dir: {_quoted(store)}
  sync_interval: always
  max_memory_store: {256 * 1024 * 1024}
  max_file_store: {room}
}}
"""


def max_store(store: Path) -> int:
    """Bytes that JetStream may fill: below what the volume has, so that a full disk is an error at once.

    When the volume itself fills up, publishes only time out until a restart.
    """
    used = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    free = shutil.disk_usage(store).free
    return min(_MOST_STORE, max(_LEAST_STORE, used + int(free * _SHARE_OF_FREE)))


def _quoted(path: Path) -> str:
    return json.dumps(str(path.resolve()), ensure_ascii=False)
