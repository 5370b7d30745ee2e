"""The platform's own startup script on a fake VM: the agent is fetched, started, and its end switches the VM off."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from google.cloud import compute_v1

from incl_provisioner.domain.cloud.startup import Boot, metadata, phases
from incl_provisioner.fakes.gce.hosts.namespaces import why_not
from incl_shared.testing.wait import until_sync

from .conftest import PROJECT, ZONE, Cloud, Serve

WHY_NOT = why_not()
FORMS = [
    "groups",
    pytest.param("namespaces", marks=pytest.mark.skipif(bool(WHY_NOT), reason=f"no namespaces: {WHY_NOT}")),
]
AGENT = (
    b"#!/bin/bash\necho agent of $INCL_AGENT_NODE; trap 'echo checkpoint; exit 0' TERM; while :; do sleep 0.05; done\n"
)


def _archive() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        entry = tarfile.TarInfo("bin/incl-agent-vm")
        entry.size, entry.mode = len(AGENT), 0o755
        tar.addfile(entry, io.BytesIO(AGENT))
    return made.getvalue()


@pytest.fixture(scope="module")
def store() -> Iterator[tuple[int, str]]:
    """(port, sha256) of a server on loopback that gives the agent's archive."""
    content = _archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, hashlib.sha256(content).hexdigest()
    server.shutdown()
    thread.join()
    server.server_close()


def console(cloud: Cloud) -> str:
    """What the serial port said."""
    request = compute_v1.GetSerialPortOutputInstanceRequest(project=PROJECT, zone=ZONE, instance="vm-1")
    return str(cloud.instances.get_serial_port_output(request, timeout=10).contents)


@pytest.mark.parametrize("form", FORMS)
def test_it_starts_the_agent_and_a_stop_reaches_it(serve: Serve, store: tuple[int, str], form: str) -> None:
    port, sha256 = store
    cloud = serve(vms=form, ports=(port,))
    url = f"http://127.0.0.1:{port}/agent.tar.gz"
    boot = Boot(url, sha256, f"http://127.0.0.1:{port}/enroll", "one-time.token_0123456789", "nats://127.0.0.1:4222")
    items = [{"key": key, "value": value} for key, value in metadata(boot).items()]
    cloud.made(metadata={"items": items})
    until_sync(lambda: "agent of vm-1" in console(cloud), 20)
    names = [phase.name for phase in phases(console(cloud))]
    assert names[:2] == ["booted", "fetching"]
    assert "started" in names
    request = compute_v1.GetGuestAttributesInstanceRequest(
        project=PROJECT, zone=ZONE, instance="vm-1", variable_key="incl/phase"
    )
    assert until_sync(lambda: cloud.instances.get_guest_attributes(request, timeout=10).variable_value == "started")
    cloud.done(cloud.instances.stop_unary(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10))
    assert "checkpoint" in console(cloud)
    assert phases(console(cloud))[-1].name == "off"
