"""Errors of the bus that no envelope carries."""

from __future__ import annotations

from incl_shared.errors import ConflictError, UnavailableError


class BackPressure(UnavailableError):  # noqa: N818
    """The stream is full and takes nothing new: keep the message and try again later."""


class WrongSequence(ConflictError):  # noqa: N818
    """Somebody else wrote the subject since it was read (expected-last-subject-sequence)."""


class Early(Exception):  # noqa: N818
    """Raised by a handler: what this message needs has not come yet. It is delivered again soon."""


class NotMine(Exception):  # noqa: N818
    """Raised by a handler: these messages are another process's to handle. They are given back, uncounted."""


class Poison(Exception):  # noqa: N818
    """Raised by a handler: this message can never be handled. It becomes a dead letter with the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
