"""Identifiers: ULIDs for what begins with somebody's wish, derived ids for what is a consequence.

Both have the same form, 26 lower-case characters of Crockford's base 32 (https://github.com/ulid/spec).
An id made again from the same parts is the same id, so that a repeated consequence is recognised.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import Annotated

from pydantic import StringConstraints

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_LENGTH = 26
SHORT_LENGTH = 8
ID_PATTERN = r"^[0-9a-hjkmnp-tv-z]{26}$"
TOKEN_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
"""A ULID or a derived id."""
Token = Annotated[str, StringConstraints(pattern=TOKEN_PATTERN)]
"""One token of a bus subject: a project, a user, a node."""
Sha256 = Annotated[str, StringConstraints(pattern=SHA256_PATTERN)]
"""Lower-case hexadecimal sha256."""

_ID = re.compile(ID_PATTERN)


def _encode(value: int) -> str:
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -5, -5))


def new_id(now: float | None = None) -> str:
    """A new ULID: 48 bits of milliseconds since the epoch, 80 random bits; sorts by time."""
    milliseconds = int((time.time() if now is None else now) * 1000)
    return _encode((milliseconds << 80) | int.from_bytes(os.urandom(10), "big"))


def derived_id(*parts: object) -> str:
    """The id of a consequence: the same parts give the same id, on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return _encode(int.from_bytes(digest[:16], "big"))


def is_id(text: str) -> bool:
    """Whether text has the form of an id."""
    return _ID.fullmatch(text) is not None


def short(identifier: str) -> str:
    """The last eight characters: the random end of a ULID, which a person can type."""
    return identifier[-SHORT_LENGTH:]


def job_id(experiment: str, attempt: int, rank: int) -> str:
    """One rank of one attempt, as one token."""
    return f"{experiment}-{attempt}-{rank}"


def parse_job_id(job: str) -> tuple[str, int, int]:
    """(experiment, attempt, rank) of a job id.

    Raises:
        ValueError: when it is none.
    """
    experiment, attempt, rank = job.split("-")
    if not is_id(experiment):
        raise ValueError(f"not a job id: {job!r}")
    return experiment, int(attempt), int(rank)
