"""kill -9 of the agent in every phase of a job: the job does not notice, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from incl_agent.app import Agent
from incl_agent.fakes import FakePlatform
from incl_agent.jobfiles import JobFiles
from incl_agent.process import survivors
from incl_agent.settings import AgentSettings
from incl_shared import subjects
from incl_shared.control import JobWanted, Wanted
from incl_shared.reports import JobReady, NodeHeartbeat, NodeHello, Report
from incl_shared.states import EndReason
from incl_shared.tasks import end_all
from incl_shared.testing.nats import free_port
from incl_shared.testing.wait import until

LOOP = "echo up; i=0; while [ ! -e go ]; do i=$((i+1)); echo line $i; sleep 0.01; done; echo end"


class AgentProcess:
    """An agent of its own process. `kill` is kill -9."""

    def __init__(self, settings: AgentSettings, log: Path) -> None:
        self._env = {
            **os.environ,
            "INCL_AGENT_NODE": settings.node,
            "INCL_AGENT_DATA_DIR": str(settings.data_dir),
            "INCL_AGENT_BUS": settings.bus.model_dump_json(),
            "INCL_AGENT_POLL_S": "0.2",
            "INCL_AGENT_RETRY_LIMIT_S": "60",
            "INCL_AGENT_CONTAINER_TOOL": "none-such",
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; several starts are several lives of one agent."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "incl_agent"], env=self._env, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=20)
            self._process = None

    @property
    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace")


@pytest.fixture
def process(agent_settings: AgentSettings, tmp_path: Path) -> Iterator[AgentProcess]:
    process = AgentProcess(agent_settings, tmp_path / "agent.log")
    yield process
    process.kill()


def files_of(settings: AgentSettings, job: JobWanted) -> JobFiles:
    return JobFiles(settings.jobs_dir / job.job)


async def check(platform: FakePlatform, job: JobWanted, kinds: int = 5) -> None:
    """The whole story once: every report, every line, in order."""
    said = [body.kind for body in await platform.of(job)]
    assert said == ["job_preparing", "job_ready", "job_started", "job_uploading", "job_ended"]
    seqs = [report.seq for report in await platform.reports()]
    assert seqs == list(range(1, len(seqs) + 1))
    lines = await platform.lines(job)
    assert [number for number, _, _ in lines] == list(range(1, len(lines) + 1))
    texts = [text for _, _, text in lines]
    assert texts[0] == "up"
    assert texts[-1] == "end"
    assert texts[1:-1] == [f"line {number}" for number in range(1, len(texts) - 1)]
    end = await platform.ended(job)
    assert {count.writer: count.records for count in end.writers}["log"] == len(lines)


async def go_on(settings: AgentSettings, job: JobWanted) -> None:
    (files_of(settings, job).work / "go").touch()


async def test_killed_while_it_prepares(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    code = platform.code({"run.sh": LOOP})
    platform.store.failing = True
    job = platform.job("sh", "run.sh", code=code)
    process.start()
    await platform.want(job)
    await until(lambda: any("GET" in line for line in platform.store.requests), 30)
    process.kill()
    platform.store.failing = False
    process.start()
    await until(lambda: files_of(agent_settings, job).child_time())
    await go_on(agent_settings, job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    await check(platform, job)


async def test_killed_when_it_is_ready(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    job = platform.job("sh", "-c", LOOP, wanted=Wanted.PREPARE)
    process.start()
    await platform.want(job)
    ready = await platform.said(job, JobReady)
    process.kill()
    await platform.run_job(job)
    process.start()
    await until(lambda: files_of(agent_settings, job).child_time())
    assert files_of(agent_settings, job).load_state().port == ready.port
    await go_on(agent_settings, job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    await check(platform, job)


async def test_what_was_only_prepared_starts_when_a_list_asks_for_it_that_knows_of_the_new_agent(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    """Until then it may be another machine's work: this one may have been away for longer than its lease."""
    job = platform.job("sh", "-c", LOOP, wanted=Wanted.PREPARE)
    process.start()
    await platform.want(job)
    await platform.said(job, JobReady)
    process.kill()
    platform.life = "the one before"
    await platform.run_job(job)
    process.start()
    hello = await _hello(platform, lives=2)
    await until(lambda: "1 jobs" in process.log)
    await platform.write()
    await _generation(platform, platform.generation)
    assert files_of(agent_settings, job).shim() is None
    platform.life = hello.life
    await platform.write()
    await until(lambda: files_of(agent_settings, job).child_time())
    await go_on(agent_settings, job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED


async def _hello(platform: FakePlatform, lives: int) -> NodeHello:
    """That of the newest of so many lives."""
    found: list[NodeHello] = []

    async def said() -> bool:
        found[:] = [one.body for one in await platform.reports() if isinstance(one.body, NodeHello)]
        return len({one.life for one in found}) >= lives

    await until(said)
    return found[-1]


async def _generation(platform: FakePlatform, number: int) -> None:
    """Until a heartbeat says that this list was applied."""

    async def seen() -> bool:
        subject = subjects.report(platform.node)
        messages = await platform.messages("REPORTS", lambda name: name == subject)
        bodies = [Report.model_validate_json(data).body for _, data in messages]
        return any(isinstance(body, NodeHeartbeat) and body.generation >= number for body in bodies)

    await until(seen)


async def test_killed_again_and_again_while_it_runs(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    job = platform.job("sh", "-c", f"echo $$ > pid; {LOOP}")
    process.start()
    await platform.want(job)
    files = files_of(agent_settings, job)
    await until(lambda: (files.work / "pid").exists() and (files.work / "pid").read_text())
    pid = (files.work / "pid").read_text()
    for _ in range(3):
        before = len(await platform.lines(job))
        await until(lambda before=before: more(platform, job, before))
        process.kill()
        assert Path(f"/proc/{pid.strip()}").exists()
        process.start()
    await go_on(agent_settings, job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    assert (files.work / "pid").read_text() == pid
    await check(platform, job)


async def test_the_job_ends_while_there_is_no_agent(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    job = platform.job("sh", "-c", f"{LOOP}; exit 7")
    process.start()
    await platform.want(job)
    await until(lambda: more(platform, job, 0))
    process.kill()
    await go_on(agent_settings, job)
    await until(lambda: files_of(agent_settings, job).exit() is not None)
    process.start()
    end = await platform.ended(job)
    assert (end.reason, end.exit_code) == (EndReason.ERROR, 7)
    await check(platform, job)


async def test_killed_while_it_uploads(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    platform.store.failing = True
    job = platform.job("sh", "-c", f'touch go; echo x > "$INCL_OUTPUT_DIR/x"; {LOOP}')
    process.start()
    await platform.want(job)
    await until(lambda: any("HEAD" in line for line in platform.store.requests))
    process.kill()
    assert files_of(agent_settings, job).exit() is not None
    platform.store.failing = False
    process.start()
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    await check(platform, job)
    assert [entry.path for entry in platform.entries] == ["x"]


async def test_killed_after_the_end(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    job = platform.job("sh", "-c", f"touch go; {LOOP}")
    process.start()
    await platform.want(job)
    await platform.ended(job)
    process.kill()
    process.start()
    other = platform.job("true")
    await platform.want(other)
    await platform.ended(other)
    await check(platform, job)
    await platform.unwant(job)
    await until(lambda: not files_of(agent_settings, job).root.exists())


async def test_sigterm_of_the_agent_leaves_the_job_alone(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    job = platform.job("sh", "-c", LOOP)
    process.start()
    await platform.want(job)
    await until(lambda: more(platform, job, 0))
    process.kill(signal.SIGTERM)
    files = files_of(agent_settings, job)
    shim = files.shim()
    assert shim is not None
    assert shim.alive()
    assert files.exit() is None
    process.start()
    before = len(await platform.lines(job))
    await until(lambda: more(platform, job, before))
    await go_on(agent_settings, job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    await check(platform, job)


async def test_a_stop_that_came_while_there_was_no_agent(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    job = platform.job("sh", "-c", LOOP)
    process.start()
    await platform.want(job)
    await until(lambda: more(platform, job, 0))
    process.kill()
    await platform.stop_job(job)
    process.start()
    assert (await platform.ended(job)).reason is EndReason.STOPPED


async def test_a_store_that_hangs_does_not_keep_the_agent_from_ending(
    process: AgentProcess, platform: FakePlatform
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        platform.door = f"http://127.0.0.1:{silent.getsockname()[1]}"
        job = platform.job("true", code=platform.code({"a": "b"}))
        process.start()
        await platform.want(job)
        held, _ = await asyncio.to_thread(silent.accept)
        began = time.monotonic()
        await asyncio.to_thread(process.kill, signal.SIGTERM)
        assert time.monotonic() - began < 10
        held.close()
    platform.door = None
    process.start()
    assert (await platform.ended(job)).reason is EndReason.COMPLETED


async def test_the_shim_is_killed(process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings) -> None:
    job = platform.job("sh", "-c", "setsid sleep 61 & echo $$; sleep 60")
    process.start()
    await platform.want(job)
    await until(lambda: more(platform, job, 0))
    pid = int((await platform.lines(job))[0][2])
    shim = files_of(agent_settings, job).shim()
    assert shim is not None
    os.kill(shim.pid, signal.SIGKILL)
    end = await platform.ended(job)
    assert end.reason is EndReason.INFRA
    await until(lambda: not Path(f"/proc/{pid}").exists())


async def test_a_shim_that_died_without_an_agent_is_noticed_before_the_bus_is_reached(
    process: AgentProcess, platform: FakePlatform, agent_settings: AgentSettings
) -> None:
    """The machine is cut off: its work is given to another one soon, and nobody else ends what runs here."""
    job = platform.job("sh", "-c", "setsid sleep 61 & echo $$; sleep 60")
    process.start()
    await platform.want(job)
    await until(lambda: more(platform, job, 0))
    pid = int((await platform.lines(job))[0][2])
    process.kill()
    shim = files_of(agent_settings, job).shim()
    assert shim is not None
    os.kill(shim.pid, signal.SIGKILL)
    await until(lambda: not shim.alive())
    assert Path(f"/proc/{pid}").exists()
    away = agent_settings.bus.model_copy(update={"urls": (f"nats://127.0.0.1:{free_port()}",)})
    agent = Agent(agent_settings.model_copy(update={"bus": away}))
    starting = asyncio.create_task(agent.start())
    await until(lambda: not survivors(shim.pid, shim.start, f"INCL_JOB={job.job}"))
    assert not starting.done()
    await end_all([starting])
    process.start()
    assert (await platform.ended(job)).reason is EndReason.INFRA


async def more(platform: FakePlatform, job: JobWanted, than: int) -> bool:
    return len(await platform.lines(job)) > than


async def test_a_kill_between_a_version_and_the_word_of_it(
    process: AgentProcess, agent_settings: AgentSettings, platform: FakePlatform
) -> None:
    """The registry has it, the agent does not know: it asks for the same one again, and another record for another."""
    script = (
        "import incl, os, time\n"
        "open('best.pt', 'w').write('weights')\n"
        "for note in ('a', 'b'): incl.register_model('net', 'best.pt', note=note)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    job = platform.job("python3", "run.py", code=platform.code({"run.py": script}))
    asked: list[int] = []

    def kill_once() -> None:
        asked.append(len(platform.models))
        if len(asked) == 1:
            process.kill()

    platform.on_register = kill_once
    process.start()
    await platform.want(job)
    await until(lambda: len(asked) == 1)
    process.start()
    await until(lambda: len(platform.models) == 2 and len(asked) == 3)
    assert asked == [1, 1, 2]
    assert sorted(query.note for query in platform.models.values()) == ["a", "b"]
    (files_of(agent_settings, job).work / "go").touch()
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
