"""Our sampler beside Optuna's, hyperopt's and SMAC's: regret after 50, 100 and 200 trials, by 8 workers and by one.

By default a subset of minutes: ours, Optuna's default TPE and random, 8 workers, 100 trials, 2 seeds, every problem.
FULL=1: every optimiser, 20 seeds, 200 trials, one worker too (a night and more). Curves are kept in
.bench/cache/search by (optimiser and its version, or the source of ours, problem, seed, workers), so a run that was
ended goes on where it was. INCL_SEARCH_SEEDS, _TRIALS, _PROCESSES, and, as lists with commas, _WORKERS ("8,1"),
_OPTIMISERS, _FAMILIES choose for themselves.

Optuna's GPSampler needs PyTorch, which the peers' environment does not have: it is measured where somebody put it
there (`.bench/venv/bin/pip install torch`), and named as left out otherwise. Workers are virtual: a trial lasts
exp(0.5 N(0, 1)), so trials end in another order than they began. Regret 1 is what a random search of 100 trials
leaves, below 0.001 (0.05 in tables) counts as that; ratios are geometric means over problems of mean regret over mean
regret.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from support.environment import BENCHMARKS, cache, python, say

BUDGETS = (50, 100, 200)
TARGETS = {8: {50: 0.45, 100: 0.33, 200: 0.33}, 1: {100: 0.4}}
FAMILY_TARGET = 0.9
FULL = ("incl", "optuna-tpe", "optuna-tpe-multi", "optuna-gp", "optuna-cmaes", "hyperopt", "smac", "random")
QUICK = ("incl", "optuna-tpe", "random")
BASE = "optuna-tpe"


def bench() -> dict[str, Any]:
    """One run."""
    full = os.environ.get("FULL") == "1"
    seeds, trials = _number("SEEDS", 20 if full else 2), _number("TRIALS", 200 if full else 100)
    workers = [int(one) for one in _list("WORKERS", ("8", "1") if full else ("8",))]
    names = _list("OPTIMISERS", FULL if full else QUICK)
    told = _ask({"names": names, "families": _list("FAMILIES", ())})
    for missing in told["missing"]:
        say(f"{missing} is left out: its package is not in the peers' environment")
    jobs = [
        {"optimiser": name, "problem": problem, "seed": seed, "workers": count, "trials": trials}
        for seed in range(seeds)
        for count in workers
        for problem in told["problems"]
        for name in told["optimisers"]
    ]
    results = list(_run(jobs))
    report = _ask({"score": results, "budgets": [b for b in BUDGETS if b <= trials], "base": BASE})
    return _result(report, {"seeds": seeds, "trials": trials, "problems": len(told["problems"])}, told["missing"])


def _number(name: str, otherwise: int) -> int:
    return int(os.environ.get(f"INCL_SEARCH_{name}", otherwise))


def _list(name: str, otherwise: Sequence[str]) -> list[str]:
    given = os.environ.get(f"INCL_SEARCH_{name}")
    return [one for one in given.split(",") if one] if given else list(otherwise)


def _command() -> tuple[list[str], dict[str, str]]:
    source = BENCHMARKS.parent / "services" / "hpo" / "src"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(source)]),
        "INCL_SEARCH_CACHE": str(cache("search")),
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    return [str(python()), "-P", "-m"], environment


def _ask(question: dict[str, Any]) -> dict[str, Any]:
    command, environment = _command()
    done = subprocess.run(
        [*command, "searching.report"], input=json.dumps(question), env=environment, text=True, stdout=subprocess.PIPE
    )
    if done.returncode:
        raise SystemExit("error: the peers' side failed\nhint: its last lines are above; .bench/venv may be removed")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _run(jobs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The result of each job, from as many processes as there are cores."""
    command, environment = _command()
    waiting: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    done: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def work() -> None:
        log = (Path(environment["INCL_SEARCH_CACHE"]) / "worker.log").open("a", encoding="utf-8")
        with log, subprocess.Popen(
            [*command, "searching.worker"], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log,
        ) as child:  # fmt: skip
            assert child.stdin is not None
            assert child.stdout is not None
            while True:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    break
                child.stdin.write(json.dumps(job) + "\n")
                child.stdin.flush()
                line = child.stdout.readline()
                done.put(json.loads(line) if line else {**job, "error": "the worker died"})
                if not line:
                    break
            child.stdin.close()
        done.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(_number("PROCESSES", os.cpu_count() or 1))]
    for thread in threads:
        thread.start()
    left, count = len(threads), 0
    while left:
        result = done.get()
        if result is None:
            left -= 1
            continue
        count += 1
        if "error" in result:
            say(f"{result['optimiser']} on {result['problem']}, seed {result['seed']}: {result['error']}")
        if count % 100 == 0:
            say(f"{count} of {len(jobs)} runs")
        yield result


def _result(report: dict[str, Any], size: dict[str, int], missing: list[str]) -> dict[str, Any]:
    missed = []
    ratios = []
    for workers, budgets in TARGETS.items():
        for budget, target in budgets.items():
            figures = report["modes"].get(str(workers), {}).get(str(budget))
            if figures is None:
                continue
            ratios.append(figures["ratio"] / target)
            if figures["ratio"] > target:
                missed.append(f"{workers} workers, {budget} trials")
            if (workers, budget) == (8, 100):
                missed += [f"{name} at 100" for name, one in figures["families"].items() if one > FAMILY_TARGET]
    print(report.pop("text"), file=sys.stderr)
    return {
        "name": "search",
        "unit": "regret over that of Optuna's default TPE",
        "ours": report["modes"],
        "peers": report["versions"],
        "size": size,
        "left_out": missing,
        "failed_runs": report["failed"],
        "ratio": round(max(ratios), 3) if ratios else None,
        "missed": missed,
        "target": {f"{w} workers": b for w, b in TARGETS.items()} | {"family at 100": FAMILY_TARGET},
        "ok": not missed,
    }
