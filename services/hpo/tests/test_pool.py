"""Processes that compute proposals: they answer, are replaced when they die, and end with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

from incl_hpo.pool import ProposalError, WorkerPool
from incl_hpo.testing_runs import sweep_spec
from incl_hpo.worker import propose
from incl_shared.testing.wait import until, until_sync


def question(count: int = 1, **changes: Any) -> dict[str, Any]:
    parameters = {name: one.model_dump(mode="json") for name, one in sweep_spec().parameters.items()}
    asked: dict[str, Any] = {"parameters": parameters, "algorithm": "tpe", "history": [], "pending": []}
    return {**asked, "seed": 3, "count": count, "seconds": 60, **changes}


async def test_a_process_answers_as_the_sampler_does() -> None:
    pool = WorkerPool(1, 60)
    try:
        history = [[{"X": x / 10, "Y": 0.0}, [x * x / 100], []] for x in range(-12, 12)]
        asked = question(3, history=history, pending=[{"X": 0.123, "Y": 1.0}])
        assert await pool.ask(asked) == propose(asked)
    finally:
        await pool.close()


def test_a_long_question_gives_way_after_its_first_point() -> None:
    whole = propose(question(5))["points"]
    assert propose(question(5, seconds=0))["points"] == whole[:1]
    rest = propose(question(4, seconds=60, pending=whole[:1]))["points"]
    assert rest == whole[1:], "what is asked again is the same"


async def test_questions_share_few_processes() -> None:
    pool = WorkerPool(2, 60)
    try:
        answers = await asyncio.gather(*(pool.ask(question(seed=seed)) for seed in range(6)))
        assert len({str(answer["points"]) for answer in answers}) == 6
        assert len(pool.processes) <= 2
    finally:
        await pool.close()
    assert not any(psutil.pid_exists(pid) for pid in pool.processes)


async def test_users_take_turns() -> None:
    pool, order = WorkerPool(1, 60), []

    async def ask(user: str) -> None:
        await pool.ask(question(), user)
        order.append(user)

    try:
        await asyncio.gather(*(ask("bob") for _ in range(5)), ask("ann"))
    finally:
        await pool.close()
    assert order.index("ann") <= 2, order


async def test_a_killed_process_is_replaced() -> None:
    pool = WorkerPool(1, 60)
    try:
        before = await pool.ask(question())
        (pid,) = pool.processes
        os.kill(pid, signal.SIGKILL)
        assert await pool.ask(question()) == before
        assert pool.processes != [pid]
    finally:
        await pool.close()


async def test_one_that_takes_too_long_is_killed_and_it_is_said() -> None:
    pool = WorkerPool(1, 0.001)
    try:
        with pytest.raises(ProposalError):
            await pool.ask(question())
        await until(lambda: pool.processes == [])
    finally:
        await pool.close()


async def test_idle_processes_end() -> None:
    pool = WorkerPool(1, 60, idle_s=0.05)
    try:
        await pool.ask(question())
        (pid,) = pool.processes
        await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    finally:
        await pool.close()


def test_a_space_that_contradicts_itself_is_refused() -> None:
    parameters = {"X": {"type": "uniform", "low": 1, "high": 0}}
    assert "no range" in propose(question(parameters=parameters))["refused"]


def test_a_process_ends_with_its_parent() -> None:
    code = (
        "import asyncio, json, sys\nfrom incl_hpo.pool import WorkerPool\n"
        "async def main():\n    pool = WorkerPool(1, 60)\n    await pool.ask(json.loads(sys.argv[1]))\n"
        "    print(pool.processes[0], flush=True)\n    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    import json

    parent = subprocess.Popen([sys.executable, "-c", code, json.dumps(question())], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until_sync(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, 10)


def of_optuna(name: str, **changes: Any) -> dict[str, Any]:
    more = {"options": {}, "objectives": 1, "constraints": 0, "earlier": [], "trials": []}
    return question(algorithm=f"optuna.{name}", **{**more, **changes})


async def test_a_sampler_of_optuna_is_asked_in_a_process_too() -> None:
    pool = WorkerPool(1, 60)
    try:
        trials: list[dict[str, Any]] = []
        for number in range(14):
            asked = of_optuna("CmaEsSampler", trials=trials)
            answer = await pool.ask(asked)
            assert answer["points"] == propose(asked)["points"]
            trials.append({"point": answer["points"][0], "memo": answer["memos"][0], "state": "running"})
            trials[-1] |= {"state": "complete", "values": [float(number)]}
        assert any(trial["memo"] for trial in trials)
    finally:
        await pool.close()


def test_a_sampler_that_cannot_be_asked_is_refused() -> None:
    assert propose(of_optuna("CmaEsSampler", probe=True))["refused"] == ""
    unknown = propose(of_optuna("Tpe"))
    assert ("has no sampler Tpe" in unknown["refused"], "optuna.TPESampler" in unknown["hint"]) == (True, True)
    wrong = propose(of_optuna("TPESampler", options={"n_ei_candidates": -1}, probe=True))
    assert "cannot say what to try" in wrong["refused"], "it is asked with trials that are made up"


@pytest.mark.parametrize("package", ["optuna", "cmaes"])
def test_a_package_that_is_not_installed_is_named(package: str) -> None:
    """In a process that cannot import it."""
    code = (
        f"import json, sys\nsys.modules[{package!r}] = None\nfrom incl_hpo.worker import propose\n"
        "print(json.dumps(propose(json.loads(sys.argv[1]))))\n"
    )
    import json

    asked = json.dumps(of_optuna("CmaEsSampler", probe=True))
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert f"optuna.CmaEsSampler needs the package {package}, which is not installed" in answer["refused"]
    assert package in answer["cause"]
    assert f"-m pip install '{package}>=" in answer["hint"]
