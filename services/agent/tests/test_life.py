"""The life of a job, with a real bus, real processes and real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from incl_agent.app import Agent
from incl_agent.fakes import FakePlatform
from incl_shared.control import Wanted
from incl_shared.events.experiments import Submitter
from incl_shared.ids import new_id
from incl_shared.reports import JobReady, JobStarted, JobUploading
from incl_shared.states import EndReason
from incl_shared.testing.wait import until


async def test_a_job_goes_all_its_way(agent: Agent, platform: FakePlatform) -> None:
    code = platform.code(
        {"train.sh": "echo hello from $INCL_NODE_RANK; echo oops >&2; echo kept > $INCL_OUTPUT_DIR/model.txt"}
    )
    job = platform.job("sh", "train.sh", code=code)
    await platform.want(job)
    end = await platform.ended(job)
    assert (end.reason, end.exit_code, end.signal) == (EndReason.COMPLETED, 0, None)
    said = [body.kind for body in await platform.of(job)]
    assert said == ["job_preparing", "job_ready", "job_started", "job_uploading", "job_ended"]
    times = end.times
    assert times.preparing <= times.prepared <= times.started <= times.ended <= times.uploaded
    assert sorted(text for _, _, text in await platform.lines(job)) == ["hello from 0", "oops"]
    assert {(text, stream) for _, stream, text in await platform.lines(job)} == {("hello from 0", 0), ("oops", 1)}
    assert [(entry.path, entry.kind, entry.size) for entry in platform.entries] == [("model.txt", "output", 5)]
    assert [(count.writer, count.records) for count in end.writers] == [("log", 2)]


async def test_reports_are_numbered_without_holes(agent: Agent, platform: FakePlatform) -> None:
    jobs = [platform.job("true") for _ in range(5)]
    await platform.want(*jobs)
    for job in jobs:
        await platform.ended(job)
    seqs = [report.seq for report in await platform.reports()]
    assert seqs == list(range(1, len(seqs) + 1))
    assert len({report.journal for report in await platform.reports()}) == 1


async def test_prepare_waits_for_the_wish_to_run(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("echo", "ran", wanted=Wanted.PREPARE)
    await platform.want(job)
    ready = await platform.said(job, JobReady)
    assert 1024 <= ready.port <= 65_535
    assert not (agent.settings.jobs_dir / job.job / "shim.json").exists()
    await platform.run_job(job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED


async def test_a_stop_before_the_start(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("echo", "ran", wanted=Wanted.PREPARE)
    await platform.want(job)
    await platform.said(job, JobReady)
    await platform.stop_job(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.STOPPED
    assert "before it started" in end.message
    assert not any(isinstance(body, JobStarted) for body in await platform.of(job))


async def test_a_stop_of_a_job_that_was_never_here(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("true", wanted=Wanted.STOP)
    await platform.want(job)
    assert (await platform.ended(job)).reason is EndReason.STOPPED


async def test_a_stop_while_the_code_cannot_be_fetched(agent: Agent, platform: FakePlatform) -> None:
    code = platform.code({"a": "b"})
    platform.store.failing = True
    job = platform.job("true", code=code)
    await platform.want(job)
    await until(lambda: any("GET" in line for line in platform.store.requests))
    await platform.stop_job(job)
    assert (await platform.ended(job, timeout=3)).reason is EndReason.STOPPED


async def test_stop_is_polite_first(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    await platform.stop_job(job)
    end = await platform.ended(job)
    assert (end.reason, end.exit_code) == (EndReason.STOPPED, 0)
    assert "saved" in [text for _, _, text in await platform.lines(job)]


async def test_a_job_that_ignores_sigterm_is_killed_after_its_grace(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "trap '' TERM; echo up; sleep 60 & sleep 60")
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"grace_s": 0.3})})
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    await platform.stop_job(job)
    end = await platform.ended(job, timeout=5)
    assert (end.reason, end.signal) == (EndReason.STOPPED, 9)
    assert "killed" in end.message


async def test_the_next_attempt_begins_after_the_end_of_the_one_before(agent: Agent, platform: FakePlatform) -> None:
    slow = "trap 'sleep 1; echo last; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    first = platform.job("sh", "-c", slow)
    await platform.want(first)
    await until(lambda: _said(platform, first, "up"))
    await platform.unwant(first)
    second = platform.job("echo", "next", experiment=first.experiment, attempt=2)
    await platform.want(second)
    end, began = await platform.ended(first), (await platform.said(second, JobStarted)).times.started
    assert end.times.ended is not None and began is not None
    assert began > end.times.ended
    assert (await platform.ended(second)).reason is EndReason.COMPLETED


async def test_an_attempt_before_that_does_not_end_is_killed(agent: Agent, platform: FakePlatform) -> None:
    first = platform.job("sh", "-c", "trap '' TERM; echo up; sleep 60 & sleep 60")
    first = first.model_copy(update={"spec": first.spec.model_copy(update={"grace_s": 60.0})})
    await platform.want(first)
    await until(lambda: _said(platform, first, "up"))
    await platform.unwant(first)
    second = platform.job("echo", "next", experiment=first.experiment, attempt=2)
    await platform.want(second)
    assert (await platform.ended(second, timeout=20)).reason is EndReason.COMPLETED
    assert (await platform.ended(first)).signal == 9


async def test_max_duration(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sleep", "60", max_duration_s=0.3)
    await platform.want(job)
    end = await platform.ended(job, timeout=5)
    assert end.reason is EndReason.MAX_DURATION
    assert "0.3" in end.message
    assert "max_duration" in end.hint


async def test_an_error_ends_with_the_last_words(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job(
        "sh", "-c", "echo 'Traceback (most recent call last):' >&2; echo 'ValueError: bad lr' >&2; exit 3"
    )
    await platform.want(job)
    end = await platform.ended(job)
    assert (end.reason, end.exit_code, end.message) == (EndReason.ERROR, 3, "ValueError: bad lr")


async def test_a_signal(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "kill -9 $$")
    await platform.want(job)
    end = await platform.ended(job)
    assert (end.reason, end.exit_code, end.signal) == (EndReason.ERROR, None, 9)
    assert "SIGKILL" in end.message
    assert "memory" in end.hint


async def test_a_command_that_does_not_exist(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("no-such-command-here")
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.COMMAND
    assert "no-such-command-here" in end.message
    assert "PATH" in end.hint


async def test_a_script_that_is_not_executable(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("./run.sh", code=platform.code({"run.sh": "echo no"}))
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.COMMAND
    assert "chmod +x" in end.hint


async def test_output_in_every_shape(agent: Agent, platform: FakePlatform) -> None:
    script = (
        "import sys, os\n"
        "os.write(1, b'x' * 10_000_000 + b'\\n')\n"
        "os.write(1, b'caf\\xe9\\n')\n"
        "for i in range(50): os.write(2, b'\\rstep %d' % i)\n"
        "os.write(2, b'\\n')\n"
        "os.write(1, b'no newline')\n"
    )
    job = platform.job("python3", "run.py", code=platform.code({"run.py": script}))
    await platform.want(job)
    end = await platform.ended(job, timeout=30)
    assert end.reason is EndReason.COMPLETED
    (written,) = [count.records for count in end.writers if count.stream == "logs"]
    while len(lines := await platform.lines(job)) < written:  # the rest comes after the end
        await until(lambda: True)
    assert [number for number, _, _ in lines] == list(range(1, len(lines) + 1))
    out = [text for _, stream, text in lines if stream == 0]
    assert sum(text.count("x") for text in out) == 10_000_000
    assert "caf\ufffd" in out
    assert out[-1] == "no newline"
    bar = [text for _, stream, text in lines if stream == 1]
    assert bar[-1].endswith("step 49")
    assert len(bar) < 50


async def test_what_a_job_leaves_running_is_ended(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "setsid sh -c 'echo $$; exec sleep 60' & sleep 0.2")
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.COMPLETED
    pid = int((await platform.lines(job))[0][2])
    assert not Path(f"/proc/{pid}").exists() or b"sleep" not in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_the_environment(agent: Agent, platform: FakePlatform, tmp_path: Path) -> None:
    data = tmp_path / "some data"
    data.mkdir()
    (data / "x.txt").write_text("42")
    platform.secrets["WANDB_KEY"] = "hush"
    job = platform.job(
        "python3", "-c", "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w')); "
        "print(open(os.path.join(os.environ['INCL_DATA_DIR'], 'digits/x.txt')).read())", str(tmp_path / "env.json"),
        env={"LR": "0.1"}, secrets=("WANDB_KEY",), cpu=2.0, cpu_asked=True,
        data=({"source": str(data), "target": "digits"},),
    )  # fmt: skip
    await platform.want(job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    assert (await platform.lines(job))[0][2] == "42"
    import json

    env = json.loads((tmp_path / "env.json").read_text())
    assert env["WANDB_KEY"] == "hush"
    assert env["LR"] == "0.1"
    assert json.loads(env["INCL_HPARAMS"]) == {"LR": "0.1"}
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["INCL_EXPERIMENT_ID"] == job.experiment
    assert env["PET_NNODES"] == env["INCL_NUM_NODES"] == "1"
    assert env["MASTER_PORT"] == env["PET_MASTER_PORT"]
    assert json.loads(env["TF_CONFIG"])["task"] == {"type": "worker", "index": 0}
    assert (Path(env["PYTHONPATH"]) / "incl" / "__init__.py").exists()
    assert Path(env["INCL_HOSTFILE"]).read_text() == "127.0.0.1 slots=1\n"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "INCL_SWEEP", "INCL_TRIAL"} & set(env)
    assert not [name for name in env if name.startswith(("SLURM_", "OMPI_", "INCL_AGENT_"))]
    for path in (agent.settings.jobs_dir / job.job).rglob("*"):
        if path.is_file():
            assert b"hush" not in path.read_bytes(), path


async def test_a_trial_knows_its_sweep(agent: Agent, platform: FakePlatform) -> None:
    sweep = new_id()
    job = platform.job("sh", "-c", "echo $INCL_SWEEP $INCL_TRIAL", sweep=sweep, trial=0)
    await platform.want(job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    assert (await platform.lines(job))[0][2] == f"{sweep} 0"


async def test_the_submitters_own_tools_on_the_same_machine(
    agent: Agent, platform: FakePlatform, tmp_path: Path
) -> None:
    tool = tmp_path / "venv" / "bin" / "mytool"
    tool.parent.mkdir(parents=True)
    tool.write_text("#!/bin/sh\necho mine $VIRTUAL_ENV\n")
    tool.chmod(0o755)
    theirs = {"PATH": f"{tool.parent}:{os.environ['PATH']}", "VIRTUAL_ENV": str(tmp_path / "venv"), "EVIL": "1"}
    assert agent.node is not None
    job = platform.job("mytool", submitter=Submitter(machine=agent.node.machine, environment=theirs))
    other = platform.job("mytool", submitter=Submitter(machine="0" * 32, environment=theirs))
    await platform.want(job, other)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    assert (await platform.lines(job))[0][2] == f"mine {tmp_path / 'venv'}"
    assert (await platform.ended(other)).reason is EndReason.COMMAND


async def test_a_secret_that_is_missing(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("true", secrets=("NOPE",))
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.ERROR
    assert "NOPE" in end.message


async def test_many_jobs_at_once(agent: Agent, platform: FakePlatform) -> None:
    code = platform.code({"run.sh": "echo job $INCL_EXPERIMENT_ID"})
    jobs = [platform.job("sh", "run.sh", code=code) for _ in range(20)]
    await platform.want(*jobs)
    for job in jobs:
        assert (await platform.ended(job, timeout=40)).reason is EndReason.COMPLETED
        assert [text for _, _, text in await platform.lines(job)] == [f"job {job.experiment}"]
    assert sum("GET" in line for line in platform.store.requests) == 1


async def test_a_job_not_wanted_any_more_is_ended_and_cleared_away(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "echo up; sleep 60")
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    folder = agent.settings.jobs_dir / job.job
    await platform.unwant(job)
    await until(lambda: not folder.exists())
    assert agent.manager is not None
    await until(lambda: agent.manager.jobs == ())


async def test_an_older_wanted_state_and_a_missing_one_change_nothing(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "echo up; read line < go; echo done")
    job = job.model_copy(
        update={
            "spec": job.spec.model_copy(
                update={"command": ("sh", "-c", "mkfifo go; echo up; read line < go; echo $line")}
            )
        }
    )
    await platform.want(job)
    await until(lambda: _said(platform, job, "up"))
    platform._jobs.clear()
    await platform.write(generation=0)
    await platform.client.jetstream().purge_stream("CONTROL")
    probe = platform.job("true")
    platform.generation = 1
    await platform.want(probe, job)
    await platform.ended(probe)
    fifo = agent.settings.jobs_dir / job.job / "work" / "go"
    fifo.write_text("went on\n")
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    assert [text for _, _, text in await platform.lines(job)] == ["up", "went on"]


async def test_outputs_by_pattern_and_never_from_outside(agent: Agent, platform: FakePlatform, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    script = (
        "mkdir -p runs/a; echo 1 > runs/a/m.json; echo 2 > other.txt; chmod 750 runs/a/m.json\n"
        'cd "$INCL_OUTPUT_DIR"\n'
        f"ln -s '{tmp_path}/secret.txt' leak; ln -s '{tmp_path}' dir; echo 3 > real; ln -s real link; mkfifo pipe\n"
    )
    job = platform.job("sh", "run.sh", code=platform.code({"run.sh": script}), outputs=("runs/**/*.json", "x/*"))
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.COMPLETED
    assert sorted(
        (entry.path, entry.mode) for entry in platform.entries if entry.path != "real" and entry.path != "link"
    ) == [("runs/a/m.json", 0o750)]
    assert sorted(entry.path for entry in platform.entries) == ["link", "real", "runs/a/m.json"]
    assert b"secret" not in b"".join(platform.store.blobs.values())
    said = [text for _, stream, text in await platform.lines(job) if stream == 2]
    assert any("leak" in text for text in said)
    assert [text for text in said if "matched" in text] == ["outputs: nothing matched 'x/*'"]


async def test_a_store_that_stays_away_ends_in_infra(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "echo x > $INCL_OUTPUT_DIR/x")
    platform.store.failing = True
    await platform.want(job)
    end = await platform.ended(job, timeout=20)
    assert end.reason is EndReason.INFRA
    assert end.exit_code == 0
    assert "outputs could not be stored" in end.message


@pytest.mark.parametrize(
    "harm",
    [
        'rm -rf "$S"; echo x > "$S"',
        'rm -rf "$S"',
        'rm -rf "$S"; mkfifo "$S"',
        'touch "$S/w"$\'\\n\'.jsonl; ls "$S"',
        'mkdir "$S/w.jsonl"',
        'mkfifo "$S/w.jsonl"; ln -s /etc/passwd "$S/x.jsonl"',
        'truncate -s 4T "$S/w.jsonl"',
    ],
)
async def test_a_spool_that_the_job_spoils_does_not_keep_it_from_its_end(
    agent: Agent, platform: FakePlatform, harm: str
) -> None:
    job = platform.job("bash", "-c", f'set -e; S="$INCL_SPOOL_DIR"; {harm}')
    await platform.want(job)
    end = await platform.ended(job)
    assert (end.reason, end.exit_code) == (EndReason.COMPLETED, 0), end.message


async def test_records_that_make_no_sense_keep_no_file_from_being_stored(agent: Agent, platform: FakePlatform) -> None:
    script = (
        "import json, os\n"
        "spool = os.environ['INCL_SPOOL_DIR']\n"
        "open(spool + '/m', 'w').write('x')\n"
        "def say(**more):\n"
        "    record = {'k': 'c', 't': 1, 'file': spool + '/m'} | more\n"
        "    out.write(json.dumps(record, separators=(',', ':')) + '\\n')\n"
        "out = open(spool + '/w.jsonl', 'w')\n"
        "say(s=1, path='x\\0y\\ud800')\n"
        "say(s=10**30, path='big', metrics={'loss': 10**400})\n"
        "say(s=2, path='good', metrics={'loss': 1.0})\n"
    )
    job = platform.job("python3", "-c", script, goals={"loss": "min"}, keep_checkpoints="all")
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.COMPLETED, end.message
    listed = sorted((entry.path, entry.step, entry.score) for entry in platform.entries)
    assert listed == [("big", None, None), ("good", 2, -1.0), ("x\N{REPLACEMENT CHARACTER}y?", 1, None)]


async def test_a_job_whose_end_breaks_again_and_again_is_left(
    agent: Agent, platform: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_telemetry: object, _words: list[str]) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr("incl_agent.manager._FIRST_RETRY_S", 0.01)
    monkeypatch.setattr("incl_agent.telemetry.ShippedTelemetry.finish", fail)
    job = platform.job("true")
    await platform.want(job)
    end = await platform.ended(job)
    assert end.reason is EndReason.INFRA
    assert "ZeroDivisionError" in end.message


async def test_images_and_tables_are_stored_with_thumbnails(agent: Agent, platform: FakePlatform) -> None:
    """A picture that is none is stored all the same, and said to have no thumbnail."""
    script = (
        "import incl\n"
        "from incl._media import png\n"
        "incl.log_image('val/x', png(600, 400, 3, bytes(720000)), step=7, caption='black')\n"
        "incl.log_table('scores', [{'n': n, 'word': 'cat'} for n in range(50)], step=7)\n"
        "incl.log_image('broken', b'\\xff\\xd8\\xff no photograph', step=8)\n"
        "incl.log_text('note', 'hello', step=9)\n"
    )
    job = platform.job("python3", "run.py", code=platform.code({"run.py": script}))
    await platform.want(job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    listed = {entry.path: entry for entry in platform.entries if entry.kind == "media"}
    assert set(listed) == {"val/x/7/val_x.png", "scores/7/scores.csv", "broken/8/broken.jpg", "note/9/note.txt"}
    media = {path: entry.medium for path, entry in listed.items()}
    said = {path: (one.type, one.key, one.caption) for path, one in media.items() if one is not None}
    assert said["val/x/7/val_x.png"] == ("image", "val/x", "black")
    assert said["scores/7/scores.csv"] == ("table", "scores", "")
    shown = {path: one.thumbnail for path, one in media.items() if one is not None}
    picture, table = shown["val/x/7/val_x.png"], shown["scores/7/scores.csv"]
    assert picture is not None
    assert (picture.format, picture.width, picture.height) == ("webp", 600, 400)
    assert table is not None
    assert (table.format, table.rows, table.columns) == ("json", 50, 2)
    assert shown["broken/8/broken.jpg"] is shown["note/9/note.txt"] is None

    async def said_so() -> bool:
        return any("without a thumbnail: 1" in text for _, _, text in await platform.lines(job))

    await until(said_so, timeout=20)
    assert not list((agent.settings.jobs_dir / job.job).glob(".thumbnail*"))


async def test_checkpoints_and_media_are_stored_while_it_runs(agent: Agent, platform: FakePlatform) -> None:
    script = (
        "import incl, os, time\n"
        "open('a.pt', 'w').write('weights')\n"
        "incl.log({'loss': 0.5}, step=1)\n"
        "incl.checkpoint('a.pt', step=1)\n"
        "os.makedirs('dir', exist_ok=True); open('dir/part', 'w').write('p')\n"
        "incl.log_text('notes', 'hello', step=1)\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "incl.checkpoint('dir', step=2, metrics={'loss': 0.25})\n"
    )
    job = platform.job("python3", "run.py", code=platform.code({"run.py": script}), keep_checkpoints="all",
        goals={"loss": "min"})  # fmt: skip
    await platform.want(job)
    await until(lambda: {"checkpoint", "media"} <= {entry.kind for entry in platform.entries})
    first = next(entry for entry in platform.entries if entry.kind == "checkpoint")
    assert (first.path, first.step) == ("1/a.pt", 1)
    (agent.settings.jobs_dir / job.job / "work" / "go").touch()
    end = await platform.ended(job)
    assert end.reason is EndReason.COMPLETED
    packed = [(entry.path, entry.score) for entry in platform.entries if entry.kind == "checkpoint"]
    assert packed == [("1/a.pt", -0.5), ("2/dir.incl-dir.tar.zst", -0.25)]
    assert sum(count.records for count in end.writers if count.writer not in ("log", "sys")) == 4
    again = next(entry for entry in platform.entries if entry.path.startswith("2/"))
    second = platform.job(
        "sh", "-c", "echo $INCL_LATEST_CHECKPOINT; cat \"$INCL_LATEST_CHECKPOINT/part\"", attempt=2,
        checkpoint={"sha256": again.sha256, "size": again.size, "path": again.path, "step": 2},
    )  # fmt: skip
    await platform.want(second)
    assert (await platform.ended(second)).reason is EndReason.COMPLETED
    lines = [text for _, _, text in await platform.lines(second)]
    assert lines[0].endswith("checkpoint/2/dir")
    assert lines[1] == "p"


async def test_samples_are_shipped(agent: Agent, platform: FakePlatform) -> None:
    job = platform.job("sh", "-c", "echo up; while [ ! -e go ]; do :; done")
    await platform.want(job)
    folder = agent.settings.jobs_dir / job.job
    await until(
        lambda: (folder / "spool" / "sys.jsonl").exists() and (folder / "spool" / "sys.jsonl").stat().st_size > 0
    )
    (folder / "work" / "go").touch()
    end = await platform.ended(job)
    assert any(count.writer == "sys" and count.records >= 1 for count in end.writers)
    assert "sys" in await platform.records(job)
    assert any(isinstance(body, JobUploading) for body in await platform.of(job))


async def _said(platform: FakePlatform, job: object, text: str) -> bool:
    return text in [line for _, _, line in await platform.lines(job)]  # type: ignore[arg-type]
