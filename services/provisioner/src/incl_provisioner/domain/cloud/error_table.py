"""The codes of Compute Engine and what each means. The first cooldowns; repetition makes them longer.

Sources: the public list of the API's errors, its pages on troubleshooting (resource availability, bulk creation,
concurrent operations), and what schedulers of others have met: UNSUPPORTED_OPERATION comes when a spot machine is
taken while it is created, RESOURCE_NOT_FOUND on an operation whose machine exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from incl_provisioner.domain.cloud.errors import Meaning, Rule, Scope

_M, _S = Meaning, Scope
_ACCOUNT = "see docs/mechanisms/where.md for what the platform's account needs"

STOCKOUT = Rule(
    _M.NEXT_ZONE, _S.ZONE, 300.0, "the zone has no such machine free now",
    "other zones are tried; more zones, another machine type or on-demand help",
)  # fmt: skip
_REGION_OUT = Rule(
    _M.NEXT_REGION, _S.REGION, 300.0, "no zone of the region has such a machine free now",
    "other regions are tried; more regions or another machine type help",
)  # fmt: skip
_TAKEN = Rule(
    _M.NEXT_ZONE, _S.ZONE, 180.0, "the machine was taken or refused while it was made", "other zones are tried"
)
_QUOTA = Rule(_M.QUOTA, _S.REGION, 600.0, "a quota is used up", "it goes on when something ends, or raise the quota")
_RATE = Rule(_M.BACK_OFF, _S.NONE, 30.0, "too many calls to the provider", "nothing to do: it is tried again slower")
_TROUBLE = Rule(
    _M.TRANSIENT, _S.NONE, 5.0, "the provider has a fault of its own", "nothing to do: it is tried again",
    telling=False,
)  # fmt: skip
_PLACE_DOWN = Rule(
    _M.NEXT_REGION, _S.REGION, 300.0, "the provider takes no requests in this region now", "other regions are tried",
    any_machine=True,
)  # fmt: skip
_NOT_READY = Rule(_M.TRANSIENT, _S.ZONE, 15.0, "something it needs is not ready yet", "nothing to do: tried again")
_THERE = Rule(_M.ADOPT, _S.NONE, 0.0, "something of this name is there already", "nothing to do: it is looked at")
_GONE = Rule(
    _M.CLEAN_UP, _S.ZONE, 180.0, "the provider does not find what it was making",
    "nothing to do: what may be left is deleted, then other zones are tried", telling=False,
)  # fmt: skip
_BAD = Rule(
    _M.BAD_REQUEST, _S.NONE, 0.0, "the provider refuses the request as it is", "see its words; then submit anew",
    telling=False,
)  # fmt: skip
_NETWORK = Rule(
    _M.BAD_REQUEST, _S.EVERYWHERE, 60.0, "the network or subnetwork that is configured does not exist",
    "set the provisioner's network to one that the project has in these regions", any_machine=True,
)  # fmt: skip
_PROJECT = Rule(
    _M.BAD_REQUEST, _S.EVERYWHERE, 60.0, "the cloud project that is configured does not exist, or may not be seen",
    "correct the provisioner's cloud project", any_machine=True,
)  # fmt: skip
_NOT_HERE = Rule(
    _M.NEXT_ZONE, _S.ZONE, 3600.0, "the zone does not offer this machine type, GPU or disk",
    "other zones are tried; the machine table may be older than the cloud",
)  # fmt: skip
_IMAGE = Rule(
    _M.BAD_REQUEST, _S.EVERYWHERE, 60.0, "the image family that is configured does not exist, or may not be used",
    "correct the provisioner's image settings", any_machine=True,
)  # fmt: skip
_MAY_NOT = Rule(
    _M.PERMISSION, _S.EVERYWHERE, 60.0, "the platform's account may not do this", _ACCOUNT, True, telling=False
)
_NO_API = Rule(
    _M.PERMISSION, _S.EVERYWHERE, 60.0, "the cloud project has the Compute Engine API switched off",
    "switch on compute.googleapis.com in the project", True,
)  # fmt: skip
_BILLING = Rule(
    _M.PERMISSION, _S.EVERYWHERE, 300.0, "the cloud project has no billing account that works",
    "correct the project's billing", True,
)  # fmt: skip
_POLICY = Rule(
    _M.PERMISSION, _S.EVERYWHERE, 300.0, "a policy of the organisation forbids this",
    "ask whoever keeps the organisation's policies (external addresses, regions and images are common ones)",
)  # fmt: skip
_LOCATION = Rule(
    _M.NEXT_REGION, _S.REGION, 3600.0, "a policy of the organisation forbids this region",
    "name the regions that are allowed", any_machine=True,
)  # fmt: skip
_WHO = Rule(
    _M.CREDENTIALS, _S.EVERYWHERE, 30.0, "the provider does not accept the platform's credentials",
    "renew them where the provisioner runs (gcloud auth application-default login, or its key file), then start it "
    "anew: incl down && incl up; machines that run go on", True,
)  # fmt: skip

UNKNOWN = Rule(
    _M.NEXT_ZONE, _S.ZONE, 120.0, "the provider gave an error that is not known here", "other zones are tried"
)


def _table(*rows: tuple[Rule, str]) -> Iterable[tuple[str, Rule]]:
    for rule, codes in rows:
        for code in codes.split():
            yield code, rule


BY_CODE: dict[str, Rule] = dict(
    _table(
        (STOCKOUT, """ZONE_RESOURCE_POOL_EXHAUSTED ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS RESOURCE_POOL_EXHAUSTED
            INSUFFICIENT_CAPACITY STOCKOUT GPU_STOCKOUT VM_MIN_COUNT_NOT_REACHED"""),
        (_REGION_OUT, "REGION_RESOURCE_POOL_EXHAUSTED REGION_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"),
        (_TAKEN, "UNSUPPORTED_OPERATION INSTANCE_PREEMPTED PREEMPTED"),
        (_QUOTA, "QUOTA_EXCEEDED QUOTA_FAILURE LIMIT_EXCEEDED"),
        (_RATE, """RATE_LIMIT_EXCEEDED USER_RATE_LIMIT_EXCEEDED RESOURCE_OPERATION_RATE_EXCEEDED RESOURCE_EXHAUSTED
            CONCURRENT_OPERATIONS_QUOTA_EXCEEDED OPERATION_RATE_EXCEEDED TOO_MANY_REQUESTS"""),
        (_TROUBLE, """INTERNAL_ERROR INTERNAL BACKEND_ERROR SERVICE_UNAVAILABLE UNAVAILABLE TIMEOUT DEADLINE_EXCEEDED
            ABORTED OPERATION_CANCELED_BY_USER CONDITION_NOT_MET PRECONDITION_FAILED UNKNOWN BAD_GATEWAY
            CONNECTION_ERROR"""),
        (_PLACE_DOWN, "SERVICE_UNAVAILABLE_FOR_LOCATION"),
        (_NOT_READY, "RESOURCE_NOT_READY RESOURCE_IN_USE_BY_ANOTHER_RESOURCE RESOURCE_IS_BUSY"),
        (_THERE, "ALREADY_EXISTS RESOURCE_ALREADY_EXISTS DUPLICATE"),
        (_GONE, "RESOURCE_NOT_FOUND NOT_FOUND GONE"),
        (_NOT_HERE, """MACHINE_TYPE_NOT_FOUND ACCELERATOR_TYPE_NOT_FOUND DISK_TYPE_NOT_FOUND ZONE_NOT_FOUND
            MACHINE_TYPE_DISK_TYPE_MISMATCH UNSUPPORTED_FOR_ZONE"""),
        (_BAD, """INVALID INVALID_ARGUMENT INVALID_FIELD_VALUE INVALID_USAGE BAD_REQUEST REQUIRED MISSING_REQUIRED_FIELD
            FIELD_SIZE_TOO_LARGE FAILED_PRECONDITION INVALID_PARAMETER PARSE_ERROR REQUEST_BODY_INVALID"""),
        (_NETWORK, "NETWORK_NOT_FOUND SUBNETWORK_NOT_FOUND VPC_NOT_FOUND SUBNET_NOT_FOUND_FOR_VPC"),
        (_PROJECT, "PROJECT_NOT_FOUND UNKNOWN_PROJECT PROJECT_INVALID CONSUMER_INVALID"),
        (_IMAGE, "IMAGE_NOT_FOUND IMAGE_FAMILY_NOT_FOUND"),
        (_MAY_NOT, """FORBIDDEN PERMISSION_DENIED PERMISSIONS_ERROR IAM_PERMISSION_DENIED ACCESS_DENIED
            INSUFFICIENT_PERMISSIONS SERVICE_ACCOUNT_ACCESS_DENIED ACCESS_TOKEN_SCOPE_INSUFFICIENT"""),
        (_NO_API, "ACCESS_NOT_CONFIGURED SERVICE_DISABLED API_DISABLED"),
        (_BILLING, "BILLING_DISABLED BILLING_NOT_ENABLED ACCOUNT_DISABLED"),
        (_POLICY, "CONDITION_NOT_MET_BY_POLICY ORG_POLICY_VIOLATION CONSTRAINT_VIOLATION"),
        (_LOCATION, "LOCATION_ORG_POLICY_VIOLATED LOCATION_POLICY_VIOLATED"),
        (_WHO, """UNAUTHENTICATED AUTH_ERROR UNAUTHORIZED LOGIN_REQUIRED EXPIRED INVALID_CREDENTIALS INVALID_GRANT
            REFRESH_ERROR ACCESS_TOKEN_EXPIRED DEFAULT_CREDENTIALS_ERROR"""),
    )
)  # fmt: skip
"""By the normal spelling of the code (`errors.normal`)."""
NOT_OFFERED = frozenset({"not_offered", *(code.lower() for code, rule in BY_CODE.items() if rule is _NOT_HERE)})
"""Reasons of verdicts that say that a zone does not have such a machine at all."""
UNACCEPTED = frozenset({"credentials", "http_401", *(code.lower() for code, rule in BY_CODE.items() if rule is _WHO)})
"""Reasons of verdicts that say that the platform's credentials are not accepted."""

BY_STATUS: dict[int, Rule] = {
    400: _BAD,
    401: _WHO,
    403: _MAY_NOT,
    404: _GONE,
    408: _TROUBLE,
    409: _THERE,
    410: _GONE,
    412: _TROUBLE,
    413: _BAD,
    429: _RATE,
    500: _TROUBLE,
    502: _TROUBLE,
    503: _TROUBLE,
    504: _TROUBLE,
}
"""Where there is no code."""

BY_MESSAGE: tuple[tuple[re.Pattern[str], str, Rule], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), name, rule)
    for pattern, name, rule in (
        (r"does not have enough resources|resource pool exhausted|stock-?out|insufficient capacity|no more capacity",
         "stockout", STOCKOUT),
        (r"is currently unavailable in the \S{1,60} zone", "stockout", STOCKOUT),
        (r"quota ['\"][\w./-]{1,120}['\"] exceeded|quota exceeded", "quota", _QUOTA),
        (r"rate limit exceeded|too many requests", "rate_limit", _RATE),
        (r"gcp\.resourceLocations", "location_policy", _LOCATION),
        (r"constraints/\w+\.\w+|organi[sz]ation policy", "policy", _POLICY),
        (r"has not been used in project|it is disabled\. enable it", "api_disabled", _NO_API),
        (r"billing (?:account )?(?:\S{1,60} )?(?:is )?(?:disabled|not enabled|not found)", "billing", _BILLING),
        (r"machine ?types?\b.{0,80}(?:not found|does not exist)|acceleratorTypes/|diskTypes/.{0,60}not found",
         "not_offered", _NOT_HERE),
        (r"not found or access is unauthorized|is not supported in zone", "not_offered", _NOT_HERE),
        (r"(?:sub)?networks?/.{0,120}(?:not found|does not exist)", "network", _NETWORK),
        (r"images/.{0,160}(?:not found|does not exist)", "image", _IMAGE),
        (r"['\"]projects/[\w.:-]{1,80}['\"]? (?:was )?not found", "project", _PROJECT),
        (r"invalid_grant|token (?:has been )?expired|reauthentication", "credentials", _WHO),
    )
)  # fmt: skip
"""Words that say more than a code or a status does, the most telling first: (words, name of the reason, what it is)."""
