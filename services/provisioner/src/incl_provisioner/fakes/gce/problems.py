"""The errors of the API, in the provider's own shapes and words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]
RESOURCE_ERRORS = "https://cloud.google.com/compute/docs/resource-error"

CANONICAL = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    409: "ALREADY_EXISTS", 412: "FAILED_PRECONDITION", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL",
    503: "UNAVAILABLE",
}  # fmt: skip
PHRASES = {
    400: "BAD REQUEST", 403: "FORBIDDEN", 404: "NOT FOUND", 409: "CONFLICT", 429: "TOO MANY REQUESTS",
    500: "INTERNAL SERVER ERROR", 503: "SERVICE UNAVAILABLE",
}  # fmt: skip


class ApiError(Exception):
    """A call that the API refuses: an HTTP status and the error envelope."""

    def __init__(self, status: int, reason: str, message: str, *, domain: str = "global", **more: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.domain, self.more = status, reason, message, domain, more

    def body(self) -> JSON:
        """The envelope."""
        error: JSON = {
            "code": self.status,
            "message": self.message,
            "errors": [{"message": self.message, "domain": self.domain, "reason": self.reason, **self.more}],
        }
        if self.status in (401, 403, 429) and self.reason != "quotaExceeded":
            error["status"] = CANONICAL[self.status]
        return {"error": error}


@dataclass(frozen=True)
class OperationError:
    """What a finished operation says went wrong.

    Attributes:
        code: such as ZONE_RESOURCE_POOL_EXHAUSTED.
        status: the HTTP status that the operation carries.
        details: `errorDetails`.
    """

    code: str
    message: str
    status: int = 400
    details: tuple[Mapping[str, Any], ...] = field(default=())

    def body(self) -> JSON:
        """The fields that it adds to an operation."""
        error: JSON = {"code": self.code, "message": self.message}
        if self.details:
            error["errorDetails"] = [dict(detail) for detail in self.details]
        return {
            "error": {"errors": [error]},
            "httpErrorStatusCode": self.status,
            "httpErrorMessage": PHRASES.get(self.status, "ERROR"),
        }


class OperationFailed(Exception):  # noqa: N818
    """Raised inside the work of an operation."""

    def __init__(self, error: OperationError) -> None:
        super().__init__(error.message)
        self.error = error


def not_found(resource: str) -> ApiError:
    """Args: resource: projects/p/zones/z/instances/n."""
    return ApiError(404, "notFound", f"The resource '{resource}' was not found")


def already_exists(resource: str) -> ApiError:
    """A name is taken."""
    return ApiError(409, "alreadyExists", f"The resource '{resource}' already exists")


def invalid(name: str, value: object, why: str) -> ApiError:
    """A field of the request that cannot be."""
    return ApiError(400, "invalid", f"Invalid value for field '{name}': '{value}'. {why}")


def denied(permission: str, resource: str) -> ApiError:
    """No permission."""
    return ApiError(403, "forbidden", f"Required '{permission}' permission for '{resource}'")


def expired() -> ApiError:
    """Credentials that are not valid any more."""
    return ApiError(
        401,
        "authError",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
        location="Authorization",
        locationType="header",
    )


def rate_limited(group: str, status: int = 403) -> ApiError:
    """Too many calls of one group of methods."""
    return ApiError(
        status,
        "rateLimitExceeded",
        f"Quota exceeded for quota metric '{group}' and limit '{group} per minute' of service "
        "'compute.googleapis.com' for consumer 'project_number:100000000001'.",
        domain="usageLimits",
    )


def quota_message(metric: str, limit: float, region: str | None) -> str:
    """The sentence, with the two spaces that the provider puts in."""
    return f"Quota '{metric}' exceeded.  Limit: {limit:.1f} " + (f"in region {region}." if region else "globally.")


def quota_of_request(metric: str, limit: float, region: str | None) -> ApiError:
    """A quota that is full, seen before any operation begins."""
    return ApiError(403, "quotaExceeded", quota_message(metric, limit, region), domain="usageLimits")


def quota_of_operation(metric: str, limit: float, region: str | None) -> OperationError:
    """The same inside an operation."""
    info = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": f"{metric.replace('_', '-')}-per-project" + ("-region" if region else ""),
        "limit": limit,
        "dimensions": {"region": region} if region else {},
    }
    return OperationError("QUOTA_EXCEEDED", quota_message(metric, limit, region), 403, ({"quotaInfo": info},))


def stockout(project: str, zone: str, machine: str, attachment: str, others: list[str]) -> OperationError:
    """No capacity, with the details that the provider gives."""
    kind, _, count = attachment.partition(":")
    what = f"A {machine} VM instance" + (f" with {count} {kind} accelerator(s)" if attachment else "")
    sentences = [
        f"{what} is currently unavailable in the {zone} zone.",
        f"Consider trying your request in the {', '.join(others)} zone(s), which currently has capacity to accommodate "
        "your request."
        if others
        else "",
        "Alternatively, you can try your request again with a different VM hardware configuration or at a later time.",
        "For more information, see the troubleshooting documentation.",
    ]
    metadatas = {"attachment": attachment, "vmType": machine, "zone": zone, "zonesAvailable": ",".join(others)}
    info = {"domain": "compute.googleapis.com", "reason": "resource_availability", "metadatas": metadatas}
    details = (
        {"help": {"links": [{"description": "Troubleshooting documentation", "url": RESOURCE_ERRORS}]}},
        {"localizedMessage": {"locale": "en-US", "message": " ".join(part for part in sentences if part)}},
        {"errorInfo": info},
    )
    message = f"{stockout_message(project, zone)}  '(resource type:compute)'."
    return OperationError("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", message, 503, details)


def stockout_plain(project: str, zone: str) -> OperationError:
    """No capacity, without details."""
    return OperationError(
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        stockout_message(project, zone) + "  Try a different zone, or try again later.",
        503,
    )


def stockout_message(project: str, zone: str) -> str:
    """The sentence that both begin with."""
    return (
        f"The zone 'projects/{project}/zones/{zone}' does not have enough resources available to fulfill the request."
    )


def insufficient_capacity(project: str, place: str) -> ApiError:
    """No capacity, as bulkInsert says it before it begins: a 503 that no retry heals."""
    return ApiError(
        503,
        "insufficientCapacity",
        f"The location 'projects/{project}/{place}' does not have enough resources available to fulfill the request.",
    )
