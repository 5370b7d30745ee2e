"""One contract for all runtimes, with real shims: exit codes, signals, stop, output, environment, folders."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from incl_agent.jobfiles import JobFiles
from incl_agent.process import ProcessHandle, read_line, spawn_shim
from incl_agent.runtimes import Plan, Prepared, Runtime, RuntimeFailure
from incl_agent.runtimes.base import Outcome
from incl_agent.runtimes.bubblewrap import BubblewrapRuntime
from incl_agent.runtimes.containers import ContainerRuntime
from incl_agent.runtimes.host import HostRuntime
from incl_shared.ids import job_id, new_id
from incl_shared.states import EndReason
from incl_shared.testing.wait import until

IMAGE = "localhost/incl-test:latest"
TOOLS = ("sh", "sleep", "cat", "env")


class Bench:
    """Runs commands under one runtime."""

    def __init__(self, runtime: Runtime, prepared: Prepared, root: Path) -> None:
        self.runtime = runtime
        self.prepared = prepared
        self.files = JobFiles(root / "the job")
        self.files.root.mkdir()
        for folder in (self.files.work, self.files.outputs, self.files.spool, self.files.data):
            folder.mkdir()
        self.secret = root / "hidden"
        self.secret.mkdir()
        (self.secret / "key").write_text("key")

    def plan(self, *argv: str) -> Plan:
        return Plan(
            name=job_id(new_id(), 1, 0),
            argv=argv,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "GREETING": "good day", "TOKEN": "hush"},
            cwd=self.files.work,
            writable=(self.files.work, self.files.outputs, self.files.spool),
            readable=(self.files.data,),
            hidden=(self.secret,),
            private=frozenset({"TOKEN"}),
            image=self.prepared.image,
            cpu=1.0,
            memory=256 << 20,
            grace_s=10.0,
        )

    async def begin(self, plan: Plan) -> ProcessHandle | None:
        """The shim; None when it has ended already."""
        _, pipe = spawn_shim(self.files.root, self.runtime.launch(plan, self.prepared))
        await read_line(pipe)
        identity = self.files.shim()
        assert identity is not None
        return ProcessHandle.open(identity)

    async def start(self, plan: Plan) -> ProcessHandle:
        handle = await self.begin(plan)
        assert handle is not None
        return handle

    async def finish(self, handle: ProcessHandle | None) -> Outcome:
        if handle is not None:
            await asyncio.wait_for(handle.wait(), 30)
            handle.close()
        exit_ = self.files.exit()
        assert exit_ is not None, self.files.shim_errors()
        return self.runtime.outcome(exit_, self.files.errors_end())

    async def run(self, *argv: str, **changes: object) -> Outcome:
        return await self.finish(await self.begin(replace(self.plan(*argv), **changes)))  # type: ignore[arg-type]

    @property
    def out(self) -> str:
        return self.files.stdout.read_text() if self.files.stdout.exists() else ""

    @property
    def err(self) -> str:
        return self.files.errors_end()


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerRuntime]:
    """An image imported from a root file system of this machine's own shell."""
    folder = tmp_path_factory.mktemp("podman")
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    runtime = ContainerRuntime("podman", folder)
    if not asyncio.run(runtime.available()):
        pytest.skip("podman does not work here")
    tar = folder / "root.tar"
    with tarfile.open(tar, "w") as archive:
        added: set[str] = set()
        for tool in TOOLS:
            path = Path(shutil.which(tool) or "")
            found = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=True).stdout
            for file in (str(path), *re.findall(r"(/\S+)", found)):
                name = f"bin/{tool}" if file == str(path) else file.lstrip("/")
                if name not in added:
                    added.add(name)
                    archive.add(Path(file).resolve(), name)
    environment = {**os.environ, **runtime._env}
    imported = subprocess.run(["podman", "import", str(tar), IMAGE], env=environment, capture_output=True, text=True)
    if imported.returncode != 0:
        pytest.skip(f"podman cannot import: {imported.stderr[-200:]}")
    trial = subprocess.run(
        ["podman", "run", "--rm", "--network", "host", IMAGE, "/bin/sh", "-c", "exit 7"],
        env=environment,
        capture_output=True,
    )
    if trial.returncode != 7:
        pytest.skip(f"podman cannot run a container here: {trial.stderr[-200:]!r}")
    yield runtime
    subprocess.run(["podman", "rmi", "--force", IMAGE], env=environment, capture_output=True)


@pytest.fixture(params=["host", "bubblewrap", pytest.param("podman", marks=pytest.mark.podman)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    runtime: Runtime = HostRuntime()
    image = None
    if request.param == "bubblewrap":
        runtime = BubblewrapRuntime()
    elif request.param == "podman":
        runtime, image = await asyncio.to_thread(request.getfixturevalue, "podman"), IMAGE
    if request.param == "bubblewrap" and not await runtime.available():
        pytest.skip(f"{request.param} does not work here")
    yield Bench(runtime, await runtime.prepare(image), tmp_path)


async def test_exit_code_and_output(bench: Bench) -> None:
    outcome = await bench.run("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (outcome.exit.exit_code, outcome.exit.signal, outcome.refusal) == (3, None, None)
    assert bench.out == "out\n"
    assert bench.err.endswith("err\n")


async def test_signal(bench: Bench) -> None:
    outcome = await bench.run("sh", "-c", "sh -c 'kill -9 $$'; kill -9 $$ || exit 137; exit 137")
    assert (outcome.exit.exit_code, outcome.exit.signal) == (None, 9)


async def test_folder_and_environment(bench: Bench) -> None:
    command = f"cat in.txt; echo kept > '{bench.files.outputs}/o.txt'; echo $GREETING $TOKEN; pwd"
    (bench.files.work / "in.txt").write_text("input\n")
    outcome = await bench.run("sh", "-c", command)
    assert outcome.exit.exit_code == 0, bench.err
    assert bench.out.splitlines() == ["input", "good day hush", str(bench.files.work)]
    made = bench.files.outputs / "o.txt"
    assert made.read_text() == "kept\n"
    assert made.stat().st_uid == os.getuid()


async def test_stop_lets_it_save(bench: Bench) -> None:
    handle = await bench.start(
        bench.plan("sh", "-c", "trap 'echo saved; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    )
    await until(lambda: "up" in bench.out)
    handle.send(15)
    outcome = await bench.finish(handle)
    assert (outcome.exit.exit_code, outcome.exit.cause, outcome.exit.killed) == (5, "stop", False)
    assert "saved" in bench.out


async def test_stop_kills_after_the_grace(bench: Bench) -> None:
    plan = replace(bench.plan("sh", "-c", "trap '' TERM; echo up; sleep 60; sleep 60"), grace_s=0.3)
    handle = await bench.start(plan)
    await until(lambda: "up" in bench.out)
    handle.send(15)
    outcome = await bench.finish(handle)
    assert outcome.exit.killed
    assert outcome.exit.signal == 9


async def test_max_duration(bench: Bench) -> None:
    outcome = await bench.run("sleep", "60", max_duration_s=1.0, grace_s=0.2)
    assert outcome.exit.cause == "max_duration"


async def test_a_command_that_does_not_exist(bench: Bench) -> None:
    outcome = await bench.run("no-such-command")
    if bench.runtime.name == "host":
        assert outcome.exit.errno == 2
    else:
        assert outcome.refusal is not None
        assert outcome.refusal.reason is EndReason.COMMAND
        assert "no-such-command" in outcome.refusal.message


async def test_secrets_are_in_no_command_line(bench: Bench) -> None:
    launch = bench.runtime.launch(bench.plan("true"), bench.prepared)
    assert not any("hush" in word for word in launch.argv)


async def test_a_sandbox_hides_and_protects(tmp_path: Path) -> None:
    runtime = BubblewrapRuntime()
    if not await runtime.available():
        pytest.skip("bubblewrap does not work here")
    bench = Bench(runtime, Prepared(), tmp_path)
    outside = tmp_path / "outside.txt"
    command = f"cat '{bench.secret}/key'; echo x > '{outside}'; echo $$; ls /tmp"
    outcome = await bench.run("sh", "-c", command)
    assert outcome.exit.exit_code == 0
    assert "key\n" not in bench.out
    assert not outside.exists()
    assert int(bench.out.splitlines()[0]) < 10


@pytest.mark.podman
async def test_an_image_that_cannot_be_had(podman: ContainerRuntime) -> None:
    with pytest.raises(RuntimeFailure) as caught:
        await podman.prepare("localhost:1/no/such:image")
    assert caught.value.reason is EndReason.IMAGE
    assert "localhost:1/no/such:image" in caught.value.message
    assert "podman pull" in caught.value.hint


@pytest.mark.podman
async def test_the_digest_is_pinned_and_the_container_removed(podman: ContainerRuntime, tmp_path: Path) -> None:
    prepared = await podman.prepare(IMAGE)
    assert prepared.digest is not None
    assert prepared.digest.startswith("sha256:")
    bench = Bench(podman, prepared, tmp_path)
    plan = bench.plan("sh", "-c", "exit 0")
    outcome = await bench.finish(await bench.start(plan))
    assert outcome.exit.exit_code == 0
    listed = await podman._run("ps", "--all", "--format", "{{.Names}}", seconds=30)
    assert plan.name not in listed.out
