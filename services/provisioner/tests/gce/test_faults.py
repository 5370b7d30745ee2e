"""What goes wrong on purpose, as the real client raises it; and the same switches over HTTP."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import pytest
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.credentials import Credentials
from google.auth.exceptions import InvalidOperation
from google.cloud import compute_v1
from google.protobuf.json_format import ParseError

from .conftest import PROJECT, ZONE, Cloud


def test_a_connection_that_is_cut_before_the_effect(cloud: Cloud) -> None:
    cloud.switch("fault", kind="cut", method="instances.insert")
    with pytest.raises(requests.exceptions.ConnectionError):
        cloud.insert()
    assert cloud.names() == []
    cloud.made()


def test_a_connection_that_is_cut_after_the_effect_and_the_request_again(cloud: Cloud) -> None:
    cloud.switch("fault", kind="cut", method="instances.insert", effect=True)
    request_id = str(uuid.uuid4())
    with pytest.raises(requests.exceptions.ConnectionError):
        cloud.insert(request_id)
    cloud.done(cloud.insert(request_id))
    assert cloud.names() == ["vm-1"]
    with pytest.raises(exceptions.Conflict):
        cloud.insert(str(uuid.uuid4()))


def test_only_the_second_call_and_one_zone(cloud: Cloud) -> None:
    rule = cloud.switch("fault", kind="error", method="instances.get", place="us-central1-b", nth=2, status=500)
    cloud.made()
    cloud.done(cloud.insert(zone="us-central1-b"))
    cloud.get()
    cloud.get(zone="us-central1-b")
    with pytest.raises(exceptions.InternalServerError):
        cloud.get(zone="us-central1-b")
    cloud.get(zone="us-central1-b")
    assert (rule.seen, rule.hit) == (3, 1)


def test_slow_and_hanging_answers(cloud: Cloud) -> None:
    cloud.switch("fault", kind="slow", method="instances.insert", seconds=0.2)
    begin = time.monotonic()
    cloud.insert()
    assert time.monotonic() - begin >= 0.2
    cloud.switch("fault", kind="slow", method="instances.insert", seconds=30)
    with pytest.raises(requests.exceptions.ReadTimeout):
        cloud.insert(name="vm-2", timeout=0.2)
    cloud.switch("fault", kind="hang", method="instances.delete", effect=True)
    with pytest.raises(requests.exceptions.ReadTimeout):
        cloud.instances.delete_unary(project=PROJECT, zone=ZONE, instance="vm-1", timeout=0.2, retry=None)


def test_garbage_and_half_an_answer(cloud: Cloud) -> None:
    cloud.made()
    cloud.switch("fault", kind="garbage", method="instances.get")
    with pytest.raises(ParseError):
        cloud.get()
    cloud.switch("fault", kind="partial", method="instances.get")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        cloud.get()
    assert cloud.get().name == "vm-1"


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (429, "rateLimitExceeded", exceptions.TooManyRequests),
        (500, "backendError", exceptions.InternalServerError),
        (502, "backendError", exceptions.BadGateway),
        (503, "backendError", exceptions.ServiceUnavailable),
    ],
)
def test_errors(cloud: Cloud, status: int, reason: str, kind: type[exceptions.GoogleAPICallError]) -> None:
    cloud.switch("fault", kind="error", method="instances.*", status=status, reason=reason)
    with pytest.raises(kind) as error:
        cloud.insert()
    assert error.value.errors[0]["reason"] == reason
    assert cloud.names() == []


def test_a_retry_of_the_client_gets_through(cloud: Cloud) -> None:
    cloud.made()
    cloud.switch("fault", kind="error", method="instances.get", status=503, times=2)
    retry = Retry(predicate=if_exception_type(exceptions.ServiceUnavailable), initial=0.01, timeout=10)
    assert cloud.instances.get(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10, retry=retry).name == "vm-1"


class Token(Credentials):
    """Credentials that can be fetched anew, as those of a service account."""

    fetched = 0

    def refresh(self, request: object) -> None:
        Token.fetched += 1
        self.token = f"token-{Token.fetched}"


def test_no_permission_and_expired_credentials(cloud: Cloud) -> None:
    cloud.switch("deny", "compute.instances.create")
    with pytest.raises(exceptions.Forbidden, match=r"Required 'compute\.instances\.create' permission") as error:
        cloud.insert()
    assert error.value.errors[0]["reason"] == "forbidden"
    assert list(cloud.instances.list(project=PROJECT, zone=ZONE, timeout=10)) == []
    cloud.switch("expire")
    instances, token = cloud.client("InstancesClient", Token()), Token.fetched
    with pytest.raises(exceptions.Unauthorized) as denied:
        instances.get(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10, retry=None)
    assert denied.value.errors[0]["reason"] == "authError"
    assert Token.fetched > token + 1
    with pytest.raises(InvalidOperation):
        cloud.get()
    cloud.switch("clear")
    cloud.made()


@pytest.mark.parametrize(("status", "kind"), [(403, exceptions.Forbidden), (429, exceptions.TooManyRequests)])
def test_rate_limits(cloud: Cloud, status: int, kind: type[Exception]) -> None:
    cloud.made()
    cloud.switch("limit", "instances.get", 3, 60, status)
    for _ in range(3):
        cloud.get()
    with pytest.raises(kind) as error:
        cloud.get()
    shown: Any = error.value
    assert (shown.errors[0]["reason"], shown.errors[0]["domain"]) == ("rateLimitExceeded", "usageLimits")
    calls = cloud.running.do(
        lambda inside: (inside.faults.calls["instances.get"], inside.faults.refused["instances.get"])
    )
    assert calls == (5, 1)


def test_an_operation_that_fails_with_the_vm_there_and_without(cloud: Cloud) -> None:
    cloud.switch(
        "fault", kind="operation", method="instances.insert", reason="RESOURCE_OPERATION_RATE_EXCEEDED", status=429
    )
    operation = cloud.done(cloud.insert())
    assert [one.code for one in operation.error.errors] == ["RESOURCE_OPERATION_RATE_EXCEEDED"]
    assert operation.http_error_status_code == 429
    assert cloud.names() == []
    cloud.switch(
        "fault", kind="operation", method="instances.insert", reason="RESOURCE_NOT_FOUND", status=404, effect=True
    )
    operation = cloud.done(cloud.insert())
    assert [one.code for one in operation.error.errors] == ["RESOURCE_NOT_FOUND"]
    assert cloud.names() == ["vm-1"]


def test_an_operation_that_never_ends(cloud: Cloud) -> None:
    cloud.switch("fault", kind="stuck", method="instances.insert")
    operation = cloud.insert()
    with pytest.raises(requests.exceptions.ReadTimeout):
        cloud.zone_operations.wait(project=PROJECT, zone=ZONE, operation=operation.name, timeout=0.2, retry=None)
    found = cloud.zone_operations.get(project=PROJECT, zone=ZONE, operation=operation.name, timeout=10)
    assert found.status == compute_v1.Operation.Status.RUNNING


def test_the_switches_over_http(cloud: Cloud) -> None:
    with httpx.Client(base_url=cloud.running.url, headers={"authorization": f"Bearer {cloud.running.token}"}) as http:
        assert http.get("/fake/state", headers={"authorization": "Bearer no"}).status_code == 401
        cloud.made()
        state = http.get("/fake/state").json()
        assert [(one["name"], one["status"]) for one in state["instances"]] == [("vm-1", "RUNNING")]
        assert state["calls"]["instances.insert"] == 1
        assert (
            http.post("/fake/fault", json={"kind": "error", "method": "instances.get", "status": 500}).status_code
            == 200
        )
        with pytest.raises(exceptions.InternalServerError):
            cloud.get()
        assert "no such kind" in http.post("/fake/fault", json={"kind": "flood"}).json()["error"]
        assert http.post("/fake/stockout", json={"zon": "x"}).status_code == 400
        assert http.post("/fake/prefer", json=["us-central1-b"]).status_code == 200
        assert http.post("/fake/preempt", json={"zone": ZONE, "name": "nobody"}).status_code == 404
        assert "POST one of" in http.post("/fake/nothing").json()["error"]
        assert http.get(f"/fake/console/{ZONE}/vm-1").text == ""


def test_what_is_no_method_of_the_api(cloud: Cloud) -> None:
    with httpx.Client(base_url=cloud.running.url) as http:
        assert http.get("/compute/v1/projects/fake-project/zones/us-central1-a/nothing").status_code == 404
        answer = http.post(f"/compute/v1/projects/fake-project/zones/{ZONE}/instances", content=b"{")
        assert answer.json()["error"]["errors"][0]["reason"] == "parseError"
