"""The startup script, run for real against a metadata server of its own; hostile values reach no shell."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incl_provisioner.domain.cloud import startup
from incl_provisioner.domain.cloud.startup import Boot, metadata, parse_phase, phases, script, tail
from incl_shared.errors import InvalidInput

TOKEN = "one-time.token_0123456789"
AGENT = """\
#!/bin/bash
echo "agent: node=$INCL_AGENT_NODE bus=$INCL_AGENT_BUS__URLS token=$(cat "$INCL_VM_TOKEN_FILE" 2>/dev/null)"
rm -f "$INCL_VM_TOKEN_FILE"
"""
HOSTILE = ("$(touch canary)", "`touch canary`", "; touch canary", "' ; touch canary #", '"; touch canary; "',
           "\ntouch canary\n", "a b", "-rf", "--", "\x00", "../..", "é", "%0a", "$IFS", "{a,b}", "[a-z]")  # fmt: skip


def archive(text: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        entry = tarfile.TarInfo("bin/incl-agent-vm")
        entry.size, entry.mode = len(text.encode()), 0o755
        tar.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


class Cloud:
    """A metadata server and a store, on loopback."""

    def __init__(self, agent: bytes) -> None:
        self.attributes: dict[str, str] = {}
        self.said: list[str] = []
        self.name = "node-1"
        self.agent = agent
        cloud = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                base = "/computeMetadata/v1/instance/"
                body: bytes | None = None
                if self.path == "/agent.tar.gz":
                    body = cloud.agent
                elif self.headers.get("Metadata-Flavor") == "Google" and self.path.startswith(base):
                    path = self.path.removeprefix(base)
                    own = {"id": "1", "name": cloud.name}
                    text = own[path] if path in own else cloud.attributes.get(path.removeprefix("attributes/"))
                    body = text.encode("utf-8", "surrogatepass") if text is not None else None
                self.answer(body)

            def do_PUT(self) -> None:
                cloud.said.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.answer(b"")

            def answer(self, body: bytes | None) -> None:
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def boot(self, **other: str) -> Boot:
        values = {
            "agent_url": f"http://{self.address}/agent.tar.gz",
            "agent_sha256": hashlib.sha256(self.agent).hexdigest(), "enroll_url": "https://platform/enroll?x=1",
            "token": TOKEN, "bus": "nats://10.0.0.1:4222,nats://10.0.0.2:4222",
        }  # fmt: skip
        return Boot(**{**values, **other})

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    made = Cloud(archive(AGENT))
    yield made
    made.close()


@pytest.fixture
def vm(tmp_path: Path, cloud: Cloud) -> Path:
    """A machine: its folder; `poweroff` leaves a file `off` in it."""
    (tmp_path / "bin").mkdir()
    for name in ("poweroff", "shutdown"):
        command = tmp_path / "bin" / name
        command.write_text(f'#!/bin/sh\necho {name} >> "{tmp_path}/off"\n', encoding="utf-8")
        command.chmod(0o755)
    (tmp_path / "startup-script").write_text(script(), encoding="utf-8")
    return tmp_path


def environment(vm: Path, cloud: Cloud) -> dict[str, str]:
    return {
        "PATH": f"{vm / 'bin'}:{os.environ['PATH']}", "GCE_METADATA_HOST": cloud.address,
        "INCL_VM_ROOT": str(vm / "root"), "INCL_VM_TRIES": "1", "INCL_VM_CRASHES": "2",
    }  # fmt: skip


def run(vm: Path, cloud: Cloud) -> str:
    done = subprocess.run(
        ["bash", str(vm / "startup-script")], env=environment(vm, cloud), cwd=vm, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert (vm / "off").read_text(encoding="utf-8") == "poweroff\n"
    assert not (vm / "root" / "token").exists()
    return done.stdout + done.stderr


def test_the_script_is_sound_for_bash_and_for_shellcheck() -> None:
    path = Path(startup.__file__).with_name("startup.sh")
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert len(script().encode()) < startup.MAX_SCRIPT
    shellcheck = shutil.which("shellcheck")
    if shellcheck is not None:
        found = subprocess.run([shellcheck, "-o", "all", "-e", "SC2250,SC2310,SC2312", str(path)], capture_output=True)
        assert found.returncode == 0, found.stdout.decode()


def test_a_machine_boots_starts_its_agent_and_goes_off_when_it_ends(vm: Path, cloud: Cloud) -> None:
    cloud.attributes = metadata(cloud.boot())
    out = run(vm, cloud)
    assert [phase.name for phase in phases(out)] == [
        "booted", "fetching", "installing", "starting", "started", "off",
    ]  # fmt: skip
    assert [parse_phase(said).name for said in cloud.said] == [phase.name for phase in phases(out)]
    assert f'agent: node=node-1 bus=["nats://10.0.0.1:4222","nats://10.0.0.2:4222"] token={TOKEN}' in out
    assert TOKEN not in "".join(cloud.said)
    assert phases(out)[-1].detail == "the agent has ended"


def test_a_second_start_of_the_machine_does_not_fetch_again(vm: Path, cloud: Cloud) -> None:
    cloud.attributes = metadata(cloud.boot())
    run(vm, cloud)
    (vm / "off").unlink()
    assert "installing" not in [phase.name for phase in phases(run(vm, cloud))]


@pytest.mark.parametrize("name", ["incl-agent-url", "incl-agent-sha256", "incl-enroll-url",
                                  "incl-enroll-token", "incl-bus"])  # fmt: skip
@pytest.mark.parametrize("missing", [True, False])
def test_without_a_value_or_with_a_hostile_one_the_machine_goes_off_with_the_reason(
    vm: Path, cloud: Cloud, name: str, missing: bool
) -> None:
    cloud.attributes = metadata(cloud.boot())
    if missing:
        del cloud.attributes[name]
    else:
        cloud.attributes[name] += "$(touch canary)"
    out = run(vm, cloud)
    assert f"metadata: the attribute {name} is missing or not what it must be" in out
    assert not list(vm.rglob("canary"))
    assert "agent: node" not in out


def test_hostile_values_of_every_kind_run_nothing(vm: Path, cloud: Cloud) -> None:
    for number, text in enumerate(HOSTILE):
        name = ("incl-enroll-url", "incl-bus", "incl-agent-sha256", "incl-agent-url")[number % 4]
        cloud.attributes = {**metadata(cloud.boot()), name: f"{text}{'x' * 20}{text}"}
        out = run(vm, cloud)
        assert "agent: node" not in out
        assert not list(vm.rglob("canary"))
        (vm / "off").unlink()


def test_another_archive_than_the_one_that_was_meant_is_not_unpacked(vm: Path, cloud: Cloud) -> None:
    cloud.attributes = metadata(cloud.boot(agent_sha256="0" * 64))
    out = run(vm, cloud)
    assert "its sha256 is not the one that was given" in out
    assert "failed fetching: the agent could not be fetched" in out
    assert not (vm / "root" / "agent").exists()


def test_an_archive_without_an_agent_and_a_store_that_is_away_end_with_the_reason(vm: Path, cloud: Cloud) -> None:
    cloud.agent = b"not an archive"
    cloud.attributes = metadata(cloud.boot())
    assert "installing: the archive of the agent cannot be unpacked" in run(vm, cloud)
    (vm / "off").unlink()
    cloud.attributes = metadata(cloud.boot(agent_url=f"http://{cloud.address}/nothing"))
    assert "the agent could not be fetched" in run(vm, cloud)


def test_no_network_no_metadata_server(vm: Path, cloud: Cloud) -> None:
    cloud.close()
    out = run(vm, cloud)
    assert "incl-vm: failed network: the metadata server does not answer" in out
    assert cloud.said == []


def test_an_agent_that_crashes_is_started_again_and_one_that_is_refused_is_not(vm: Path, cloud: Cloud) -> None:
    cloud.agent = archive("#!/bin/sh\nexit 3\n")
    cloud.attributes = metadata(cloud.boot())
    out = run(vm, cloud)
    assert [phase.name for phase in phases(out)][-5:] == ["started", "restarting", "started", "failed", "off"]
    assert "it ended 2 times, the last with exit code 3" in out
    (vm / "off").unlink()
    shutil.rmtree(vm / "root")
    cloud.agent = archive("#!/bin/sh\nexit 78\n")
    cloud.attributes = metadata(cloud.boot())
    out = run(vm, cloud)
    assert "failed enroll: the platform refused this machine" in out
    assert "restarting" not in out


def test_told_to_end_the_agent_is_told_and_the_machine_goes_off(vm: Path, cloud: Cloud) -> None:
    cloud.agent = archive(
        "#!/bin/bash\ntrap 'echo agent: told; exit 0' TERM\necho agent: up\nwhile :; do sleep 0.05; done\n"
    )
    cloud.attributes = metadata(cloud.boot())
    process = subprocess.Popen(
        ["bash", str(vm / "startup-script")], env=environment(vm, cloud), cwd=vm, stdout=subprocess.PIPE, text=True
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "agent: up\n":
                process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert "agent: told\n" in lines
    assert lines[-1] == "incl-vm: off told to end\n"
    assert (vm / "off").exists()


@given(st.sampled_from(["agent_url", "agent_sha256", "enroll_url", "token", "bus"]),
       st.text(max_size=60) | st.sampled_from(HOSTILE))  # fmt: skip
def test_only_checked_values_travel_and_none_is_part_of_the_script(field: str, text: str) -> None:
    plain = Boot("https://a/b", "0" * 64, "https://a/c", "t" * 16, "nats://h:1")
    boot = Boot(**{**{name: getattr(plain, name) for name in Boot.__slots__}, field: text})
    try:
        made = metadata(boot)
    except InvalidInput as error:
        assert not text or len(text) < 4 or text not in error.message
        return
    assert made[startup.SCRIPT_KEY] == script()
    assert not set(text) & set("$`;'\"\\ \n\r\t()<>|{}*!#\0")


def test_what_is_allowed_passes_both_checks(cloud: Cloud, vm: Path) -> None:
    cloud.attributes = metadata(
        cloud.boot(enroll_url="https://h:1/a?b=c&d=%20~+,@", token="aZ0._~+/=-" * 4, bus="wss://h:1")
    )
    assert "agent: node=node-1" in run(vm, cloud)


@pytest.mark.parametrize("name", ["", "-rf", "a b", "A_b", "$(touch canary)"])
def test_a_machine_whose_name_cannot_be_one_goes_off(cloud: Cloud, vm: Path, name: str) -> None:
    cloud.name = name
    cloud.attributes = metadata(cloud.boot())
    out = run(vm, cloud)
    assert "the machine does not know its name" in out
    assert not (vm / "canary").exists()


@given(st.text(max_size=300))
def test_what_a_machine_says_is_read_warily(text: str) -> None:
    phase = parse_phase(text)
    if phase is not None:
        assert phase.name.isascii()
        assert phase.detail.isprintable()
    for line in tail(text, 5).splitlines():
        assert line.isprintable()
        assert len(line) <= 200
    assert len(phases(text * 3)) >= 0


def test_the_end_of_a_console() -> None:
    console = "\n".join(f"line {number}\x1b[0m" for number in range(100))
    assert tail(console, 2) == "line 98 [0m\nline 99 [0m"
