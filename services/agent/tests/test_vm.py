"""The agent on a machine of a cloud: the provider's notice, a machine that goes down, one that nobody hears."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from incl_agent import vm as vm_module
from incl_agent import vm_metadata
from incl_agent.app import Agent, create_app
from incl_agent.fakes import FakePlatform
from incl_agent.jobfiles import JobFiles
from incl_agent.settings import AgentSettings
from incl_agent.vm import Vm, _alone, _go_down, _watch
from incl_agent.vm_metadata import Metadata
from incl_shared.reports import PreemptionNotice
from incl_shared.states import EndReason
from incl_shared.testing.wait import until

POLITE = "trap 'echo saved > $INCL_OUTPUT_DIR/last.txt; exit 0' TERM; echo up; while :; do sleep 0.05; done"


class Server:
    """A metadata server: `preempted` is answered when it changes."""

    def __init__(self) -> None:
        self.preempted = "FALSE"
        self.changed = threading.Event()
        self.asked: list[str] = []
        self.refusals = 0
        """So many questions for the address are cut off before one is answered."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.removeprefix("/computeMetadata/v1/instance/")
                server.asked.append(path)
                if self.headers.get("Metadata-Flavor") != "Google":
                    self.answer(403, "")
                elif path.startswith("preempted"):
                    if "wait_for_change" in path:
                        server.changed.wait(5)
                    self.answer(200, server.preempted)
                elif server.refusals > 0:
                    server.refusals -= 1
                    self.answer(503, "") if server.refusals % 2 else self.close_connection_now()
                else:
                    self.answer(200, "10.128.0.7") if path == "network-interfaces/0/ip" else self.answer(404, "")

            def close_connection_now(self) -> None:
                self.close_connection = True

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("ETag", f"e{server.preempted}")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.metadata = Metadata(f"127.0.0.1:{self.server.server_address[1]}")

    def take(self) -> None:
        self.preempted = "TRUE"
        self.changed.set()

    def close(self) -> None:
        self.changed.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


async def test_it_knows_its_own_address(server: Server) -> None:
    assert await server.metadata.address() == "10.128.0.7"
    assert await Metadata("127.0.0.1:9").address(patience_s=1.2) == ""
    assert not await server.metadata.is_preempted()


async def test_it_asks_again_for_its_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_metadata, "_ASK_AGAIN_S", 0.01)
    server.refusals = 4
    assert await server.metadata.address() == "10.128.0.7"
    assert server.asked == ["network-interfaces/0/ip"] * 5


async def test_the_notice_ends_the_jobs_and_what_they_made_is_stored(
    agent: Agent, platform: FakePlatform, server: Server
) -> None:
    job = platform.job("sh", "-c", POLITE)
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    watching = asyncio.create_task(_watch(agent, server.metadata))
    await until(lambda: any("last_etag" in path for path in server.asked))
    assert not watching.done()
    server.take()
    end = await platform.ended(job)
    assert (end.reason, end.exit_code) == (EndReason.PREEMPTED, 0)
    assert "takes this machine back" in end.message
    assert [entry.path for entry in platform.entries] == ["last.txt"]
    notices = [report.body for report in await platform.reports() if isinstance(report.body, PreemptionNotice)]
    assert len(notices) == 1
    await watching


async def test_a_machine_that_goes_down_ends_its_jobs_first(
    agent: Agent, platform: FakePlatform, server: Server
) -> None:
    job = platform.job("sh", "-c", POLITE)
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    await _go_down(agent, server.metadata)
    end = await platform.ended(job)
    assert end.reason is EndReason.PREEMPTED
    assert "is being switched off" in end.message
    assert agent.manager is not None
    assert not agent.manager.unended


async def test_a_job_that_has_ended_is_not_called_preempted(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("true")
    await platform.want(job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    await agent.going("too late", 1.0)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED


async def test_a_stop_by_nobody_of_the_platform_is_a_loss_and_no_stop(agent: Agent, platform: FakePlatform) -> None:
    """A machine that is switched off sends SIGTERM to all that runs on it."""
    job = platform.job("sh", "-c", POLITE)
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    shim = JobFiles(agent.settings.jobs_dir / job.job).shim()
    assert shim is not None
    os.kill(shim.pid, signal.SIGTERM)
    end = await platform.ended(job)
    assert end.reason is EndReason.LOST
    assert "by its machine" in end.message


async def test_it_ends_when_the_bus_takes_no_word_and_no_job_runs() -> None:
    quiet = SimpleNamespace(word=asyncio.get_running_loop().time() - 100.0, manager=SimpleNamespace(running=1))
    alone = asyncio.create_task(_alone(quiet, 0.2))  # type: ignore[arg-type]
    done, _ = await asyncio.wait({alone}, timeout=0.5)
    assert not done, "a job runs"
    quiet.word = asyncio.get_running_loop().time() + 0.5
    quiet.manager.running = 0
    done, _ = await asyncio.wait({alone}, timeout=0.3)
    assert not done, "the bus took a word a moment ago"
    await asyncio.wait_for(alone, 10)


@pytest.mark.parametrize(
    ("cloud", "says"), [(True, "INCL_PROVISIONER_CLOUD__IMAGE_FAMILY"), (False, "on that machine")]
)
async def test_a_machine_without_podman_says_what_can_be_done(
    agent_settings: AgentSettings, platform: FakePlatform, tmp_path: Path, cloud: bool, says: str
) -> None:
    """One of a cloud is deleted by the time that somebody reads it: nothing can be installed there."""
    agent = create_app(agent_settings.model_copy(update={"disks": tmp_path if cloud else None}))
    await agent.start()
    try:
        job = platform.job("true", image="x")
        await platform.want(job)
        end = await platform.ended(job)
    finally:
        await agent.stop()
    assert end.reason is EndReason.UNSUPPORTED
    assert says in end.hint
    assert "--no-image" in end.hint
    assert ("on that machine" in end.hint) is not cloud


def test_what_the_startup_script_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INCL_VM_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("INCL_VM_ENROLL_URL", "http://127.0.0.1:9/enroll")
    said = Vm.here()
    assert (said.token, said.creds) == (tmp_path / "token", tmp_path / "node.creds")
    monkeypatch.delenv("INCL_VM_TOKEN_FILE")
    assert vm_module.main() == vm_module.REFUSED


async def _said(platform: FakePlatform, job: object, text: str) -> bool:
    return text in [line for _, _, line in await platform.lines(job)]
