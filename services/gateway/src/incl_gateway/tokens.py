"""API tokens: 256 random bits that stand for a user. Pure."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field

PREFIX = "incl_"
SHOWN = 12
_FORM = re.compile(r"^incl_[A-Za-z0-9_-]{43}$")


@dataclass(frozen=True)
class Fresh:
    """A new token and what is stored of it."""

    token: str = field(repr=False)
    prefix: str
    hash: str


def fresh() -> Fresh:
    """A new token. A plain hash is enough: nobody guesses 256 random bits."""
    token = PREFIX + secrets.token_urlsafe(32)
    return Fresh(token, token[:SHOWN], digest(token))


def digest(token: str) -> str:
    """What is stored: hexadecimal sha256."""
    return hashlib.sha256(token.encode()).hexdigest()


def well_formed(token: str) -> bool:
    """Whether text can be a token at all."""
    return _FORM.fullmatch(token) is not None


def valid(now: float, *, expires: float | None, revoked: float | None) -> bool:
    """Whether a stored token still stands for its user."""
    return revoked is None and (expires is None or now < expires)
