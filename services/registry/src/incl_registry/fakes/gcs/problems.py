"""Errors as the JSON API tells them, and as the XML API does (signed URLs)."""

from __future__ import annotations

from typing import Any

JSON = dict[str, Any]


class ApiError(Exception):
    """status: of HTTP; reason: the API's own word; code: the XML API's."""

    def __init__(self, status: int, reason: str, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.code = status, reason, message, code or reason

    def body(self) -> JSON:
        """As the JSON API has it."""
        detail = {"message": self.message, "domain": "global", "reason": self.reason}
        return {"error": {"code": self.status, "message": self.message, "errors": [detail]}}

    def xml(self) -> bytes:
        """As the XML API has it."""
        text = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        return f"<?xml version='1.0' encoding='UTF-8'?>{text}".encode()


def no_object(bucket: str, name: str) -> ApiError:
    """No such object."""
    return ApiError(404, "notFound", f"No such object: {bucket}/{name}", "NoSuchKey")


def no_bucket() -> ApiError:
    """No such bucket."""
    return ApiError(404, "notFound", "The specified bucket does not exist.", "NoSuchBucket")


def unmet() -> ApiError:
    """A precondition does not hold."""
    message = "At least one of the pre-conditions you specified did not hold."
    return ApiError(412, "conditionNotMet", message, "PreconditionFailed")


def invalid(message: str) -> ApiError:
    """A request that makes no sense."""
    return ApiError(400, "invalid", message, "InvalidArgument")
