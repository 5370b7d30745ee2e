"""Names, request ids and labels of what is made in a cloud: made again from the same parts they are the same.

A name says whose machine it is, and can be read back; labels say it again, with the platform that owns it, so that
two platforms in one cloud project never touch each other's machines.
"""

from __future__ import annotations

import functools
import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from incl_shared.ids import ID_LENGTH, is_id

MAX_NAME = 63
MAX_LABEL = 63
_PREFIX = "incl"
_NAME = re.compile(
    rf"^{_PREFIX}-([0-9a-z]{{{ID_LENGTH}}})-a([1-9][0-9]{{0,5}})-n(0|[1-9][0-9]{{0,4}})(?:-([a-z0-9]{{1,8}}))?$"
)
_NAMESPACE = uuid.UUID("6b9f0f4e-55f5-5d9c-9c3a-1f5f6d7c8e90")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_CUT = 10


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One rank of one attempt of an experiment: what a machine is for."""

    experiment: str
    attempt: int
    rank: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose it is. `platform`: the id of this installation."""

    platform: str
    project: str
    user: str
    place: Place


def machine_name(place: Place) -> str:
    """The name of a machine, by the provider's rules: at most 63 of a-z, 0-9 and '-', beginning with a letter.

    Raises:
        ValueError: the parts are none of an experiment.
    """
    return _named(place, "")


def disk_name(place: Place, part: str) -> str:
    """The name of a disk of a machine; part: 'boot', 'data0', at most 8 of a-z and 0-9.

    Raises:
        ValueError: the parts are none of an experiment, or there is no such part.
    """
    if not re.fullmatch(r"[a-z0-9]{1,8}", part):
        raise ValueError(f"not a part of a machine: {part!r}")
    return _named(place, f"-{part}")


def _named(place: Place, suffix: str) -> str:
    name = f"{_PREFIX}-{place.experiment}-a{place.attempt}-n{place.rank}{suffix}"
    if not is_id(place.experiment) or _NAME.match(name) is None:
        raise ValueError(f"no name can be made of {place}")
    return name


def parse_name(name: str) -> tuple[Place, str] | None:
    """(what it is for, the part of the machine or '') of a machine's or disk's name; None when it is not ours."""
    match = _NAME.fullmatch(name)
    if match is None or not is_id(match[1]):
        return None
    return Place(match[1], int(match[2]), int(match[3])), match[4] or ""


@functools.lru_cache(maxsize=16_384)
def rank_of(name: str) -> Place | None:
    """Which rank a machine of this name was made for; None: it was made for none."""
    parsed = parse_name(name)
    return parsed[0] if parsed is not None and not parsed[1] else None


def request_id(platform: str, place: Place, action: str, where: str, turn: int = 0) -> str:
    """The id of a call, by which the provider knows a repeat of it.

    where: the zone or region; the same machine tried elsewhere is another call. turn: raised after a call has failed
    for good, else the provider answers with that failure again.
    """
    parts = (platform, place.experiment, place.attempt, place.rank, action, where, turn)
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(map(str, parts))))


def call_id(*parts: str) -> str:
    """The id of a call about something that has a name of its own; the same parts give the same one."""
    return str(uuid.uuid5(_NAMESPACE, "\x1f".join(parts)))


def labels(owner: Owner) -> dict[str, str]:
    """The labels of a machine or disk; every value within the provider's alphabet and length."""
    return {
        "incl-platform": escape(owner.platform),
        "incl-project": escape(owner.project),
        "incl-user": escape(owner.user),
        "incl-experiment": escape(owner.place.experiment),
        "incl-attempt": str(owner.place.attempt),
        "incl-rank": str(owner.place.rank),
    }


def label_filter(platform: str) -> str:
    """The provider's filter for everything of a platform."""
    return f"labels.incl-platform={escape(platform)}"


def parse_labels(found: Mapping[str, str]) -> Owner | None:
    """Whose it is by its labels; None when they are not ours, or not whole."""
    try:
        place = Place(
            unescape(found["incl-experiment"]), _count(found["incl-attempt"], 1), _count(found["incl-rank"], 0)
        )
        owner = Owner(
            unescape(found["incl-platform"]), unescape(found["incl-project"]), unescape(found["incl-user"]), place
        )
    except (KeyError, ValueError):
        return None
    return owner if is_id(place.experiment) else None


def same_owner(found: Mapping[str, str], owner: Owner) -> bool:
    """Whether the labels of something that is there are those that it should have: ours, and for this very rank."""
    return all(found.get(key) == value for key, value in labels(owner).items())


def _count(text: str, least: int) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,6}", text) or int(text) < least:
        raise ValueError(f"not a number: {text!r}")
    return int(text)


def escape(text: str) -> str:
    """A label's value: a-z, 0-9 and '-' as they are, every other byte of UTF-8 as '_' and two hexadecimal digits.

    Different texts give different values. One that becomes longer than 63 is cut, and ends in '__' and 10 hexadecimal
    digits of its sha256: it can be compared, not read back.
    """
    raw = text.encode("utf-8", "surrogatepass")
    value = "".join(chr(byte) if chr(byte) in _PLAIN else f"_{byte:02x}" for byte in raw)
    if len(value) <= MAX_LABEL:
        return value
    kept = re.sub(r"_[0-9a-f]?$", "", value[: MAX_LABEL - _CUT - 2])
    return f"{kept}__{hashlib.sha256(raw).hexdigest()[:_CUT]}"


def unescape(value: str) -> str:
    """The text of a label's value.

    Raises:
        ValueError: it was cut, or is not one that `escape` makes.
    """
    if not re.fullmatch(r"(?:[a-z0-9-]|_[0-9a-f]{2})*", value):
        raise ValueError(f"not a whole value of a label: {value[:80]!r}")
    raw = re.sub(r"_([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), value)
    text = raw.encode("latin-1").decode("utf-8", "surrogatepass")
    if escape(text) != value:
        raise ValueError(f"not a value that a label would have: {value[:80]!r}")
    return text
