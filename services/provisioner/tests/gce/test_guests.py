"""VMs that are processes: the startup script, the metadata server, the console, the ways in which they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import compute_v1

from incl_provisioner.fakes.gce import Pace
from incl_provisioner.fakes.gce.hosts.namespaces import why_not
from incl_shared.testing.wait import until_sync

from .conftest import IMAGE, PROJECT, ZONE, Cloud, Serve

WHY_NOT = why_not()
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=f"no namespaces here: {WHY_NOT}")
FORMS = ["groups", pytest.param("namespaces", marks=needs_namespaces)]
PACE = Pace(spot_grace=5, standard_grace=5, shown_running=1.0)
# A metadata client of the standard library, for scripts: get PATH, put PATH VALUE.
TOOLS = f"""#!/bin/bash
PYTHON={sys.executable}
MD=http://${{GCE_METADATA_HOST:-metadata.google.internal}}/computeMetadata/v1
md() {{ "$PYTHON" -I -S -c '
import sys, urllib.request as u
r = u.Request(sys.argv[2], method=sys.argv[1], data=sys.argv[3].encode() if len(sys.argv) > 3 else None)
r.add_header("Metadata-Flavor", "Google")
sys.stdout.write(u.urlopen(r, timeout=20).read().decode())
' "$@"; }}
get() {{ md GET "$MD/$1"; }}
put() {{ md PUT "$MD/instance/guest-attributes/$1" "$2"; }}
"""


@pytest.fixture(params=FORMS)
def cloud(request: pytest.FixtureRequest, serve: Serve) -> Cloud:
    """A cloud whose VMs are processes, in both forms."""
    return serve(vms=request.param, pace=PACE)


def guest(cloud: Cloud, key: str, name: str = "vm-1") -> str:
    """A guest attribute, or "" while it is not there."""
    request = compute_v1.GetGuestAttributesInstanceRequest(
        project=PROJECT, zone=ZONE, instance=name, variable_key=f"incl/{key}"
    )
    try:
        return str(cloud.instances.get_guest_attributes(request, timeout=10, retry=None).variable_value)
    except exceptions.NotFound:
        return ""


def serial(cloud: Cloud, start: int = 0, name: str = "vm-1") -> Any:
    """The serial port from an offset on."""
    request = compute_v1.GetSerialPortOutputInstanceRequest(project=PROJECT, zone=ZONE, instance=name, start=start)
    return cloud.instances.get_serial_port_output(request, timeout=10, retry=None)


def said(cloud: Cloud, text: str, name: str = "vm-1") -> str:
    """The console once it says something."""
    until_sync(lambda: text in serial(cloud, name=name).contents, what=f"the console says {text}")
    return str(serial(cloud, name=name).contents)


def test_the_startup_script_runs_and_the_console_is_read_from_an_offset(cloud: Cloud) -> None:
    cloud.made(script="echo one; echo two >&2; exit 3")
    text = said(cloud, "exit status 3")
    assert "startup-script: one\n" in text
    assert "startup-script: two\n" in text
    first = serial(cloud)
    assert (first.start, first.next_) == (0, len(first.contents.encode()))
    rest = serial(cloud, first.next_ - 5)
    assert (rest.start, rest.contents, rest.next_) == (first.next_ - 5, first.contents[-5:], first.next_)
    assert serial(cloud, first.next_).contents == ""
    assert cloud.get().status == "RUNNING"


def test_the_metadata_server_knows_the_vm_that_asks(cloud: Cloud) -> None:
    script = TOOLS + 'put incl/name "$(get instance/name)/$(get instance/attributes/color)/$(get instance/zone)"'
    for name, color in (("vm-1", "red"), ("vm-2", "blue")):
        items = [("startup-script", script), ("color", color), ("enable-guest-attributes", "TRUE")]
        cloud.done(cloud.insert(name=name, metadata={"items": [{"key": key, "value": value} for key, value in items]}))
    for name, color in (("vm-1", "red"), ("vm-2", "blue")):
        zone = f"projects/100000000001/zones/{ZONE}"
        assert until_sync(lambda n=name: guest(cloud, "name", n)) == f"{name}/{color}/{zone}"  # type: ignore[misc]


def test_a_preemption_is_noticed_signalled_and_shown_late(cloud: Cloud) -> None:
    script = TOOLS + (
        "trap 'put incl/end terminated; exit 0' TERM\n"
        "put incl/state waiting\n"
        'get "instance/preempted?wait_for_change=true" > "$HOME/notice" &\n'
        "wait $!\n"
        'put incl/notice "$(cat "$HOME/notice")"\n'
        "while :; do sleep 0.02; done\n"
    )
    scheduling = {"provisioning_model": "SPOT", "instance_termination_action": "STOP"}
    made = cloud.made(script=script, scheduling={**scheduling, "preemption_notice_duration": {"seconds": 1}})
    until_sync(lambda: guest(cloud, "state") == "waiting")
    until_sync(
        lambda: cloud.running.do(lambda c: len(c.state.instances[ZONE, "vm-1"].watch._waiting)), what="it listens"
    )
    begin = time.monotonic()
    cloud.done(
        cloud.instances.simulate_maintenance_event_unary(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10)
    )
    assert until_sync(lambda: guest(cloud, "notice")) == "TRUE"
    assert cloud.get().status == "RUNNING"
    assert until_sync(lambda: guest(cloud, "end")) == "terminated"
    assert cloud.get().status == "RUNNING"
    assert time.monotonic() - begin >= 1
    until_sync(lambda: cloud.get().status == "TERMINATED")
    request = compute_v1.ListZoneOperationsRequest(
        project=PROJECT, zone=ZONE, filter="operationType=compute.instances.preempted"
    )
    found = list(cloud.zone_operations.list(request, timeout=10))
    assert [(one.target_id, one.user, one.status_message) for one in found] == [
        (made.id, "system", "Instance was preempted.")
    ]
    assert found[0].name.startswith("systemevent-")


def test_a_preempted_vm_with_the_action_delete_is_deleted(cloud: Cloud) -> None:
    cloud.made(spot=True)
    cloud.switch("preempt", ZONE, "vm-1")
    until_sync(lambda: not cloud.names())


def alive(pid: int) -> bool:
    """Whether a process is there."""
    return Path(f"/proc/{pid}").exists()


def test_delete_ends_jobs_in_sessions_of_their_own_that_do_not_listen(serve: Serve, tmp_path: Path) -> None:
    cloud = serve(vms="groups", pace=Pace(standard_grace=0.2))
    script = f"""#!/bin/bash
setsid bash -c 'trap "" TERM; (setsid bash -c "trap \\"\\" TERM; echo \\$\\$ > {tmp_path}/b; sleep 1000; sleep 1000") &
echo $$ > {tmp_path}/a; sleep 1000; sleep 1000' &
echo $$ > {tmp_path}/c
"""
    cloud.made(script=script)
    files = [tmp_path / name for name in "abc"]
    pids = until_sync(lambda: all(f.exists() and f.read_text() for f in files) and [int(f.read_text()) for f in files])
    assert alive(pids[0])
    assert alive(pids[1])
    operation = cloud.delete()
    cloud.done(operation)
    assert [alive(pid) for pid in pids] == [False, False, False]


def test_a_guest_switches_itself_off(cloud: Cloud) -> None:
    cloud.made(script="trap 'echo goodbye; exit 0' TERM; shutdown -h now; while :; do sleep 0.02; done")
    until_sync(lambda: cloud.get().status == "TERMINATED")
    assert "goodbye" in serial(cloud).contents
    operations = cloud.zone_operations.list(project=PROJECT, zone=ZONE, timeout=10)
    assert "compute.instances.guestTerminate" in [one.operation_type for one in operations]
    cloud.done(cloud.instances.start_unary(project=PROJECT, zone=ZONE, instance="vm-1", timeout=10))
    assert cloud.get().status in ("RUNNING", "STOPPING", "TERMINATED")


def test_the_machine_under_a_vm_breaks(cloud: Cloud) -> None:
    script = 'trap "echo told" TERM; echo "boot $(date +%s%N)"; while :; do sleep 0.02; done'
    cloud.made(script=script)
    cloud.made(name="vm-2", script=script, scheduling={"automatic_restart": False})
    for name in ("vm-1", "vm-2"):
        said(cloud, "boot", name)
        cloud.switch("host_error", ZONE, name)
    until_sync(lambda: cloud.get("vm-2").status == "TERMINATED")
    until_sync(lambda: serial(cloud).contents.count("startup-script: boot") == 2)
    assert "told" not in serial(cloud).contents
    assert cloud.get().status == "RUNNING"


def test_guests_that_hang_before_their_script_or_have_no_network(cloud: Cloud) -> None:
    cloud.switch("guest", "vm-1", boots=False)
    cloud.switch("guest", "vm-2", network=False)
    cloud.made(script="echo never")
    cloud.made(name="vm-2", script=TOOLS + 'get instance/name && echo never; echo "tried"')
    said(cloud, "tried", "vm-2")
    assert "never" not in serial(cloud, name="vm-2").contents
    assert "never" not in serial(cloud).contents
    assert "kernel" in said(cloud, "kernel")


@needs_namespaces
def test_namespaces_have_their_own_names_addresses_processes_and_files(serve: Serve, tmp_path: Path) -> None:
    cloud = serve(vms="namespaces")
    mark = f"/var/lib/incl-fake-{os.getpid()}"
    script = TOOLS + (
        f'echo "host $(cat /proc/sys/kernel/hostname) has $(ls /proc | grep -c "^[0-9]")"\n'
        f'mkdir {mark} && echo private > {mark}/file && echo "wrote $(cat {mark}/file)"\n'
        f"echo x > {tmp_path}/from-the-vm\n"
        f'put incl/address "$(get instance/network-interfaces/0/ip)"\n'
    )
    made = cloud.made(script=script)
    address = until_sync(lambda: guest(cloud, "address"))
    assert address == made.network_interfaces[0].network_i_p
    text = said(cloud, "wrote private")
    assert "host vm-1 has" in text
    assert int(text.split("has ")[1].split()[0]) < 12
    assert not Path(mark).exists()
    assert list(tmp_path.iterdir()) == []


@needs_namespaces
def test_vms_in_namespaces_reach_each_other_and_what_they_may_of_this_machine(serve: Serve) -> None:
    probe = serve()
    port = int(probe.running.url.rpartition(":")[2])
    cloud = serve(vms="namespaces", ports=(port,))
    hear = (
        "import socket; s = socket.create_server(('0.0.0.0', 29500)); print('listening', flush=True); "
        "c, a = s.accept(); print('heard', c.recv(99).decode(), 'from', a[0], flush=True)"
    )
    made = cloud.made(script=f'#!/bin/sh\nexec {sys.executable} -I -S -c "{hear}"')
    said(cloud, "listening")
    address = made.network_interfaces[0].network_i_p
    talk = f"import socket; socket.create_connection(('{address}', 29500), 10).sendall(b'hello')"
    ask = (
        f"import urllib.request as u; r = u.Request('{probe.running.url}/fake/state'); "
        f"r.add_header('authorization', 'Bearer {probe.running.token}'); print('cloud', u.urlopen(r, timeout=9).status)"
    )
    python = f"{sys.executable} -I -S -c"
    other = cloud.made(name="vm-2", script=f'#!/bin/sh\n{python} "{talk}"\n{python} "{ask}"\n')
    assert f"heard hello from {other.network_interfaces[0].network_i_p}" in said(cloud, "heard hello")
    assert "cloud 200" in said(cloud, "cloud 200", "vm-2")


def test_nothing_is_left_when_the_cloud_is_killed(tmp_path: Path) -> None:
    """The power of its VMs is a pipe: it ends with the cloud."""
    code = (
        "import os, signal, sys\n"
        "from incl_provisioner.fakes.gce import CloudSettings, ThreadedCloud\n"
        "from incl_provisioner.fakes.gce.call import Call\n"
        "import json\n"
        "body = json.loads(sys.argv[1])\n"
        "cloud = ThreadedCloud(CloudSettings(vms='groups')).__enter__()\n"
        f"cloud.do(lambda c: c.api.answer(Call('instances.insert', 'fake-project', '{ZONE}', '', {{}}, body)))\n"
        "sys.stdin.read(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 0.05; done"
    boot = {"boot": True, "initializeParams": {"sourceImage": IMAGE}}
    body = {
        "name": "vm-1", "machineType": f"zones/{ZONE}/machineTypes/e2-small", "networkInterfaces": [{}],
        "disks": [boot],
        "metadata": {"items": [{"key": "startup-script", "value": script}]},
    }  # fmt: skip
    command = [sys.executable, "-c", code, json.dumps(body)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}) as process:
        file = tmp_path / "pid"
        pid = int(until_sync(lambda: file.exists() and file.read_text()))
        assert alive(pid)
        process.communicate(b"x", 20)
    until_sync(lambda: not alive(pid))


def test_the_command_line_says_where_it_is_and_ends_on_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "incl_provisioner.fakes.gce", "--vms", "none", "--project", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = json.loads(process.stdout.readline())
        assert shown["url"].startswith("http://127.0.0.1:")
        assert (shown["project"], shown["vms"]) == ("mine", "none")
        taken = subprocess.run([*command, "--port", shown["url"].rpartition(":")[2]], capture_output=True, text=True)
        assert taken.returncode == 1
        assert "error: the fake cloud cannot listen" in taken.stderr
        assert [one.name for one in tmp_path.iterdir()] == [Path(shown["folder"]).name]
        process.terminate()
        assert process.wait(20) == 0
        assert not Path(shown["folder"]).exists()


def test_neither_the_service_nor_the_fake_imports_the_library_of_the_provider() -> None:
    code = "import sys, incl_provisioner.app, incl_provisioner.fakes.gce; print('google.cloud' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_what_is_on_a_snapshot_is_mounted_read_only_by_the_machines_own_mount(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "scan.txt").write_text("voxels")
    cloud.switch("snapshot", "ct", 10, folder=str(tmp_path))
    body = {
        "name": "data", "source_snapshot": "global/snapshots/ct", "type_": f"zones/{ZONE}/diskTypes/pd-balanced",
    }  # fmt: skip
    cloud.done(cloud.disks.insert_unary(project=PROJECT, zone=ZONE, disk_resource=body, timeout=10))
    boot = {"boot": True, "auto_delete": True, "initialize_params": {"source_image": IMAGE}}
    data = {"source": f"zones/{ZONE}/disks/data", "mode": "READ_ONLY", "device_name": "incl-data-0"}
    script = """#!/bin/bash
export INCL_VM_ROOT=${INCL_VM_ROOT:-/var/lib/incl}
at=$INCL_VM_ROOT/mounts/ct
mkdir -p "$at"
mount -o ro,noload "$INCL_VM_DISKS/google-incl-data-0" "$at" && echo "read $(cat "$at/scan.txt")"
mkdir -p "$HOME/other"
mount -o ro,noload "$INCL_VM_DISKS/google-incl-data-0" "$HOME/other" && echo "there too"
[ -n "$INCL_FAKE_DISK" ] && { touch "$at/new" || echo kept; }
echo over
"""
    cloud.made(disks=[boot, data], script=script)
    text = said(cloud, "over")
    assert "read voxels" in text
    assert [path.name for path in tmp_path.iterdir()] == ["scan.txt"]
    namespaces = cloud.running.do(lambda inside: inside.host.kind) == "namespaces"
    assert ("kept" in text, "there too" in text, "permission denied" in text) == (
        (True, True, False) if namespaces else (False, False, True)
    )
    cloud.done(cloud.delete())
    assert (tmp_path / "scan.txt").read_text() == "voxels"
