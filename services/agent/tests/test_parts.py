"""The parts that need no platform: journal, environment, cache, control, samples, endings."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from incl_agent import endings
from incl_agent.app import lock_folder
from incl_agent.blobs import BlobCache
from incl_agent.control import ControlWatcher
from incl_agent.environment import Paths, base_environment, build_environment, default_rendezvous, hostfile_text
from incl_agent.holding import hold
from incl_agent.journal import Journal
from incl_agent.runtimes.base import Exit
from incl_agent.sampling import append_record, measure
from incl_agent.sdk import place_sdk
from incl_agent.uploading import score_of
from incl_shared.control import JobSpec, JobWanted, NodeWanted, Rendezvous, Wanted
from incl_shared.errors import ConflictError
from incl_shared.ids import new_id
from incl_shared.reports import NodeHeartbeat, Report
from incl_shared.spec import Goal
from incl_shared.states import EndReason


def a_job(rank: int = 0, **spec: object) -> JobWanted:
    return JobWanted(
        experiment=new_id(), project="p", user="u", attempt=1, rank=rank, wanted=Wanted.RUN,
        spec=JobSpec.model_validate({"name": "n", "command": ("true",), **spec}),
    )  # fmt: skip


async def test_the_journal_numbers_without_holes_over_its_lives(tmp_path: Path) -> None:
    seqs, names = [], set()
    for life in range(3):
        journal = Journal(tmp_path / "journal.db", "n1")
        await journal.open()
        names.add(journal.name)
        await asyncio.gather(*(journal.append(f"job{life}:{k}", NodeHeartbeat()) for k in ("a", "b", "a")))
        entries = await journal.unsent()
        seqs += [entry.seq for entry in entries]
        assert [entry.message_id for entry in entries] == [f"n1:{journal.name}:{entry.seq}" for entry in entries]
        assert [Report.model_validate_json(entry.payload).seq for entry in entries] == [entry.seq for entry in entries]
        await journal.confirm([entry.seq for entry in entries])
        journal.forget(f"job{life}")
        journal.note("generation", str(life))
        await journal.close()
    assert seqs == [1, 2, 3, 4, 5, 6]
    assert len(names) == 1
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    assert await journal.get("generation") == "2"
    await journal.append("job0:a", NodeHeartbeat())
    assert [entry.seq for entry in await journal.unsent()] == [7]
    await journal.close()


async def test_what_was_not_confirmed_is_sent_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    await journal.append("j:a", NodeHeartbeat())
    before = await journal.unsent()
    await journal.close()
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    assert await journal.unsent() == before
    await journal.close()


async def test_what_was_said_of_the_jobs_at_hand_can_be_said_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    for key in ("node:hello", "old:ended", "new:started"):
        await journal.append(key, NodeHeartbeat())
    first = await journal.unsent()
    await journal.confirm([entry.seq for entry in first])
    journal.forget("old")
    await journal.append("new:ended", NodeHeartbeat())
    assert [entry.seq for entry in await journal.unsent()] == [4]
    await journal.say_again()
    again = await journal.unsent()
    assert [entry.seq for entry in again] == [3, 4]
    assert again[0] == first[2], "the same message under the same id"
    journal.forget("new")
    await journal.confirm([4])
    assert await journal.unsent() == [], "nobody needs it any more"
    await journal.close()


async def test_only_newer_wanted_states_for_this_node_count(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", "n1")
    await journal.open()
    applied: list[int] = []

    async def apply(wanted: NodeWanted) -> None:
        applied.append(wanted.generation)

    watcher = ControlWatcher(None, journal, "n1", 1.0, apply)  # type: ignore[arg-type]
    for node, generation in (("n1", 3), ("n1", 2), ("n1", 3), ("n2", 9), ("n1", 4)):
        await watcher.offer(NodeWanted(node=node, generation=generation).model_dump_json().encode())
    await watcher.offer(b"{broken")
    assert applied == [3, 4]
    assert watcher.unreadable == 1
    await journal.close()


def test_nothing_of_the_agents_own_environment_leaks() -> None:
    base = base_environment(
        {
            "PATH": "/opt/agent/venv/bin:/usr/bin", "VIRTUAL_ENV": "/opt/agent/venv", "HOME": "/h", "LC_ALL": "C",
            "AWS_SECRET_ACCESS_KEY": "s", "INCL_AGENT_BUS": "b", "PYTHONPATH": "x", "RANK": "3", "SLURM_JOB_ID": "1",
            "HTTPS_PROXY": "p", "MINE": "1",
        },
        ("MINE",),
    )  # fmt: skip
    assert base == {
        "PATH": "/usr/bin", "HOME": "/h", "LC_ALL": "C", "LANG": "C.UTF-8", "HTTPS_PROXY": "p", "MINE": "1"
    }  # fmt: skip


def test_the_rendezvous_of_several_nodes() -> None:
    job = a_job(rank=1, gpus=(2, 3), nodes=2, env={"A": "1"})
    meeting = Rendezvous(node_ips=("10.0.0.1", "10.0.0.2"), master_addr="10.0.0.1", master_port=29_500)
    here = Path("/j")
    env = build_environment(
        job, meeting, Paths(here, here, here, here, here, Path("/sdk")),
        base={}, same_machine=False, node_has_gpus=True, secrets={},
    )  # fmt: skip
    assert env["INCL_NODE_IPS"] == "10.0.0.1,10.0.0.2"
    assert (env["MASTER_ADDR"], env["MASTER_PORT"], env["NODE_RANK"]) == ("10.0.0.1", "29500", "1")
    assert (env["PET_NNODES"], env["PET_NPROC_PER_NODE"], env["PET_NODE_RANK"]) == ("2", "2", "1")
    assert json.loads(env["TF_CONFIG"]) == {
        "cluster": {"worker": ["10.0.0.1:29500", "10.0.0.2:29501"]}, "task": {"type": "worker", "index": 1}
    }  # fmt: skip
    assert env["JAX_COORDINATOR_ADDRESS"] == "10.0.0.1:29500"
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert env["INCL_GPUS_PER_NODE"] == "2"
    assert "OMP_NUM_THREADS" not in env
    assert "INCL_LATEST_CHECKPOINT" not in env
    assert hostfile_text(job, meeting) == "10.0.0.1 slots=2\n10.0.0.2 slots=2\n"


@pytest.mark.parametrize(("node_has_gpus", "expected"), [(True, ""), (False, None)])
def test_a_job_without_gpus_sees_none(node_has_gpus: bool, expected: str | None) -> None:
    here, job = Path("/j"), a_job()
    env = build_environment(
        job, default_rendezvous(job, 5000), Paths(here, here, here, here, here, here), base={}, same_machine=False,
        node_has_gpus=node_has_gpus, secrets={},
    )  # fmt: skip
    assert env.get("CUDA_VISIBLE_DEVICES") == expected


async def test_the_cache_fetches_once_and_stays_in_its_bounds(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache", 250)
    fetched: list[str] = []

    async def fetch(path: Path) -> None:
        fetched.append(path.name)
        await asyncio.sleep(0)
        path.write_bytes(b"x" * 100)

    await asyncio.gather(*(cache.get("a", fetch) for _ in range(5)))
    assert fetched == ["a"]
    os.utime(tmp_path / "cache" / "a", (1, 1))
    await cache.get("b", fetch)
    await cache.get("a", fetch)
    os.utime(tmp_path / "cache" / "b", (1, 1))
    await cache.get("c", fetch)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["a", "c"]


def test_a_sample_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "sys.jsonl"
    path.write_text('{"k":"m","t":1,"s":1,"v":{}}\n{"k":"m","t"')
    append_record(tmp_path, {"system/memory": 1.0}, 7)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[1])["s"] == 7


def test_a_record_is_not_written_through_a_link_of_the_job(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    (tmp_path / "sys.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic"):
        append_record(tmp_path, {"system/memory": 1.0}, 7)
    (tmp_path / "sys.jsonl").unlink()
    os.mkfifo(tmp_path / "sys.jsonl")
    with pytest.raises(OSError, match="regular"):
        append_record(tmp_path, {"system/memory": 1.0}, 7)
    assert (tmp_path / "mine").read_text() == ""


def test_what_is_exchanged_for_a_link_after_it_was_offered_is_not_uploaded(tmp_path: Path) -> None:
    spool, secret = tmp_path / "spool", tmp_path / "secret"
    spool.mkdir()
    secret.mkdir()
    (secret / "key").write_text("key")
    for name, target in (("file", secret / "key"), ("folder", secret)):
        (spool / name).symlink_to(target)
    os.mkfifo(spool / "pipe")
    (spool / "good").write_text("good")
    names = ("file", "folder", "folder/key", "pipe", "../secret/key", "gone")
    assert [hold(spool / name, spool) for name in names] == [None] * len(names)
    held = hold(spool / "good", spool)
    assert held is not None
    (spool / "good").unlink()
    (spool / "good").symlink_to(secret / "key")
    assert Path(f"/proc/self/fd/{held}").read_text() == "good"
    os.close(held)


def test_processes_are_counted_for_the_job_above_them() -> None:
    uses = measure({os.getppid(): "mine"})
    assert uses["mine"].memory > 1 << 20
    assert uses["mine"].ticks > 0


def test_the_sdk_is_placed_once_for_its_content(tmp_path: Path) -> None:
    first = place_sdk(tmp_path)
    assert (first / "incl" / "__init__.py").is_file()
    assert place_sdk(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_two_agents_do_not_share_a_folder(tmp_path: Path) -> None:
    held = lock_folder(tmp_path)
    with pytest.raises(ConflictError):
        lock_folder(tmp_path)
    os.close(held)
    os.close(lock_folder(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("Traceback\n  File x\nKeyError: 'a'\n\n", "KeyError: 'a'"),
        ("10%\r20%\rdone", "done"),
        ("\x1b[31mred\x1b[0m\n", "red"),
    ],
)
def test_the_last_line_that_says_something(text: str, expected: str) -> None:
    assert endings.last_line(text) == expected


def test_commands_that_cannot_be_run() -> None:
    missing = endings.not_started(Exit(error="No such file or directory", errno=2, stage="exec"), "./train.sh")
    assert missing.reason is EndReason.COMMAND
    assert "working directory" in missing.hint
    python = endings.not_started(Exit(error="No such file or directory", errno=2, stage="exec"), "python")
    assert "python3" in python.hint
    text = endings.not_started(Exit(error="Exec format error", errno=8, stage="exec"), "./train")
    assert "#!" in text.message


@pytest.mark.parametrize(
    ("metrics", "score"),
    [
        ({"acc": 0.9, "loss": 2}, 0.9),
        ({"loss": 2}, -2.0),
        ({"acc": float("nan"), "loss": 2}, None),
        ({"acc": float("inf")}, None),
        ({"acc": "0.9"}, None),
        ({"other": 1.0}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_the_score_of_a_checkpoint(metrics: object, score: float | None) -> None:
    assert score_of({"k": "c", "metrics": metrics}, {"acc": Goal.MAX, "loss": Goal.MIN}) == score
