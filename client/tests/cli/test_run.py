"""incl run: what is submitted, what is refused, and that nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from incl_cli.testing import FakePlatform, Run
from incl_shared.archive.unpack import unpack
from incl_shared.errors import UnavailableError, UnsupportedError
from incl_shared.events import ExperimentSubmitted
from incl_shared.ids import new_id
from incl_shared.queries.provisioner import CheckFeasible, PlanExperiment, PlanView, ZonePlan
from incl_shared.queries.tracker import AlertView, AttemptView
from incl_shared.states import AttemptState, ExperimentState


def submitted(fake: FakePlatform) -> ExperimentSubmitted:
    (event, identifier) = fake.published[-1]
    assert isinstance(event, ExperimentSubmitted)
    assert identifier == event.experiment
    return event


def ends(fake: FakePlatform, state: ExperimentState = ExperimentState.FINISHED, *lines: str) -> None:
    async def script(event: ExperimentSubmitted) -> None:
        await asyncio.sleep(0)
        fake.change(event.experiment, state=ExperimentState.RUNNING, attempts=1, started=100.0)
        fake.say(event.experiment, *(lines or ("hello",)))
        fake.change(event.experiment, state=state, ended=103.5, settled=True, points=7, message="exit code 4")

    fake.on_submit = script


def test_a_command_is_submitted_with_its_folder_and_followed(cli: Run, fake: FakePlatform, tmp_path: Path) -> None:
    ends(fake)
    Path("train.py").write_text("print(1)")
    Path("sub").mkdir()
    Path("sub/data.txt").write_text("x" * 1000)
    result = cli("run", "--nodes", "2", "-e", "LR=0.1", "--metric", "acc:max", "--", "python", "train.py", "--json")
    assert result.code == 0
    assert result.out == "[0] hello\n"
    event = submitted(fake)
    assert event.spec.command == ["python", "train.py", "--json"]
    assert (event.spec.nodes, event.spec.env) == (2, {"LR": "0.1"})
    assert event.spec.metrics["acc"].value == "max"
    assert event.code is not None
    assert event.code.files == 2
    assert "incl" in event.provenance.command_line or "run --nodes 2" in event.provenance.command_line
    assert event.submitter.environment["PATH"] == os.environ["PATH"]
    assert event.times is not None
    assert event.times.started <= event.times.packed <= event.times.uploaded
    archive = tmp_path / "code.tar.zst"
    archive.write_bytes(fake.blobs[event.code.sha256])
    unpack(archive, tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "sub" / "data.txt").read_text() == "x" * 1000
    kinds = {entry.path: entry.kind for entry in fake.entries[event.experiment]}
    assert kinds["code.tar.zst"] == "code"
    assert kinds.get("packages.txt", "provenance") == "provenance"


def test_the_end_is_told_with_counts_and_the_next_commands(cli: Run, fake: FakePlatform) -> None:
    ends(fake)
    result = cli("run", "--name", "mine", "--", "true")
    assert "packed 0 files" in result.err
    assert "finished mine in 3.5s" in result.err
    assert "7 points, 0 gaps" in result.err
    assert f"incl show {submitted(fake).experiment[-8:]}" in result.err
    assert submitted(fake).experiment in result.err


def test_a_failed_experiment_is_exit_code_3_with_the_reason(cli: Run, fake: FakePlatform) -> None:
    ends(fake, ExperimentState.FAILED)
    result = cli("run", "--", "false")
    assert result.code == 3
    assert "failed" in result.err
    assert "exit code 4" in result.err


def test_json_is_one_object_at_the_end(cli: Run, fake: FakePlatform) -> None:
    ends(fake)
    result = cli("run", "--json", "--", "true")
    assert result.json["state"] == "finished"
    assert result.json["id"] == submitted(fake).experiment
    assert (result.json["points"], result.json["gaps"], result.json["duration_s"]) == (7, 0, 3.5)


def test_json_with_follow_is_a_line_for_each_thing(cli: Run, fake: FakePlatform) -> None:
    ends(fake, ExperimentState.FINISHED, "one", "two")
    result = cli("run", "--json", "--follow", "--", "true")
    events = [json.loads(line) for line in result.out.splitlines()]
    assert [event["text"] for event in events if event["event"] == "log"] == ["one", "two"]
    assert events[-1]["event"] == "end"
    assert events[-1]["state"] == "finished"


def test_alerts_are_told_once_while_it_is_followed(cli: Run, fake: FakePlatform) -> None:
    alert = AlertView(attempt=1, rank=0, time=1.0, title="diverged", level="error")

    async def script(event: ExperimentSubmitted) -> None:
        fake.change(event.experiment, state=ExperimentState.RUNNING, attempts=1, alerts=(alert,))
        await asyncio.sleep(0)
        fake.change(event.experiment, state=ExperimentState.FINISHED, settled=True)

    fake.on_submit = script
    result = cli("run", "--", "true")
    assert result.err.count("! error: diverged") == 1
    assert "1 alert" in result.err
    lines = [json.loads(line) for line in cli("run", "--json", "--follow", "--", "true").out.splitlines()]
    assert [line["title"] for line in lines if line["event"] == "alert"] == ["diverged"]
    assert lines[-1]["alerts"][0]["level"] == "error"


def test_detached_prints_the_id_alone(cli: Run, fake: FakePlatform) -> None:
    result = cli("run", "--detach", "--", "true")
    assert result.code == 0
    assert result.out == submitted(fake).experiment + "\n"


def test_a_dry_run_submits_nothing(cli: Run, fake: FakePlatform) -> None:
    Path("train.yaml").write_text("command: python train.py\nresources: {cpu: 0.5, memory: 512MiB}\n")
    result = cli("run", "--dry-run", "train.yaml", "--env", "A=1", "--max-duration", "60s")
    assert result.code == 0
    assert yaml.safe_load(result.out) == {
        "command": ["sh", "-c", "python train.py"],
        "resources": {"cpu": 0.5, "memory": "512MiB"},
        "max_duration": "1m",
        "env": {"A": "1"},
    }
    assert (fake.published, fake.uploads) == ([], [])


PLAN = PlanView(
    cloud="gce", summary="2 x a2-highgpu-1g spot in us-central1-a: $2.60 an hour, 65% less than on demand", nodes=2,
    machine="a2-highgpu-1g", cores=12, memory=85 << 30, gpu="nvidia-tesla-a100", gpus=1, spot=True,
    spot_why="spot is allowed", price_on_demand=7.36, price_spot=2.6, saving=0.647, currency="USD",
    price_date="2025-03-06",
    zones=(
        ZonePlan(zone="us-central1-a", machine="a2-highgpu-1g", price=2.6, score=3.0, why="+$0.39 for the wait"),
        ZonePlan(zone="us-central1-b", machine="a2-highgpu-1g", price=None, score=3.0, why="", wait_s=240.0,
                 wait_reason="the zone has no such machine free now"),
    ),
    zones_in_all=5, image="lab/gpu", disks=("pd-balanced 50 GiB",), network="default", max_run_duration_s=9030,
    notes=("the list of prices is of 2025-03-06",),
)  # fmt: skip


def test_a_dry_run_in_a_cloud_shows_zones_prices_and_what_spot_saves(cli: Run, fake: FakePlatform) -> None:
    fake.plan = PLAN
    result = cli("run", "--dry-run", "--instance", "a100", "--spot", "--nodes", "2", "--", "true")
    assert result.code == 0
    assert yaml.safe_load(result.out)["instance"] == "a100"
    lines = [line.split() for line in result.err.splitlines()]
    assert PLAN.summary.split() in lines
    assert ["us-central1-a", "a2-highgpu-1g", "$2.60", "+$0.39", "for", "the", "wait"] in lines
    waits = "us-central1-b a2-highgpu-1g ? not for 4m00s: the zone has no such machine free now"
    assert waits in " ".join(result.err.split())
    assert "and 3 more places" in result.err
    assert "each node: 12 cores, 85 GiB, 1 x nvidia-tesla-a100; pd-balanced 50 GiB; lab/gpu" in result.err
    assert "on demand $7.36, spot $2.60 (list of 2025-03-06" in result.err
    assert "deleted by the provider after 2h30m at the latest" in result.err
    assert "the list of prices is of 2025-03-06" in result.err
    assert fake.published == []
    shown = cli("run", "--dry-run", "--json", "--instance", "a100", "--", "true").json
    assert shown["plan"]["zones"][0]["zone"] == "us-central1-a"
    assert shown["plan"]["saving"] == 0.647


def test_a_dry_run_without_a_cloud_has_no_plan_and_one_that_is_refused_says_why(cli: Run, fake: FakePlatform) -> None:
    assert cli("run", "--dry-run", "--json", "--", "true").json["plan"] is None
    assert PlanExperiment not in {type(query) for query in fake.asked}
    fake.refusals[PlanExperiment] = UnsupportedError("there is no instance 'a10'", hint="did you mean a100?")
    result = cli("run", "--dry-run", "--instance", "a10", "--", "true")
    assert result.code == 2
    assert "did you mean a100?" in result.err


def test_what_cannot_be_honoured_is_refused_before_anything_is_sent(cli: Run, fake: FakePlatform) -> None:
    fake.refusals[CheckFeasible] = UnsupportedError("3 GPUs were asked for, no machine has one", hint="leave gpu out")
    result = cli("run", "--gpu", "3", "--", "true")
    assert result.code == 2
    assert "no machine has one" in result.err
    assert (fake.published, fake.uploads) == ([], [])


def test_secrets_that_do_not_exist_are_refused(cli: Run, fake: FakePlatform) -> None:
    fake.secrets["HF_TOKEN"] = "x"
    result = cli("run", "--secret", "HF_TOKNE", "--", "true")
    assert result.code == 4
    assert "there is no secret HF_TOKNE" in result.err
    assert "did you mean 'HF_TOKEN'?" in result.err
    assert fake.published == []
    assert cli("run", "-d", "--secret", "HF_TOKEN", "--", "true").code == 0


def test_a_lost_connection_tells_how_to_see_whether_it_arrived(cli: Run, fake: FakePlatform) -> None:
    fake.publish_error = UnavailableError("the message is not confirmed after 10 s")
    result = cli("run", "--", "true")
    assert result.code == 7
    identifier = next(line.split()[1] for line in result.err.splitlines() if line.startswith("submitting "))
    assert f"incl show {identifier[-8:]}" in result.err
    assert f"--id {identifier}" in result.err


def test_two_submits_with_one_id_are_one_experiment(cli: Run, fake: FakePlatform) -> None:
    identifier = new_id()
    for _ in range(2):
        assert cli("run", "-d", "--id", identifier, "--", "true").out == identifier + "\n"
    assert len(fake.published) == 1
    fake.change(identifier, state=ExperimentState.FINISHED, settled=True)
    result = cli("run", "--id", identifier, "--", "true")
    assert result.code == 0
    assert f"{identifier} is already submitted; following it" in result.err
    assert len(fake.published) == 1


def test_the_id_of_another_experiment_is_refused(cli: Run, fake: FakePlatform) -> None:
    identifier = new_id()
    cli("run", "-d", "--id", identifier, "--", "true")
    result = cli("run", "--id", identifier, "--nodes", "2", "--json", "--", "false")
    assert (result.code, result.out) == (5, "")
    assert identifier in result.error["message"]
    assert result.error["cause"] == "its command, nodes differ"
    assert "leave out --id" in result.error["hint"]
    assert f"incl show {identifier[-8:]}" in result.error["hint"]
    fake.add(outside := new_id())
    fake.views[outside] = fake.views[outside].model_copy(update={"spec": None})
    assert "outside the platform" in cli("run", "-d", "--id", outside, "--", "true").err
    assert len(fake.published) == 1


def test_an_id_that_is_none_is_refused(cli: Run) -> None:
    assert "is not an id" in cli("run", "--id", "mine", "--", "true").err


def test_code_that_is_there_is_not_sent_again(cli: Run, fake: FakePlatform) -> None:
    Path("a.py").write_text("1")
    cli("run", "-d", "--", "true")
    before = list(fake.uploads)
    result = cli("run", "-d", "--", "true")
    assert fake.uploads == before
    assert "code unchanged" in result.err


def test_a_file_with_options_over_it(cli: Run, fake: FakePlatform) -> None:
    Path("configs").mkdir()
    Path("configs/code").mkdir()
    Path("configs/code/train.py").write_text("1")
    Path("configs/train.yaml").write_text(
        "name: base\ncommand: python train.py\nworkdir: code\nimage: python:3.11\ntags: [a]\nenv: {LR: 1e-3, B: x}\n"
        "metrics: {acc: max}\ndata: [{source: ../shared, target: s}]\nretry: {attempts: 5, on: [error]}\n"
    )
    options = ["--env", "LR=0.5", "--tag", "b", "--no-image", "--cpu", "0.5", "--memory", "2GB", "--retries", "0"]
    options += ["--set", "checkpoint.keep=best", "--set", "env.C=1.10", "--priority", "-3", "--max-duration", "2h"]
    result = cli("run", "-d", "configs/train.yaml", *options)
    assert result.code == 0, result.err
    spec = submitted(fake).spec
    assert spec.env == {"LR": "0.5", "B": "x", "C": "1.10"}
    assert (spec.name, spec.image, spec.tags) == ("base", None, ("a", "b"))
    assert (spec.resources.cpu, spec.resources.memory, spec.retry.attempts) == (0.5, 2_000_000_000, 1)
    assert [reason.value for reason in spec.retry.on] == ["error"]
    assert (spec.checkpoint.keep.value, spec.priority, spec.max_duration) == ("best", -3, 7200)
    assert spec.data[0].source == str(Path("shared").resolve())
    assert submitted(fake).code.files == 1


def test_data_on_the_command_line(cli: Run, fake: FakePlatform) -> None:
    Path("a.py").write_text("1")
    words = ["--data", "snapshot=ct-v3,mount=/data", "--data", "bucket=gs://abc/x", "--instance", "n2-standard-4"]
    assert cli("run", "-d", *words, "--", "true").code == 0
    found = submitted(fake).spec.data
    assert [(each.kind, each.text, each.mount) for each in found] == [
        ("snapshot", "ct-v3", "/data"), ("bucket", "gs://abc/x", None),
    ]  # fmt: skip
    for wrong, says in (("snapshot=", "no KEY=VALUE"), ("snapshot=A_b", "data.0.snapshot"), ("nfs=x", "host:/export")):
        refused = cli("run", "-d", "--data", wrong, "--", "true")
        assert refused.code == 2
        assert says in refused.err


def test_workdir_is_relative_to_where_it_was_typed(cli: Run, fake: FakePlatform) -> None:
    Path("code").mkdir()
    Path("code/a.py").write_text("1")
    Path("b.py").write_text("1")
    cli("run", "-d", "--workdir", "code", "--", "true")
    assert submitted(fake).code.files == 1


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--env", "1A=b"], "is not a name"),
        (["--env", "NO_SUCH_VARIABLE_HERE"], "there is no such variable here"),
        (["--metric", "acc"], "has no goal"),
        (["--metric", "acc:up"], "--metric acc: metrics.acc: expected one of 'max' or 'min', found 'up'"),
        (["--nodes", "two"], "--nodes: nodes: expected a whole number, found 'two'"),
        (["--cpu", "-1"], "--cpu"),
        (["--memory", "lots"], "'lots' is not a size"),
        (["--retries", "some"], "--retries needs a whole number"),
        (["--set", "resorces.cpu=1"], "unknown key 'resorces'"),
        (["--set", "cpu"], "is not KEY=VALUE"),
        (["--name", "n" * 10_000], "is too long: 10000 characters"),
        (["--image", "a", "--no-image"], "exclude each other"),
        (["--workdir", "nowhere"], "is not a directory"),
        (["--project", "a.b"], "not allowed"),
        (["--env", "INCL_RANK=1"], "set by the platform"),
    ],
)
def test_wrong_options_are_told_by_name_and_nothing_is_submitted(
    cli: Run, fake: FakePlatform, words: list[str], error: str
) -> None:
    result = cli("run", *words, "--", "true")
    assert result.code == 2
    assert error in result.err
    assert len(result.err) < 1000
    assert "Traceback" not in result.err
    assert fake.published == []


def test_a_wrong_file_is_told_with_its_line(cli: Run, fake: FakePlatform) -> None:
    Path("train.yaml").write_text("name: x\ncommand: true\nresorces:\n  cpu: 1\n")
    result = cli("run", "train.yaml")
    assert result.code == 2
    assert "train.yaml:3: unknown key 'resorces'" in result.err
    assert "did you mean 'resources'?" in result.err


def test_a_file_that_is_not_there(cli: Run) -> None:
    result = cli("run", "none.yaml")
    assert result.code == 4
    assert "there is no file" in result.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_folder_that_cannot_be_read(cli: Run, fake: FakePlatform) -> None:
    Path("closed").mkdir(mode=0)
    result = cli("run", "--", "true")
    Path("closed").chmod(0o700)
    assert result.code == 2
    assert "closed" in result.err
    assert fake.published == []


def test_git_is_captured_with_what_is_not_committed(cli: Run, fake: FakePlatform, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "trunk")
    Path("a.py").write_text("one\n")
    git("add", "a.py")
    git("commit", "-q", "-m", "first")
    git("remote", "add", "origin", "https://me:secret@example.org/x.git")
    Path("a.py").write_text("two\n")
    cli("run", "-d", "--", "true")
    origin = submitted(fake).provenance
    assert origin.git_commit == git("rev-parse", "HEAD")
    assert (origin.git_branch, origin.git_dirty) == ("trunk", True)
    assert origin.git_remote == "https://example.org/x.git"
    assert origin.diff_sha256 is not None
    assert b"+two" in fake.blobs[origin.diff_sha256]


def test_detaching_tells_how_to_come_back(cli: Run, fake: FakePlatform) -> None:
    async def script(event: ExperimentSubmitted) -> None:
        fake.change(event.experiment, state=ExperimentState.RUNNING)
        os.kill(os.getpid(), signal.SIGINT)

    fake.on_submit = script
    result = cli("run", "--", "true")
    assert result.code == 130
    assert f"incl logs -f {submitted(fake).experiment[-8:]}" in result.err
    assert not any(event for event, _ in fake.published if not isinstance(event, ExperimentSubmitted))


def test_rerun_takes_the_same_code_and_changes_what_is_asked(cli: Run, fake: FakePlatform) -> None:
    Path("a.py").write_text("1")
    cli("run", "-d", "--name", "base", "-e", "A=1", "--", "python", "a.py")
    first = submitted(fake)
    Path("a.py").write_text("changed since")
    uploads = list(fake.uploads)
    result = cli("rerun", "base", "-e", "B=2", "-d")
    assert result.code == 0, result.err
    again = submitted(fake)
    assert again.experiment != first.experiment
    assert again.code == first.code
    assert again.spec.env == {"A": "1", "B": "2"}
    assert again.provenance.rerun_of == first.experiment
    assert fake.uploads == uploads
    assert {entry.path for entry in fake.entries[again.experiment]} >= {"code.tar.zst"}


def test_rerun_when_the_code_is_gone(cli: Run, fake: FakePlatform) -> None:
    cli("run", "-d", "--name", "base", "--", "true")
    fake.blobs.clear()
    result = cli("rerun", "base", "-d")
    assert result.code == 4
    assert "not in the artifact store any more" in result.err
    assert len(fake.published) == 1


def test_stop_asks_and_waits(cli: Run, fake: FakePlatform) -> None:
    view = fake.add(state=ExperimentState.RUNNING)
    result = cli("stop", view.row.id[-6:], "--wait", "--reason", "enough", "--json")
    assert result.code == 0
    assert result.json == [{"id": view.row.id, "state": "stopped"}]
    event, _ = fake.published[0]
    assert event.reason == "enough"


def test_stop_of_a_finished_one_is_a_conflict_after_the_others_were_stopped(cli: Run, fake: FakePlatform) -> None:
    over = fake.add(state=ExperimentState.FINISHED)
    going = fake.add(state=ExperimentState.RUNNING)
    result = cli("stop", over.row.id, going.row.id)
    assert result.code == 5
    assert "is finished already; there is nothing to stop" in result.err
    assert [event.experiment for event, _ in fake.published] == [going.row.id]


def test_a_run_outside_the_platform_cannot_be_stopped_from_here(cli: Run, fake: FakePlatform) -> None:
    """Nobody would ever answer, and --wait would wait for ever."""
    outside = fake.add(state=ExperimentState.RUNNING)
    fake.change(outside.row.id, outside=True)
    going = fake.add(state=ExperimentState.RUNNING)
    result = cli("stop", outside.row.id, going.row.id, "--wait")
    assert result.code == 5
    assert "runs outside the platform, which cannot stop it" in result.err
    assert [event.experiment for event, _ in fake.published] == [going.row.id]


def test_an_attempt_that_is_not_stored_yet_is_waited_for(cli: Run, fake: FakePlatform) -> None:
    async def script(event: ExperimentSubmitted) -> None:
        attempt = AttemptView(attempt=1, state=AttemptState.ENDED, assigned=1.0)
        fake.change(event.experiment, state=ExperimentState.FINISHED, attempts=1)
        fake.views[event.experiment] = fake.views[event.experiment].model_copy(update={"attempts": (attempt,)})
        await asyncio.sleep(0.2)
        fake.say(event.experiment, "the last words", quiet=True)
        fake.change(event.experiment, settled=True, points=3)

    fake.on_submit = script
    result = cli("run", "--", "true")
    assert result.out == "the last words\n"
    assert "3 points, 0 gaps" in result.err
