"""The metadata server as google-auth and an agent use it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import google.auth
import google.auth.jwt
import google.oauth2.id_token
import httpx
import pytest
from google.auth.compute_engine import _metadata
from google.auth.transport.requests import Request

from incl_shared.testing.wait import until_sync

from .conftest import PROJECT, ZONE, Cloud, Serve

ACCOUNT = {
    "email": "worker@fake-project.iam.gserviceaccount.com",
    "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
}


@pytest.fixture
def cloud(serve: Serve) -> Cloud:
    """A cloud with one VM, booted without a script."""
    cloud = serve(vms="groups")
    cloud.made(service_accounts=[ACCOUNT], spot=True)
    return cloud


@pytest.fixture
def where(cloud: Cloud) -> str:
    """GCE_METADATA_HOST of the VM."""
    return (
        str(cloud.running.do(lambda c: next(iter(c._sockets.values())).getsockname()[0:2]))
        .strip("()")
        .replace("'", "")
        .replace(", ", ":")
    )


@pytest.fixture
def http(where: str) -> Iterator[httpx.Client]:
    """What a guest would ask with."""
    with httpx.Client(base_url=f"http://{where}/computeMetadata/v1/", headers={"Metadata-Flavor": "Google"}) as client:
        yield client


def test_values_directories_and_json(http: httpx.Client) -> None:
    answer = http.get("instance/name")
    assert (answer.text, answer.headers["metadata-flavor"]) == ("vm-1", "Google")
    assert answer.headers["etag"]
    assert "service-accounts/\n" in http.get("instance/").text
    assert http.get("instance/scheduling/preemptible").text == "TRUE"
    assert http.get("project/project-id").text == PROJECT
    assert http.get("instance/attributes/enable-guest-attributes").text == "TRUE"
    everything = http.get("", params={"recursive": "true"}).json()
    assert everything["instance"]["attributes"] == {"enable-guest-attributes": "TRUE"}
    assert everything["instance"]["machineType"].endswith("/e2-small")
    assert everything["project"]["numericProjectId"] == 100000000001
    assert http.get("instance/nothing").status_code == 404
    assert http.get("instance/attributes/nothing").status_code == 404
    assert http.post("instance/name").status_code == 405


def test_the_header_is_needed(http: httpx.Client) -> None:
    assert httpx.get(f"{http.base_url}instance/name").status_code == 403
    assert http.get("instance/name", headers={"X-Forwarded-For": "10.0.0.1"}).status_code == 403


def test_guest_attributes_are_written_and_removed(cloud: Cloud, http: httpx.Client) -> None:
    path = "instance/guest-attributes/incl/phase"
    assert http.get(path).status_code == 404
    assert http.put(path, content=b"installing").status_code == 200
    assert (http.get(path).text, http.get("instance/guest-attributes/incl/").text) == ("installing", "phase\n")
    assert http.put("instance/guest-attributes/incl", content=b"x").status_code == 400
    assert http.put(path, content=b"x" * (256 * 1024 + 1)).status_code == 400
    assert http.delete(path).status_code == 200
    assert http.get(path).status_code == 404
    made = cloud.get()
    metadata = {"items": [], "fingerprint": made.metadata.fingerprint}
    cloud.done(
        cloud.instances.set_metadata_unary(
            project=PROJECT, zone=ZONE, instance="vm-1", metadata_resource=metadata, timeout=10
        )
    )
    assert http.put(path, content=b"x").status_code == 403


def waiting(http: httpx.Client, path: str, **params: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    """A request that waits for a change, in a thread."""
    found: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: found.append(http.get(path, params={"wait_for_change": "true", **params}, timeout=20))
    )
    thread.start()
    return thread, found


def test_wait_for_change(cloud: Cloud, http: httpx.Client) -> None:
    etag = http.get("instance/preempted").headers["etag"]
    thread, found = waiting(http, "instance/preempted", last_etag=etag)
    changes = http.get("instance/preempted", params={"wait_for_change": "true", "timeout_sec": "0.1"})
    assert (changes.text, found) == ("FALSE", [])
    cloud.switch("preempt", ZONE, "vm-1")
    thread.join(10)
    assert found[0].text == "TRUE"
    begin = time.monotonic()
    assert (
        http.get("instance/preempted", params={"wait_for_change": "true", "last_etag": etag}, timeout=20).text == "TRUE"
    )
    assert time.monotonic() - begin < 2


def test_google_auth_finds_credentials_and_identity(cloud: Cloud, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, where)
    monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", where)
    monkeypatch.setattr(_metadata, "_METADATA_ROOT", f"http://{where}/computeMetadata/v1/", raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    request = Request()
    assert _metadata.get_project_id(request) == PROJECT
    token, expiry = _metadata.get_service_account_token(request)
    assert token.startswith("ya29.fake-")
    assert expiry is not None
    assert _metadata.get_service_account_info(request)["email"] == ACCOUNT["email"]


def test_an_identity_token_can_be_checked_with_the_keys_of_the_cloud(cloud: Cloud, http: httpx.Client) -> None:
    path = "instance/service-accounts/default/identity"
    token = http.get(path, params={"audience": "https://incl.example", "format": "full"}).text
    keys = httpx.get(f"{cloud.running.url}/oauth2/v3/certs").json()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    def number(text: str) -> int:
        import base64

        return int.from_bytes(base64.urlsafe_b64decode(text + "=="), "big")

    key = keys["keys"][0]
    public = RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    claims = google.auth.jwt.decode(token, certs={key["kid"]: pem}, audience="https://incl.example")
    assert claims["email"] == ACCOUNT["email"]
    assert claims["google"]["compute_engine"]["instance_name"] == "vm-1"
    assert claims["google"]["compute_engine"]["instance_id"] == str(cloud.get().id)
    with pytest.raises(google.auth.exceptions.GoogleAuthError):
        google.auth.jwt.decode(token[:-8] + "AAAAAAAA", certs={key["kid"]: pem})
    assert http.get(path).status_code == 404


def test_a_vm_that_is_gone_has_no_metadata_server(cloud: Cloud, http: httpx.Client) -> None:
    assert json.dumps(http.get("instance/id").json()) == str(cloud.get().id)
    cloud.done(cloud.delete())
    until_sync(lambda: _refused(http))


def _refused(http: httpx.Client) -> bool:
    try:
        return (
            httpx.get(f"{http.base_url}instance/name", headers={"Metadata-Flavor": "Google"}, timeout=1).status_code
            == 404
        )
    except httpx.TransportError:
        return True
