"""`python -m searching.report`: a question as JSON on stdin (what there is, or what to score), the answer on stdout."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from searching import optimisers, problems, scoring

OURS = "incl"
COARSE = 0.05
"""The ratio is told once more with less regret than this counted as this: what is solved weighs less then."""


def main() -> None:
    """One question."""
    asked = json.load(sys.stdin)
    json.dump(_scores(asked) if "score" in asked else _known(asked), sys.stdout)


def _known(asked: dict[str, Any]) -> dict[str, Any]:
    torch = importlib.util.find_spec("torch") is not None
    missing = [name for name in asked["names"] if name == "optuna-gp" and not torch]
    families = asked["families"]
    chosen = [name for name in problems.names() if not families or name.partition("/")[0] in families]
    return {
        "optimisers": [name for name in asked["names"] if name not in missing],
        "missing": missing,
        "problems": chosen,
    }


def _scores(asked: dict[str, Any]) -> dict[str, Any]:
    good = [one for one in asked["score"] if "error" not in one]
    modes: dict[str, dict[str, Any]] = {}
    lines: list[str] = []
    for workers in sorted({one["workers"] for one in good}, reverse=True):
        part = [one for one in good if one["workers"] == workers]
        for budget in asked["budgets"]:
            figures = _mode(part, budget, asked["base"])
            modes.setdefault(str(workers), {})[str(budget)] = figures
            lines += _lines(workers, budget, figures)
    return {
        "modes": modes,
        "failed": len(asked["score"]) - len(good),
        "versions": {name: optimisers.release(name) for name in sorted({one["optimiser"] for one in good})},
        "text": "\n".join(lines),
    }


def _mode(results: Sequence[dict[str, Any]], budget: int, base: str) -> dict[str, Any]:
    """Problems and seeds that every optimiser came through."""
    table: dict[str, dict[tuple[str, int], float]] = {}
    for one in results:
        table.setdefault(one["optimiser"], {})[(one["problem"], one["seed"])] = one["regret"][budget - 1]
    shared = set.intersection(*(set(cells) for cells in table.values()))
    tasks = sorted({problem for problem, _ in shared})
    regrets = {
        name: {task: [cells[key] for key in sorted(shared) if key[0] == task] for task in tasks}
        for name, cells in table.items()
    }
    families = sorted({task.partition("/")[0] for task in tasks})
    of = {family: [task for task in tasks if task.startswith(f"{family}/")] for family in families}
    held = [task for family in families if family in problems.HELD_OUT for task in of[family]]
    ratio, low, high = scoring.ratio(regrets, OURS, base, tasks)
    coarse = {name: {t: [max(r, COARSE) for r in row] for t, row in rows.items()} for name, rows in regrets.items()}
    return {
        "ratio": _short(ratio),
        "interval": [_short(low), _short(high)],
        "coarse": _short(scoring.ratio(coarse, OURS, base, tasks)[0]),
        "held_out": _short(scoring.ratio(regrets, OURS, base, held)[0]) if held else None,
        "families": {family: _short(scoring.ratio(regrets, OURS, base, of[family])[0]) for family in families},
        "peers": {name: _short(scoring.ratio(regrets, name, base, tasks)[0]) for name in sorted(regrets)},
        "ranks": {name: _short(rank) for name, rank in scoring.ranks(regrets, tasks).items()},
        "won_even_lost": {
            family: scoring.wins(regrets, OURS, base, members) for family, members in {"all": tasks, **of}.items()
        },
        "ask_ms": {name: _short(1000 * _asks(results, name)) for name in sorted(regrets)},
        "runs": len(shared),
    }


def _asks(results: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.mean([one["ask_s"] for one in results if one["optimiser"] == name]))


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _lines(workers: int, budget: int, figures: dict[str, Any]) -> list[str]:
    low, high = figures["interval"]
    head = f"{workers} workers, {budget} trials, {figures['runs']} runs: {figures['ratio']} ({low} to {high})"
    more = f"coarse {figures['coarse']}; held out {figures['held_out']}"
    lines = [f"{head}; {more}; won, even, lost {figures['won_even_lost']['all']}"]
    lines += [
        f"  {family:18} {one:8} {figures['won_even_lost'][family]}" for family, one in figures["families"].items()
    ]
    lines += [
        f"  {name:18} {one:8} rank {figures['ranks'][name]}, {figures['ask_ms'][name]} ms an ask"
        for name, one in figures["peers"].items()
    ]
    return lines


if __name__ == "__main__":
    main()
