"""The .creds file: a JWT and its seed, as every NATS client reads them. Needs the standard library only."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from incl_shared.auth.files import write_private
from incl_shared.auth.names import Role, inbox_prefix
from incl_shared.errors import InvalidInput, NotFoundError

_JWT = re.compile(r"-----BEGIN NATS USER JWT-----\s+(\S+)\s+-+END NATS USER JWT-+")


@dataclass(frozen=True)
class CredsInfo:
    """What a credential says of itself. Nothing here is verified: the server does that."""

    role: Role
    name: str
    tags: dict[str, tuple[str, ...]]
    expires: float | None

    @property
    def inbox(self) -> str:
        """The only prefix under which this credential may listen for answers."""
        return inbox_prefix(self.role, self.name)

    @property
    def projects(self) -> tuple[str, ...]:
        """The projects that it is bound to."""
        return self.tags.get("project", ())


def creds_text(jwt: str, seed: str) -> str:
    """The text of a .creds file."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "This file is a secret: whoever has it is you.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


def write_creds(path: Path, jwt: str, seed: str) -> Path:
    """Write a .creds file, 0600, whole or not at all."""
    write_private(path, creds_text(jwt, seed).encode())
    return path


def life_of(jwt: str) -> float | None:
    """Seconds from the issue of a JWT to its end; none: it has no end, or is no JWT.

    Unlike the time that is left, this needs no clock that agrees with the server's.
    """
    try:
        claims = _claims(jwt)
        return float(claims["exp"]) - float(claims["iat"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error):
        return None


def _claims(jwt: str) -> dict[str, Any]:
    body = jwt.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return claims


def read_info(path: Path) -> CredsInfo:
    """What the credential in a .creds file says of itself.

    Raises:
        NotFoundError: when there is no such file.
        InvalidInput: when it is no credential of this platform.
    """
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise NotFoundError(f"no credential at {path}", hint="start the platform with `incl up`") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not a credential", hint="start the platform again with `incl up`") from None
    return parse_info(text)


def parse_info(text: str) -> CredsInfo:
    """What the credential in the text of a .creds file, or a bare JWT, says of itself.

    Raises:
        InvalidInput: when it is no credential of this platform.
    """
    match = _JWT.search(text)
    try:
        claims = _claims(match[1] if match else text.strip())
        tags: dict[str, tuple[str, ...]] = {}
        for tag in claims["nats"]["tags"]:
            key, _, value = str(tag).partition(":")
            tags[key] = (*tags.get(key, ()), value)
        expires = claims.get("exp")
        return CredsInfo(Role(tags["role"][0]), str(claims["name"]), tags, float(expires) if expires else None)
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InvalidInput("that is not a credential of this platform", cause=str(error)) from None
