"""The token that the machines of one try share: made of the installation's key, so that it is stored nowhere. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac


def token(key: str, experiment: str, attempt: int, turn: int) -> str:
    """The token of a try: 256 bits that nobody can make without the key. The same try has the same one."""
    said = f"enroll\x1f{experiment}\x1f{attempt}\x1f{turn}".encode()
    return base64.urlsafe_b64encode(hmac.new(bytes.fromhex(key), said, hashlib.sha256).digest()).decode().rstrip("=")


def same(given: str, expected: str) -> bool:
    """Whether a token is the one, in a time that does not tell how much of it is."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
