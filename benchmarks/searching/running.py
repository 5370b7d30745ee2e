"""One run: an optimiser on a problem, by workers in virtual time; its curve is kept, and found again."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import incl_hpo.search
from searching import optimisers
from searching.problems import problem

SPREAD = 0.5
"""Trials take exp(0.5 N(0, 1)) of a virtual hour."""


@dataclass(frozen=True)
class Job:
    """What is run; equal jobs give equal curves."""

    optimiser: str
    problem: str
    seed: int
    workers: int
    trials: int
    recipe: tuple[tuple[str, Any], ...] = ()

    def place(self) -> Path:
        """The file of its curve."""
        maker = _source() if self.optimiser == "incl" else optimisers.release(self.optimiser)
        if self.recipe:
            maker += "-" + hashlib.sha256(repr(sorted(self.recipe)).encode()).hexdigest()[:8]
        folder = Path(os.environ["INCL_SEARCH_CACHE"]) / f"{self.optimiser}-{maker}".rstrip("-")
        name = f"{self.problem.replace('/', '_')}-s{self.seed}-w{self.workers}.json"
        return folder / name


def _source() -> str:
    """Our sampler is what its source says, comments and all; INCL_SEARCH_TAG names one that is being worked on."""
    if tag := os.environ.get("INCL_SEARCH_TAG"):
        return tag
    files = sorted(Path(incl_hpo.search.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def curve(job: Job) -> dict[str, Any]:
    """The curve: `best` after each completed trial (None before the first that worked), and seconds of CPU an ask."""
    place = job.place()
    if place.exists():
        kept: dict[str, Any] = json.loads(place.read_text())
        if len(kept["best"]) >= job.trials:
            return kept
    made = _run(job)
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(made))
    part.rename(place)
    return made


def _run(job: Job) -> dict[str, Any]:
    task = problem(job.problem)
    side = optimisers.make(job.optimiser, task.space, job.seed, dict(job.recipe))
    chance = np.random.default_rng([job.seed, 77])
    lasts = np.exp(SPREAD * chance.standard_normal(job.trials + job.workers))
    running: list[tuple[float, int, Any, Mapping[str, Any]]] = []
    best: list[float | None] = []
    least: float | None = None
    now, asked, spent = 0.0, 0, 0.0
    while len(best) < job.trials:
        while len(running) < job.workers and asked < job.trials + job.workers - 1:
            began = time.process_time()
            ticket, point = side.ask()
            spent += time.process_time() - began
            heapq.heappush(running, (now + float(lasts[asked]), asked, ticket, point))
            asked += 1
        now, _, ticket, point = heapq.heappop(running)
        value = task.evaluate(point)
        side.tell(ticket, value)
        if value is not None and (least is None or value < least):
            least = value
        best.append(least)
    return {"best": best, "ask_s": spent / asked}
