"""A campaign: many schedules, in several processes: `python -m simulation.campaign [--cloud] FIRST COUNT [WORKERS]`.

Every process has PYTHONHASHSEED=0, so that a seed means the same in all of them.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent
_AT_ONCE = 50
REPLAY = "PYTHONPATH=tests .venv/bin/python -m simulation.schedule {seed}"
_WORDS = {"here": "", "cloud": "--cloud "}


@dataclass
class Outcome:
    """Of many schedules. wrong: seed -> what is wrong."""

    kind: str = "here"
    schedules: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    faults: int = 0
    attempts: int = 0
    wrong: dict[int, list[str]] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)

    def told(self) -> str:
        """What is wrong, with the way to see it again."""
        lines = []
        for seed, violations in sorted(self.wrong.items()):
            replay = REPLAY.format(seed=_WORDS[self.kind] + str(seed))
            lines += [f"seed {seed}: {replay}", *(f"    {text}" for text in violations)]
        return "\n".join(lines)


def run_campaign(
    seeds: Iterable[int], workers: int = 2, mutation: str = "", most_wrong: int = 1_000_000, kind: str = "here"
) -> Outcome:
    """Run these seeds; no more of them once `most_wrong` are wrong.

    mutation: a fault to put in; see mutations.py. kind: see `schedule.DRAW`.
    """
    waiting, outcome, began = list(seeds), Outcome(kind), time.monotonic()
    workers = max(1, min(workers, len(waiting)))
    running = [_start(waiting[index::workers], mutation, kind) for index in range(workers)]
    try:
        for line in _lines(running):
            said = json.loads(line)
            outcome.schedules += 1
            outcome.virtual_s += said["virtual_s"]
            outcome.cpu_s += said["cpu_s"]
            outcome.faults += said["faults"]
            outcome.attempts += said["attempts"]
            outcome.digests[said["seed"]] = said["digest"]
            if said["violations"]:
                outcome.wrong[said["seed"]] = said["violations"]
                if len(outcome.wrong) >= most_wrong:
                    break
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    outcome.wall_s = time.monotonic() - began
    return outcome


def _start(seeds: list[int], mutation: str, kind: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(_TESTS)}
    return subprocess.Popen(
        [sys.executable, "-m", "simulation.campaign", "--work", mutation, kind, json.dumps(seeds)], env=environment,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def _lines(processes: list[subprocess.Popen[str]]) -> Iterator[str]:
    import selectors

    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    yield line
                else:
                    selector.unregister(key.fileobj)


def _work(mutation: str, kind: str, seeds: list[int]) -> None:
    from simulation.mutations import mutated
    from simulation.schedule import scratch, simulate

    logging.disable(logging.WARNING)
    logging.lastResort = None  # the schedule listens; nobody reads
    with scratch() as folder, mutated(mutation):
        for seed in seeds:
            result = simulate(seed, folder, kind=kind)
            said = {
                "seed": seed, "violations": result.violations, "virtual_s": result.virtual_s, "cpu_s": result.cpu_s,
                "faults": result.faults, "attempts": result.attempts, "digest": result.digest,
            }  # fmt: skip
            print(json.dumps(said), flush=True)


def main() -> int:
    """From the command line."""
    if sys.argv[1] == "--work":
        _work(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
        return 0
    first, count, *more = [int(word) for word in sys.argv[1:] if word.isdigit()]
    kind = "cloud" if "--cloud" in sys.argv else "here"
    outcome = run_campaign(range(first, first + count), more[0] if more else 2, kind=kind)
    print(outcome.told())
    cpu_ms, virtual_s = 1000 * outcome.cpu_s / outcome.schedules, outcome.virtual_s / outcome.schedules
    print(
        f"{outcome.schedules} schedules in {outcome.wall_s:.0f} s "
        f"({cpu_ms:.0f} ms of CPU, {virtual_s:.0f} virtual s each), {outcome.faults} faults, "
        f"{outcome.attempts} attempts, {len(outcome.wrong)} seeds with violations"
    )
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
