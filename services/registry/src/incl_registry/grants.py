"""Grants: who may put or get the blobs of one experiment, until when. Signed, so that the door needs no memory.

A token is '<payload>.<signature>', both base64url: the payload is JSON, the signature HMAC-SHA256 (RFC 2104) of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from incl_registry.errors import UnauthorizedError
from incl_shared.errors import InvalidInput
from incl_shared.ids import is_id

KEY_BYTES = 32


class Verb(StrEnum):
    """What a grant is for."""

    PUT = "put"
    GET = "get"
    SHARE = "share"
    """One blob alone, for whoever has the link."""
    MODEL = "model"
    """To get what a version of a model needs: `experiment` is its registration."""


@dataclass(frozen=True, slots=True)
class GrantScope:
    """What a token says. expires: seconds since the epoch. blob and file (its name): of a shared one alone."""

    project: str
    experiment: str
    verb: Verb
    expires: float
    blob: str | None = None
    file: str | None = None


def sign(key: bytes, scope: GrantScope) -> str:
    """The token of a scope."""
    fields = {"p": scope.project, "e": scope.experiment, "v": scope.verb.value, "x": scope.expires}
    if scope.blob is not None:
        fields |= {"b": scope.blob, "n": scope.file or ""}
    payload = _encode(json.dumps(fields, separators=(",", ":")).encode())
    return f"{payload}.{_encode(_mac(key, payload))}"


def verify(key: bytes, token: str, now: float) -> GrantScope:
    """The scope of a token.

    Raises:
        UnauthorizedError: it is broken, signed by another key, or expired.
    """
    payload, _, signature = token.partition(".")
    if not hmac.compare_digest(_decode(signature), _mac(key, payload)):
        raise UnauthorizedError("the grant is not one of this artifact store", hint="ask for a new grant")
    try:
        fields = json.loads(_decode(payload))
        scope = GrantScope(
            str(fields["p"]), str(fields["e"]), Verb(fields["v"]), float(fields["x"]), fields.get("b"), fields.get("n")
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UnauthorizedError("the grant cannot be read", hint="ask for a new grant") from error
    if not is_id(scope.experiment) or (scope.verb is Verb.SHARE) != isinstance(scope.blob, str):
        raise UnauthorizedError("the grant cannot be read", hint="ask for a new grant")
    if now >= scope.expires:
        raise UnauthorizedError("the grant is expired", hint="ask for a new grant")
    return scope


def load_key(path: Path) -> bytes:
    """The signing key; made at the first start, readable by its owner alone.

    Raises:
        InvalidInput: others can read it, or it is no key.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read_key(path)
    try:
        key = os.urandom(KEY_BYTES)
        os.write(handle, key)
        os.fsync(handle)
    finally:
        os.close(handle)
    return key


def _read_key(path: Path) -> bytes:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise InvalidInput(f"others can read the key {path}", hint=f"chmod 600 {path}")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InvalidInput(f"{path} is no key of {KEY_BYTES} bytes", hint=f"remove {path}; a new one is made")
    return key


def _mac(key: bytes, payload: str) -> bytes:
    return hmac.new(key, payload.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""
