"""Every code that is known, both shapes in which errors come, and garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.domain.cloud.classify import classify, normal
from incl_provisioner.domain.cloud.error_table import BY_CODE, BY_STATUS
from incl_provisioner.domain.cloud.errors import CloudError, Meaning, Scope, read_errors

STOCKOUT_WORDS = (
    "The zone 'projects/p/zones/us-central1-a' does not have enough resources available to fulfill the request."
    "  Try a different zone, or try again later."
)


def _rest(status: int, reason: str, message: str) -> dict[str, object]:
    return {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}


def _envelope(reason: str, message: str) -> dict[str, object]:
    """As the provider's own answers are: the status of a 403 is PERMISSION_DENIED whatever the reason."""
    said = _rest(403, reason, message)
    error = dict(said["error"], status="PERMISSION_DENIED")  # type: ignore[call-overload]
    error["details"] = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "compute.googleapis.com"}]
    return {"error": error}


def _operation(code: str, message: str, status: int = 400) -> dict[str, object]:
    return {
        "status": "DONE",
        "httpErrorStatusCode": status,
        "error": {"errors": [{"code": code, "message": message}]},
    }


CASES = [
    (_operation("ZONE_RESOURCE_POOL_EXHAUSTED", STOCKOUT_WORDS, 503), Meaning.NEXT_ZONE, Scope.ZONE),
    (_operation("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "A g2 VM", 503), Meaning.NEXT_ZONE, Scope.ZONE),
    (_rest(503, "insufficientCapacity", ""), Meaning.NEXT_ZONE, Scope.ZONE),
    (_rest(503, "backendError", STOCKOUT_WORDS), Meaning.NEXT_ZONE, Scope.ZONE),
    (_rest(503, "backendError", "try again"), Meaning.TRANSIENT, Scope.NONE),
    (_operation("UNSUPPORTED_OPERATION", "preempted"), Meaning.NEXT_ZONE, Scope.ZONE),
    (
        _rest(403, "quotaExceeded", "Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 1.0 in region us-west1."),
        Meaning.QUOTA, Scope.REGION,
    ),
    (
        _operation("QUOTA_EXCEEDED", "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.", 403),
        Meaning.QUOTA, Scope.EVERYWHERE,
    ),
    (_rest(403, "rateLimitExceeded", "Rate Limit Exceeded"), Meaning.BACK_OFF, Scope.NONE),
    (_envelope("rateLimitExceeded", "Too many bulk operations"), Meaning.BACK_OFF, Scope.NONE),
    (_envelope("quotaExceeded", "Quota 'CPUS' exceeded.  Limit: 8.0 in region us-west1."), Meaning.QUOTA, Scope.REGION),
    (_envelope("forbidden", "Required 'compute.instances.create' permission"), Meaning.PERMISSION, Scope.EVERYWHERE),
    ({"error": {"code": 403, "status": "PERMISSION_DENIED", "message": "no"}}, Meaning.PERMISSION, Scope.EVERYWHERE),
    (_rest(403, "RESOURCE_OPERATION_RATE_EXCEEDED", "Too frequent"), Meaning.BACK_OFF, Scope.NONE),
    (_operation("RESOURCE_NOT_FOUND", "The resource 'projects/p/zones/z/instances/x' was not found"),
     Meaning.CLEAN_UP, Scope.ZONE),
    (_rest(404, "notFound", "The resource 'projects/p/global/networks/lab' was not found"),
     Meaning.BAD_REQUEST, Scope.EVERYWHERE),
    (_rest(404, "notFound", "The resource 'projects/p/zones/z/machineTypes/a9-mega' was not found"),
     Meaning.NEXT_ZONE, Scope.ZONE),
    (_rest(404, "notFound", "The resource 'projects/nobody' was not found"), Meaning.BAD_REQUEST, Scope.EVERYWHERE),
    (_rest(409, "alreadyExists", "The resource 'x' already exists"), Meaning.ADOPT, Scope.NONE),
    (_rest(403, "forbidden", "Required 'compute.instances.create' permission for 'x'"),
     Meaning.PERMISSION, Scope.EVERYWHERE),
    (_rest(403, "accessNotConfigured", "Compute Engine API has not been used in project 1"),
     Meaning.PERMISSION, Scope.EVERYWHERE),
    (_rest(412, "conditionNotMet", "Constraint constraints/compute.vmExternalIpAccess violated for project 1"),
     Meaning.PERMISSION, Scope.EVERYWHERE),
    (_rest(412, "conditionNotMet", "Constraint constraints/gcp.resourceLocations violated"),
     Meaning.NEXT_REGION, Scope.REGION),
    (_rest(401, "authError", "Request had invalid authentication credentials"), Meaning.CREDENTIALS, Scope.EVERYWHERE),
    ({"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
     Meaning.CREDENTIALS, Scope.EVERYWHERE),
    (_rest(400, "invalid", "Invalid value for field 'resource.name'"), Meaning.BAD_REQUEST, Scope.NONE),
    (_rest(429, "", ""), Meaning.BACK_OFF, Scope.NONE),
    (_rest(500, "internalError", "oops"), Meaning.TRANSIENT, Scope.NONE),
    (_operation("A_CODE_OF_TOMORROW", "?"), Meaning.NEXT_ZONE, Scope.ZONE),
    ([{"reason": "stockout", "message": ""}], Meaning.NEXT_ZONE, Scope.ZONE),
]  # fmt: skip


@pytest.mark.parametrize(("body", "meaning", "scope"), CASES, ids=range(len(CASES)))
def test_what_it_means(body: object, meaning: Meaning, scope: Scope) -> None:
    verdict = classify(read_errors(body))
    assert (verdict.meaning, verdict.scope) == (meaning, scope)
    assert verdict.message
    assert verdict.hint
    assert verdict.reason == verdict.reason.lower()


def test_error_info_says_more_than_the_reason() -> None:
    body = _rest(403, "rateLimitExceeded", "Rate Limit Exceeded")
    body["error"]["details"] = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED"}
    ]
    assert classify(read_errors(body)).meaning is Meaning.BACK_OFF


def test_of_several_errors_the_gravest_counts_and_known_ones_before_unknown() -> None:
    stockout, quota = CloudError("ZONE_RESOURCE_POOL_EXHAUSTED"), CloudError("QUOTA_EXCEEDED", "Quota 'CPUS' exceeded")
    assert classify([stockout, quota]).meaning is Meaning.QUOTA
    assert classify([CloudError("NOBODY_KNOWS"), CloudError("RATE_LIMIT_EXCEEDED")]).meaning is Meaning.BACK_OFF


def test_a_quota_of_nothing_is_told_as_such_and_cooled_for_longer() -> None:
    none = classify([CloudError("quotaExceeded", "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.", 403)])
    some = classify([CloudError("quotaExceeded", "Quota 'CPUS' exceeded.  Limit: 24.0 in region us-west1.", 403)])
    assert none.reason == "quota_zero"
    assert none.message == "the account's quota GPUS_ALL_REGIONS is 0 everywhere"
    assert some.message == "quota CPUS is used up in us-west1"
    assert none.ttl_s > some.ttl_s


def test_what_time_cannot_help_and_what_may_have_been_done() -> None:
    assert not classify([CloudError("PERMISSION_DENIED")]).waits
    assert not classify([CloudError("", "", 401)]).waits
    assert classify([CloudError("QUOTA_EXCEEDED")]).waits
    assert classify([CloudError("", "", 502)]).unknown_effect
    assert classify([CloudError("RESOURCE_NOT_FOUND")]).unknown_effect
    assert not classify([CloudError("ZONE_RESOURCE_POOL_EXHAUSTED")]).unknown_effect


def test_every_code_is_in_its_normal_spelling_and_every_status_has_words() -> None:
    assert all(normal(code) == code for code in BY_CODE)
    for rule in {*BY_CODE.values(), *BY_STATUS.values()}:
        assert rule.message
        assert rule.hint
        assert (rule.ttl_s > 0) or rule.scope is Scope.NONE
    assert normal("quotaExceeded") == normal("type.googleapis.com/google.rpc.QUOTA-EXCEEDED") == "QUOTA_EXCEEDED"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["error", "errors", "code", "message", "reason", "status", "details", "httpErrorStatusCode"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(_json, st.none() | st.sampled_from([*BY_STATUS, 200, 418]))
def test_whatever_comes_back_something_is_done_next(body: object, status: int | None) -> None:
    verdict = classify(read_errors(body, status=status))
    assert verdict.message
    assert verdict.hint
    assert verdict.ttl_s >= 0


@given(st.text(max_size=2000))
def test_text_instead_of_json_keeps_its_words(text: str) -> None:
    errors = read_errors(text, status=502)
    assert errors[0].status == 502
    assert errors[0].message == text.strip()[:600]
