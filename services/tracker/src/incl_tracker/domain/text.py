"""Text from outside, made fit for every database: no NUL, no lone surrogates, no endless names."""

from __future__ import annotations

import hashlib

MAX_NAME = 250


def clean(text: str, limit: int | None = None) -> str:
    """Text that SQLite and PostgreSQL store alike; at most `limit` characters."""
    fit = text.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if limit is not None and len(fit) > limit:
        return fit[: limit - 1] + "…"
    return fit


def clean_name(text: str) -> str:
    """A name of a metric or parameter: control characters shown as such, a long one cut but still its own."""
    fit = "".join(c if c.isprintable() or c == " " else "\N{REPLACEMENT CHARACTER}" for c in clean(text))
    if len(fit) <= MAX_NAME:
        return fit or "(no name)"
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{fit[: MAX_NAME - 9]}…{digest}"
