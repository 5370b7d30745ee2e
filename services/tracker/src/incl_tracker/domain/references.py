"""What a person may call an experiment: an id, an end or a beginning of one or of its short form, @last, a name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from incl_shared.errors import InvalidInput
from incl_shared.ids import is_id

SHORTEST = 4
_LAST = re.compile(r"^@last(?:~(\d{1,6}))?$")
_PIECE = re.compile(r"^[0-9a-hjkmnp-tv-z]{4,26}$")


@dataclass(frozen=True, slots=True)
class Reference:
    """Exactly one of the first three, or a name; `piece` may be a name too."""

    whole: str | None = None
    back: int | None = None
    piece: str | None = None
    name: str = ""


def parse(ref: str) -> Reference:
    """Understand it.

    Raises:
        InvalidInput: when it begins with @ and is not @last.
    """
    text = ref.strip()
    lower = text.lower()
    if is_id(lower):
        return Reference(whole=lower, name=text)
    if text.startswith("@"):
        match = _LAST.fullmatch(lower)
        if match is None:
            raise InvalidInput(f"{ref!r} means nothing", hint="write @last, or @last~1 for the one before")
        return Reference(back=int(match[1] or 0), name=text)
    return Reference(piece=lower if _PIECE.fullmatch(lower) else None, name=text)
