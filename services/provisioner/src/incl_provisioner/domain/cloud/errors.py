"""What an error of a cloud means for the next step: another zone, another region, wait, clean up, tell somebody.

An error comes as the body of an HTTP answer, as the `error` of an operation, or as the `errors` of a client library's
exception. `read_errors` takes all of these, and garbage; `classify.classify` says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_LONGEST_MESSAGE = 600


class Meaning(StrEnum):
    """What an error asks for."""

    NEXT_ZONE = "next_zone"
    """This zone cannot now; another may."""
    NEXT_REGION = "next_region"
    """Nothing in this region can now; another may."""
    QUOTA = "quota"
    """A limit of the account, in the region or everywhere: raise it, or wait until something ends."""
    BACK_OFF = "back_off"
    """Too many calls: the same again, later."""
    TRANSIENT = "transient"
    """The provider's trouble: the same again. It may have been done."""
    ADOPT = "adopt"
    """It is there already: look whether it is ours."""
    CLEAN_UP = "clean_up"
    """The answer contradicts itself: something may be there; delete it by its name, then another zone."""
    BAD_REQUEST = "bad_request"
    """It will never be accepted as it is."""
    PERMISSION = "permission"
    """The platform's account may not."""
    CREDENTIALS = "credentials"
    """The platform's account is not known any more."""


class Scope(StrEnum):
    """How far an error reaches, narrowest first."""

    NONE = "none"
    ZONE = "zone"
    REGION = "region"
    EVERYWHERE = "everywhere"


@dataclass(frozen=True, slots=True)
class CloudError:
    """One error as the provider said it. `code`: its name (reason), or empty; `status`: of HTTP, or none."""

    code: str = ""
    message: str = ""
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code means. `ttl_s`: the first cooldown; `any_machine`: it holds for every machine type.

    `telling`: the code says it all; else the provider's words may say more.
    """

    meaning: Meaning
    scope: Scope
    ttl_s: float
    message: str
    hint: str
    any_machine: bool = False
    telling: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do after an error. `reason`: a name for tables and metrics; `said`: the provider's own words.

    `waits`: time may help; else somebody must act, and trying again is pointless.
    `unknown_effect`: the call may have been done all the same: look for it before it is repeated.
    """

    meaning: Meaning
    scope: Scope
    ttl_s: float
    reason: str
    message: str
    hint: str
    said: str = ""
    any_machine: bool = False

    @property
    def waits(self) -> bool:
        """Whether time may help."""
        return self.meaning not in (Meaning.BAD_REQUEST, Meaning.PERMISSION, Meaning.CREDENTIALS)

    @property
    def unknown_effect(self) -> bool:
        """Whether the call may have been done although it failed."""
        return self.meaning in (Meaning.TRANSIENT, Meaning.CLEAN_UP, Meaning.ADOPT)


def read_errors(body: object, *, status: int | None = None) -> tuple[CloudError, ...]:
    """The errors in what came back: an answer's body, an operation, the errors of an exception, or anything.

    status: the answer's HTTP status, where the body does not name one. Never raises; nothing readable gives one error
    without a code.
    """
    found = tuple(_unique(_walk(body, status)))
    text = body if isinstance(body, str) else ""
    return found or (CloudError("", text.strip()[:_LONGEST_MESSAGE], status),)


def _unique(errors: Iterable[CloudError]) -> Iterable[CloudError]:
    return dict.fromkeys(error for error in errors if error.code or error.message or error.status)


def _walk(body: object, status: int | None, depth: int = 0) -> Iterable[CloudError]:
    if depth > 5:
        return
    if isinstance(body, Sequence) and not isinstance(body, str | bytes):
        for part in body[:50]:
            yield from _walk(part, status, depth + 1)
        return
    if not isinstance(body, Mapping):
        return
    inner = body.get("error")
    own = _number(body.get("httpErrorStatusCode")) or status
    if isinstance(inner, Mapping | Sequence) and not isinstance(inner, str):
        yield from _walk(inner, own, depth + 1)
        return
    own = _number(body.get("code")) or own
    details = [part for key in ("errors", "details", "errorDetails") for part in _walk(body.get(key), own, depth + 1)]
    yield from details
    code = _code(body)
    # The envelope's status is a class of errors (403 is PERMISSION_DENIED, whatever the reason): a reason says more.
    general = code == body.get("status") and any(part.code for part in details)
    if (code and not general) or not details:
        yield CloudError(code, str(body.get("message") or body.get("error_description") or "")[:_LONGEST_MESSAGE], own)


def _code(body: Mapping[str, Any]) -> str:
    """The most telling name that a mapping has: a reason, a code in words, or a status in words."""
    for key in ("reason", "code", "status", "error"):
        value = body.get(key)
        if isinstance(value, str) and value and not value.isdigit():
            return value[:120]
    return ""


def _number(value: object) -> int | None:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599 else None
