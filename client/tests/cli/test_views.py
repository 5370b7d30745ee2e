"""The commands that look: what they say, to people and to programs."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from incl_cli.testing import FakePlatform, Run
from incl_shared.archive.pack import pack
from incl_shared.events import CodeRef, Placement, Provenance, RankEnd
from incl_shared.events.experiments import RankTimes
from incl_shared.queries.provisioner import Cluster, NodeView, QueuedView
from incl_shared.queries.tracker import (
    AlertView,
    AttemptView,
    ExperimentView,
    ListExperiments,
    MetricSummary,
    Stage,
)
from incl_shared.spec import ExperimentSpec
from incl_shared.states import AttemptState, EndReason, ExperimentState


def metric(name: str, last: float, **fields: Any) -> MetricSummary:
    known = {"last_step": 10, "minimum": last, "maximum": last, "points": 11}
    return MetricSummary(**{"name": name, "last": last, **known, **fields})


def stage(name: str, start: float, end: float | None, note: str = "") -> Stage:
    return Stage.model_validate({"name": name, "attempt": 1, "start": start, "end": end, "note": note})


@pytest.fixture
def digits(fake: FakePlatform) -> ExperimentView:
    end = RankEnd(rank=0, node="local", reason=EndReason.ERROR, exit_code=4, message="boom", times=RankTimes(rank=0))
    failed = AttemptView(
        attempt=1, state=AttemptState.ENDED, reason=EndReason.ERROR, message="exit code 4", assigned=1.0, started=2.0,
        ended=9.0, ranks=(end,), placements=(Placement(rank=0, node="local", address="127.0.0.1"),),
    )  # fmt: skip
    return fake.add(
        spec=ExperimentSpec.model_validate(
            {"command": ["python", "train.py"], "name": "digits", "env": {"LR": "0.1"}, "tags": ["a"]}
        ),
        state=ExperimentState.FAILED,
        reason=EndReason.ERROR,
        started=2.0,
        ended=65.0,
        attempts=1,
        message="exit code 4",
        hint="incl logs digits",
        code=CodeRef(sha256="a" * 64, size=1000, files=3),
        provenance=Provenance(git_commit="c" * 40, git_branch="main", git_dirty=True, python="3.11.7"),
        stages=(stage("packing", 0.0, 0.5), stage("queued", 0.5, 1.5, "2 cores free"), stage("running", 2.0, 65.0)),
        metrics=(metric("val_acc", 0.5, best=0.9, best_step=3, goal="max"), metric("system/cpu", 3.0)),
        points=22,
        gaps=1,
        settled=True,
    ).model_copy(update={"attempts": (failed,)})


@pytest.fixture(autouse=True)
def kept(fake: FakePlatform, digits: ExperimentView) -> None:
    fake.views[digits.row.id] = digits


def test_show_tells_all_of_it(cli: Run, digits: ExperimentView) -> None:
    text = cli("show", "digits").out
    for said in (
        digits.row.id, "failed", "exit code 4", "hint: incl logs digits", "python train.py", "cccccccccccc on main",
        "changes that are not committed", "queued", "2 cores free", "1m03s", "val_acc", "0.9", "LR", "0.1",
        "rank 0 on local: exit code 4", "22 points, 1 gap", "system/cpu",
    ):  # fmt: skip
        assert said in text, said


def test_show_draws_stages_as_bars_on_one_axis(cli: Run) -> None:
    drawn = [line for line in cli("show", "digits").out.splitlines() if re.search("[▏▎▍▌▋▊▉█]", line)]
    lines = {line.split()[0]: line for line in drawn}
    assert set(lines) == {"packing", "queued", "running"}
    assert lines["running"].count("█") > 40
    assert lines["packing"].count("█") <= 1
    assert lines["running"].index("█") > lines["packing"].index(re.findall("[▏▎▍▌▋▊▉█]", lines["packing"])[0])


def test_show_as_json_is_the_whole_view(cli: Run, digits: ExperimentView) -> None:
    assert ExperimentView.model_validate(cli("show", "--json", "digits").json) == digits


def test_show_tells_alerts(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    alerts = tuple(
        AlertView(attempt=1, rank=rank, time=3.0, title="lo\x1b]0;x\x07ss", text="NaN", level="warn") for rank in (0, 1)
    )
    fake.change(digits.row.id, alerts=alerts)
    text = cli("show", "digits").out
    assert "Alerts" in text
    assert "warn: loss (rank 1) — NaN" in text
    assert "2 alerts" in text
    assert [alert["rank"] for alert in cli("show", "digits", "--json").json["alerts"]] == [0, 1]


def test_show_spec_can_be_run_again(cli: Run, fake: FakePlatform) -> None:
    Path("again.yaml").write_text(cli("show", "digits", "--spec").out)
    assert cli("run", "-d", "again.yaml").code == 0
    assert fake.published[-1][0].spec.command == ["python", "train.py"]  # type: ignore[attr-defined]


def test_what_is_not_there_is_told(cli: Run) -> None:
    result = cli("show", "nope1234", "--json")
    assert (result.code, result.out) == (4, "")
    assert result.error["code"] == "not_found"
    assert "incl ls" in result.error["hint"]


def test_a_short_name_for_two_things_is_told(cli: Run, fake: FakePlatform) -> None:
    fake.add(spec=ExperimentSpec(command=["x"], name="digits"))
    assert cli("show", "digits").code == 2


def test_ls_lists_newest_first_with_declared_metrics(cli: Run, fake: FakePlatform) -> None:
    row = fake.change(fake.add(spec=ExperimentSpec(command=["x"], name="second")).row.id, state=ExperimentState.RUNNING)
    fake.views[row.row.id] = row.model_copy(update={"row": row.row.model_copy(update={"metrics": {"loss": 0.25}})})
    heading, second, first = cli("ls").out.splitlines()
    assert heading.split()[:3] == ["id", "name", "state"]
    assert second.split()[:3] == [row.row.id[-8:], "second", "running"]
    assert "0.25" in second
    assert "digits" in first
    assert cli("ls", "-q").out.split()[0] == row.row.id


def test_ls_passes_filter_and_sort_and_walks_pages(cli: Run, fake: FakePlatform) -> None:
    for index in range(30):
        fake.add(spec=ExperimentSpec(command=["x"], name=f"n{index}"))
    fake.page = 4
    result = cli("ls", "val_acc > 0.9 and status = finished", "--sort", "-val_acc", "--limit", "10", "--json")
    assert len(result.json) == 10
    query = next(query for query in fake.asked if isinstance(query, ListExperiments))
    assert (query.filter, query.sort) == ("val_acc > 0.9 and status = finished", "-val_acc")
    assert "there are more" in cli("ls", "--limit", "10").err


def test_a_wrong_filter_is_told_here_with_a_caret(cli: Run, fake: FakePlatform) -> None:
    result = cli("ls", "val_acc >> 1")
    assert result.code == 2
    assert "^" in result.err
    lonely = cli("ls", "digits")
    assert lonely.code == 2
    assert 'name ~ "digits"' in lonely.err
    assert fake.asked == []
    assert cli("ls", 'name ~ "digits"').code == 0


def test_ls_fits_a_narrow_terminal(cli: Run, fake: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    fake.add(spec=ExperimentSpec(command=["x"], name="n" * 120, tags=("t" * 50,)))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", cli("ls", terminal=True).out)
    assert max(len(line) for line in plain.splitlines()) <= 60
    assert "n…" in plain
    assert "n" * 120 in cli("ls").out


def test_nothing_to_list_says_what_to_do(cli: Run, fake: FakePlatform) -> None:
    fake.views.clear()
    result = cli("ls")
    assert (result.code, result.out) == (0, "")
    assert "incl run" in result.err
    assert cli("ls", "--json").json == []
    assert "the trash is empty" in cli("ls", "--trash").err


def test_ls_of_the_trash(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    other = fake.add(spec=ExperimentSpec(command=["x"], name="other"))
    fake.views[other.row.id] = other.model_copy(update={"trashed": 1.0})
    assert cli("ls", "-q").out.split() == [digits.row.id]
    assert cli("ls", "--trash", "-q").out.split() == [other.row.id]


def test_show_says_what_lies_in_the_trash_or_the_archive(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    assert "incl restore" not in cli("show", "digits").out
    fake.views[digits.row.id] = digits.model_copy(update={"trashed": 1.0, "archived": 2.0})
    text = cli("show", "digits").out
    assert re.search(r"trash +since 1970.*incl restore", text)
    assert re.search(r"archive +since 1970.*points and lines", text)


def test_no_lines_are_told(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.views[digits.row.id] = digits.model_copy(update={"lines": 3})
    fake.say(digits.row.id, "a", "b", "c")
    result = cli("logs", "digits", "--rank", "5")
    assert (result.code, result.out) == (0, "")
    assert "no such lines; 3 lines in all" in result.err
    assert cli("logs", "digits", "--rank", "5", "--json").err == ""
    fake.views[digits.row.id] = digits.model_copy(update={"lines": 0, "outside": True})
    assert "a run outside the platform" in cli("logs", "digits", "--rank", "5").err


def test_logs_of_any_length_and_their_tail(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.page = 7
    texts = [f"line {index}" for index in range(40)]
    fake.say(digits.row.id, *texts)
    assert cli("logs", "digits").out.splitlines() == texts
    assert cli("logs", "digits", "--tail", "2").out.splitlines() == texts[-2:]
    assert cli("logs", "digits", "--search", "LINE 3").out.splitlines() == [t for t in texts if "line 3" in t]
    assert [json.loads(line)["text"] for line in cli("logs", "digits", "--json").out.splitlines()] == texts


def test_logs_by_stream_and_time(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    now = time.time()
    fake.say(digits.row.id, "a", "b", "c", "d")
    fake.say(digits.row.id, "e", stream="err")
    times = (now - 7200, now - 600, now - 120, now - 30, now)
    known = fake.lines[digits.row.id]
    known[:] = [line.model_copy(update={"time": when}) for line, when in zip(known, times, strict=True)]

    def said(*options: str) -> str:
        return "".join(cli("logs", "digits", *options).out.split())

    assert said("--since", "1h") == "bcde"
    assert said("--since", "1h", "--until", "1m") == "bc"
    assert said("--until", time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now - 300))) == "ab"
    assert said("--since", datetime.fromtimestamp(now - 300, UTC).isoformat()) == "cde"
    assert said("--stream", "err") == "e"
    assert said("--grep", "B") == "b"
    assert said("-f", "--since", "1h", "--stream", "out") == "bcd"
    assert cli("logs", "digits", "--since", "yesterweek").code == 2
    assert cli("logs", "digits", "-f", "--until", "1m").code == 2


def test_logs_follow_ends_with_the_experiment(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.say(digits.row.id, "a", "b", "c")
    result = cli("logs", "-f", "digits", "--tail", "1")
    assert result.out == "c\n"
    assert result.code == 3


def test_logs_wrong_numbers(cli: Run) -> None:
    assert cli("logs", "digits", "--tail", "-1").code == 2
    assert cli("logs", "digits", "--rank", "x").code == 2


def test_compare_shows_what_differs_and_all_metrics(cli: Run, fake: FakePlatform) -> None:
    fake.add(
        spec=ExperimentSpec.model_validate({"command": ["python", "train.py"], "name": "other", "env": {"LR": "0.5"}}),
        state=ExperimentState.FINISHED,
        metrics=(metric("val_acc", 0.7),),
    )
    found = cli("compare", "digits", "other", "--json").json
    assert found["env"] == {"LR": ["0.1", "0.5"]}
    assert found["metrics"] == {"val_acc": [0.5, 0.7]}
    assert found["result"]["state"] == ["failed", "finished"]
    assert "command" not in found["spec"]
    assert cli("compare", "digits", "other", "--all", "--json").json["spec"]["command"][0] == ["python", "train.py"]
    text = cli("compare", "digits", "other").out
    assert re.search(r"LR +0.1 +0.5", text)


def test_compare_writes_sizes_and_times_as_people_do(cli: Run, fake: FakePlatform) -> None:
    for name, memory in (("small", "512MiB"), ("large", "4GiB")):
        values = {"command": ["x"], "name": name, "resources": {"memory": memory}, "max_duration": memory[0] + "h"}
        fake.add(spec=ExperimentSpec.model_validate(values))
    text = cli("compare", "small", "large").out
    assert re.search(r"resources.memory +512MiB +4GiB", text)
    assert re.search(r"max_duration +5h +4h", text)
    assert cli("compare", "small", "large", "--json").json["spec"]["resources.memory"] == [512 << 20, 4 << 30]


def test_compare_needs_two(cli: Run) -> None:
    assert cli("compare", "digits").code == 2
    assert "the same experiment" in cli("compare", "digits", "digits").err


def test_download_puts_files_below_a_folder_and_fetches_once(
    cli: Run, fake: FakePlatform, digits: ExperimentView
) -> None:
    fake.page = 2
    fake.keep(digits.row.id, "model.bin", b"old", attempt=1)
    fake.keep(digits.row.id, "model.bin", b"new", attempt=2)
    fake.keep(digits.row.id, "plots/a.png", b"png", mode=0o755)
    fake.keep(digits.row.id, "code.tar.zst", b"code", kind="code", attempt=0)
    result = cli("download", "digits", "-o", "out dir")
    assert result.code == 0
    assert Path("out dir/model.bin").read_bytes() == b"new"
    assert Path("out dir/plots/a.png").stat().st_mode & 0o111
    assert not Path("out dir/code.tar.zst").exists()
    assert [Path(line).name for line in result.out.splitlines()] == ["model.bin", "a.png"]
    assert "2 there already" in cli("download", "digits", "-o", "out dir").err
    Path("out dir/model.bin").write_bytes(b"mine")
    result = cli("download", "digits", "-o", "out dir")
    assert result.code == 5
    assert Path("out dir/model.bin").read_bytes() == b"mine"
    assert cli("download", "digits", "-o", "out dir", "--force").code == 0
    assert Path("out dir/model.bin").read_bytes() == b"new"


def test_download_chooses_by_path_folder_or_glob(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    for path in ("a/1.txt", "a/2.txt", "b.txt", "c.log"):
        fake.keep(digits.row.id, path, path.encode())
    names = [item["path"] for item in cli("download", "digits", "a/", "*.log", "-o", "x", "--json").json]
    assert names == ["a/1.txt", "a/2.txt", "c.log"]
    result = cli("download", "digits", "nope*")
    assert result.code == 4
    assert "b.txt" in result.err


@pytest.mark.parametrize("path", ["../up.txt", "/etc/x", "a/../../up.txt"])
def test_a_path_that_leads_out_is_refused(cli: Run, fake: FakePlatform, digits: ExperimentView, path: str) -> None:
    fake.keep(digits.row.id, path, b"x")
    result = cli("download", "digits", "-o", "out")
    assert result.code == 8
    assert not Path("up.txt").exists()


def test_a_link_that_leads_out_is_not_followed(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("out/link").symlink_to(Path("elsewhere").resolve())
    fake.keep(digits.row.id, "link/x.txt", b"x")
    assert cli("download", "digits", "-o", "out").code == 8
    assert list(Path("elsewhere").iterdir()) == []


def test_code_is_unpacked_beside_its_archive(
    cli: Run, fake: FakePlatform, digits: ExperimentView, tmp_path: Path
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "train.py").write_text("print(1)")
    packed = pack(tmp_path / "src", tmp_path / "code.tar.zst")
    fake.keep(digits.row.id, "code.tar.zst", packed.path.read_bytes(), kind="code", attempt=0)
    result = cli("download", "digits", "--kind", "code", "-o", "earlier")
    assert result.code == 0
    assert Path("earlier/code/train.py").read_text() == "print(1)"
    assert "1 file" in result.err
    Path("earlier/code/train.py").write_text("mine")
    assert "not unpacked again" in cli("download", "digits", "--kind", "code", "-o", "earlier").err
    assert Path("earlier/code/train.py").read_text() == "mine"


def test_a_folder_that_download_made_is_not_packed(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    fake.keep(digits.row.id, "z.bin", b"z")
    fake.keep(digits.row.id, "a/model.bin", b"model", kind="checkpoint")
    Path("mine").mkdir()
    result = cli("download", "digits", "-o", "results")
    assert [Path(line).name for line in result.out.splitlines()] == ["model.bin", "z.bin"]
    cli("download", "digits", "-o", "mine")
    assert not Path("mine/.incl-download").exists()
    result = cli("run", "-d", "--", "true")
    assert "left out results: incl download made it" in result.err
    code = fake.published[-1][0].code  # type: ignore[attr-defined]
    assert code.files == 2


def test_files_of_several_ranks_get_a_folder_each(cli: Run, fake: FakePlatform, digits: ExperimentView) -> None:
    for rank in (0, 1):
        fake.keep(digits.row.id, "log.txt", str(rank).encode(), rank=rank)
    cli("download", "digits", "-o", "out")
    assert Path("out/rank1/log.txt").read_text() == "1"


def test_secrets_come_from_stdin_and_are_never_shown(
    cli: Run, fake: FakePlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hunter2\n")))
    result = cli("secret", "set", "HF_TOKEN")
    assert fake.secrets == {"HF_TOKEN": "hunter2"}
    assert "hunter2" not in result.out + result.err
    assert cli("secret", "ls").out == "HF_TOKEN\n"
    assert cli("secret", "ls", "--json").json == ["HF_TOKEN"]
    assert cli("secret", "rm", "HF_TOKEN").code == 0
    assert cli("secret", "rm", "HF_TOKEN").code == 4
    assert cli("secret", "set", "NOT-A-NAME").code == 2


@pytest.mark.parametrize(("value", "words"), [(b"\n", "empty"), (b"x" * 70_000, "64 KiB"), (b"\xff\xfe", "UTF-8")])
def test_values_that_cannot_be_secrets(
    cli: Run, fake: FakePlatform, monkeypatch: pytest.MonkeyPatch, value: bytes, words: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(value)))
    result = cli("secret", "set", "KEY")
    assert result.code == 2
    assert words in result.err
    assert fake.secrets == {}


def test_a_token_is_shown_once_on_stdout(cli: Run) -> None:
    result = cli("token", "create", "--label", "laptop")
    assert result.out == "incl_abcd-the-rest\n"
    assert "incl_abcd-the-rest" not in cli("token", "ls").out
    assert "laptop" in cli("token", "ls").out
    assert cli("token", "revoke", "incl_abcd").code == 0
    assert cli("token", "revoke", "nope").code == 4
    assert cli("token", "create", "--ttl", "soon").code == 2


def test_the_queue_says_who_waits_and_why(cli: Run, fake: FakePlatform) -> None:
    node = NodeView(
        node="local", alive=False, address="127.0.0.1", cpu=2, cpu_used=1.5, memory=8_000_000_000, memory_used=0,
        gpus=0, gpus_used=0, runtimes=("host",), jobs=1, seen_s=75,
    )  # fmt: skip
    waits = QueuedView(experiment="0" * 26, name="next", user="ada", priority=2, waiting_s=61, reason="no cores free")
    fake.cluster = Cluster(nodes=(node,), queue=(waits,), queued=1, running=1)
    text = cli("queue").out
    for said in (
        "local",
        "silent for 1m15s",
        "1.5/2",
        "1 experiment running, 1 queued",
        "next",
        "1m01s",
        "no cores free",
    ):
        assert said in text
    assert cli("nodes", "--json").json["queued"] == 1


def test_show_says_no_exit_code_of_a_rank_whose_machine_went(
    cli: Run, fake: FakePlatform, digits: ExperimentView
) -> None:
    said = "machine m1 is gone, or was switched off"
    rank = RankEnd(rank=1, node="m1", reason=EndReason.LOST, message=said, times=RankTimes(rank=1))
    attempt = digits.attempts[0].model_copy(update={"ranks": (rank,)})
    fake.views[digits.row.id] = digits.model_copy(update={"attempts": (attempt,)})
    text = cli("show", "digits").out
    assert "rank 1 on m1: machine m1 is gone" in text
    assert "None" not in text


def test_colours_only_where_a_person_looks(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[" in cli("ls", terminal=True).out
    assert "\x1b[" not in cli("ls").out
    assert "\x1b[" not in cli("ls", "--no-color", terminal=True).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in cli("ls", terminal=True).out
