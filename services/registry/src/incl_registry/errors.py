"""Errors of the artifact store beside the common ones."""

from __future__ import annotations

from incl_shared.errors import DeniedError, InvalidInput, UnavailableError


class StorageFullError(UnavailableError):
    """The disk of the store has no room."""

    http_status = 507


class WrongOffsetError(UnavailableError):
    """An upload goes on at another place than where the store is. `offset`: bytes that it has."""

    http_status = 409

    def __init__(self, offset: int) -> None:
        super().__init__(f"the upload is at byte {offset}", hint="go on from there")
        self.offset = offset


class CheckingError(UnavailableError):
    """The checksum of what came is being looked at, over several requests. `checked`: bytes so far."""

    def __init__(self, checked: int, size: int) -> None:
        super().__init__(
            "the store reads what it has of this upload",
            cause=f"{checked} of {size} bytes are read",
            hint="try again in a moment; it goes on from there",
        )
        self.checked = checked


class UnauthorizedError(DeniedError):
    """No grant, or one that is broken or expired."""

    http_status = 401


class TooLargeError(InvalidInput):
    """Larger than any blob may be."""

    http_status = 413
