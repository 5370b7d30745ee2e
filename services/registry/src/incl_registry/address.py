"""The address of a store in a bucket. Pure: settings are checked without the provider's library."""

from __future__ import annotations

import re
from dataclasses import dataclass

from incl_shared.errors import InvalidInput

_URL = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:/([A-Za-z0-9._/-]{0,200}))?\Z")


@dataclass(frozen=True, slots=True)
class Address:
    """Of a store. prefix: without slashes at its ends; may be empty."""

    bucket: str
    prefix: str


def parse(url: str) -> Address:
    """gs://bucket or gs://bucket/prefix.

    Raises:
        InvalidInput: it is neither.
    """
    found = _URL.fullmatch(url)
    prefix = (found[2] or "").strip("/") if found else ""
    if found is None or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise InvalidInput(f"{url[:300]!r} is not the address of a bucket", hint="gs://bucket or gs://bucket/prefix")
    return Address(found[1], prefix)
