"""NATS JWTs of version 2, encoded in pure Python (https://docs.nats.io/running-a-nats-service/configuration/securing_nats/jwt).

A token is three parts in unpadded URL-safe base64: header, claims, Ed25519 signature by the issuer's key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import nkeys

UNLIMITED = -1
_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
OPERATOR = nkeys.PREFIX_BYTE_OPERATOR
ACCOUNT = nkeys.PREFIX_BYTE_ACCOUNT
USER = nkeys.PREFIX_BYTE_USER


class Key:
    """An Ed25519 key pair in the text forms of NATS."""

    def __init__(self, seed: str) -> None:
        self._pair = nkeys.from_seed(seed.encode())
        self.seed = seed
        self.public = self._pair.public_key.decode()

    @classmethod
    def new(cls, kind: int) -> Key:
        """A new key: OPERATOR, ACCOUNT or USER."""
        return cls(nkeys.encode_seed(os.urandom(32), kind).decode())

    def sign(self, content: bytes) -> bytes:
        """64 bytes of signature."""
        signature: bytes = self._pair.sign(content)
        return signature

    def __repr__(self) -> str:
        return f"Key({self.public})"


def encode(
    issuer: Key, subject: str, name: str, nats: Mapping[str, Any], *, issued: float, expires: float | None = None
) -> str:
    """A signed token. `expires` (seconds since the epoch) none: for ever."""
    claims: dict[str, Any] = {"iat": int(issued), "iss": issuer.public, "name": name, "sub": subject}
    if expires is not None:
        claims["exp"] = int(expires)
    claims["nats"] = {**nats, "version": 2}
    claims["jti"] = base64.b32encode(hashlib.sha256(_compact(claims)).digest()).decode().rstrip("=")
    content = f"{_base64(_compact(_HEADER))}.{_base64(_compact(claims))}"
    return f"{content}.{_base64(issuer.sign(content.encode()))}"


def permissions(publish: Sequence[str], subscribe: Sequence[str]) -> dict[str, Any]:
    """A template of permissions with no other limits. No subject allowed means: none at all."""
    return {
        "pub": {"allow": list(publish)} if publish else {"deny": [">"]},
        "sub": {"allow": list(subscribe)} if subscribe else {"deny": [">"]},
        "subs": UNLIMITED,
        "data": UNLIMITED,
        "payload": UNLIMITED,
        "allowed_connection_types": ["STANDARD"],
    }


def account_claims(
    scopes: Sequence[Mapping[str, Any]],
    *,
    jetstream: bool,
    exports: Sequence[Mapping[str, Any]] = (),
    imports: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The claims of an account; its users may do nothing but what a scope says."""
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn"), UNLIMITED)
    limits |= {"leaf": 0}
    if jetstream:
        limits |= dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), UNLIMITED)
    nothing = {"deny": [">"]}
    return {
        "type": "account",
        "limits": {**limits, "wildcards": True},
        "exports": [dict(one) for one in exports],
        "imports": [dict(one) for one in imports],
        "signing_keys": [dict(scope) for scope in scopes],
        "default_permissions": {"pub": nothing, "sub": nothing},
    }


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
