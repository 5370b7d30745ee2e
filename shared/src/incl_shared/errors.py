"""One tree of errors; the same object feeds the CLI, the HTTP API and the bus.

InclError
├── InvalidInput        what was asked for is wrong (exit 2, HTTP 422)
│   └── UnsupportedError    right, but this platform cannot honour it
├── NotFoundError       no such thing (exit 4, HTTP 404)
├── AmbiguousError      a short id that means several things (exit 2, HTTP 409)
├── ConflictError       the thing is in a state that forbids it (exit 5, HTTP 409)
├── DeniedError         not allowed (exit 6, HTTP 403)
├── UnavailableError    a server cannot be reached now (exit 7, HTTP 503)
├── IntegrityError      bytes are not what their checksum says (exit 8, HTTP 422)
└── InternalError       our fault (exit 70, HTTP 500)
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class ErrorEnvelope(BaseModel):
    """An error as it crosses the bus or HTTP."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    code: str
    message: str
    cause: str = ""
    hint: str = ""


class InclError(Exception):
    """The base: what happened (message), why (cause), the next step (hint)."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, cause: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint

    def envelope(self) -> ErrorEnvelope:
        """The form that crosses a border."""
        return ErrorEnvelope(code=self.code, message=self.message, cause=self.cause, hint=self.hint)

    @staticmethod
    def from_envelope(envelope: ErrorEnvelope) -> InclError:
        """The error that an envelope stands for; an unknown code gives the base class."""
        kind = _BY_CODE.get(envelope.code, InclError)
        return kind(envelope.message, cause=envelope.cause, hint=envelope.hint)


class InvalidInput(InclError):  # noqa: N818
    """What was asked for is wrong."""

    code = "invalid_input"
    exit_code = 2
    http_status = 422


class UnsupportedError(InvalidInput):
    """It is right, but nothing here can honour it."""

    code = "unsupported"


class NotFoundError(InclError):
    """No such thing."""

    code = "not_found"
    exit_code = 4
    http_status = 404


class AmbiguousError(InclError):
    """A short name that means several things."""

    code = "ambiguous"
    exit_code = 2
    http_status = 409


class ConflictError(InclError):
    """The thing is in a state that forbids it."""

    code = "conflict"
    exit_code = 5
    http_status = 409


class DeniedError(InclError):
    """Not allowed."""

    code = "denied"
    exit_code = 6
    http_status = 403


class UnavailableError(InclError):
    """A server cannot be reached now."""

    code = "unavailable"
    exit_code = 7
    http_status = 503


class IntegrityError(InclError):
    """Bytes are not what their checksum says."""

    code = "integrity"
    exit_code = 8
    http_status = 422


class InternalError(InclError):
    """Our fault."""

    code = "internal"
    exit_code = 70
    http_status = 500


def _tree(kind: type[InclError]) -> list[type[InclError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in _tree(child))]


_BY_CODE: dict[str, type[InclError]] = {kind.code: kind for kind in _tree(InclError)}
