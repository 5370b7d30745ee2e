"""The runs that both sides of `list` hold, and what is asked of them. The standard library alone: peers read it too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

METRICS = tuple(f"m{place:02}" for place in range(20))
PARAMS = tuple(f"p{place:02}" for place in range(20))
OPTIMIZERS = ("adam", "adamw", "lamb", "lion", "sgd")
RARE, RARE_RUNS = "gold", 150
START = 1_700_000_000.0
EVERY_S = 30.0
LIMIT = 100


@dataclass(frozen=True)
class Run:
    """One run: values by place, as METRICS and PARAMS name them. created: seconds since the epoch."""

    number: int
    created: float
    metrics: list[float]
    params: list[str]


def runs(count: int, seed: int = 7) -> Iterator[Run]:
    """The first `count` runs, oldest first; the same ones each time.

    Metrics are uniform in [0, 1) with whole mantissas. p00 is one of five words, p01 to p09 are numbers of four
    digits, p10 to p17 one of eight sizes, p18 a seed, p19 one word but for about RARE_RUNS of all.
    """
    chance, rare = random.Random(seed), RARE_RUNS / count
    draw, sizes = chance.random, [str(8 << place) for place in range(8)]
    for number in range(count):
        params = [OPTIMIZERS[int(draw() * 5)], *(f"{10 ** (draw() * -5):.4g}" for _ in range(9))]
        params += [sizes[int(draw() * 8)] for _ in range(8)]
        params += [str(int(draw() * 100_000)), RARE if draw() < rare else "plain"]
        yield Run(number, START + number * EVERY_S, [draw() for _ in METRICS], params)


@dataclass(frozen=True)
class Question:
    """A page of 100: above bounds, equal to texts, the greatest of a metric first or (none) the newest."""

    above: tuple[tuple[str, float], ...] = ()
    equal: tuple[tuple[str, str], ...] = ()
    sort: str | None = None

    def ours(self) -> tuple[str, str]:
        """(filter, sort) in INCL's grammar."""
        parts = [f"param.{name} = {text}" for name, text in self.equal]
        parts += [f"metric.{name} > {bound}" for name, bound in self.above]
        return " and ".join(parts), f"-metric.{self.sort}" if self.sort else "-created"

    def mlflow(self) -> tuple[str, str]:
        """(filter, order) in MLflow's."""
        parts = [f"params.{name} = '{text}'" for name, text in self.equal]
        parts += [f"metrics.{name} > {bound}" for name, bound in self.above]
        return " and ".join(parts), f"metrics.{self.sort} DESC" if self.sort else "attributes.start_time DESC"


SHAPES = ("newest", "filter", "sort", "both", "rare")


def question(shape: str, chance: random.Random, count: int) -> Question:
    """One question of a shape to `count` runs, of metrics and bounds drawn anew each time."""
    some, other = chance.sample(METRICS, 2)
    match shape:
        case "newest":
            return Question()
        case "filter":
            return Question(above=((some, round(chance.uniform(0.3, 0.98), 3)),))
        case "sort":
            return Question(sort=some)
        case "both":
            equal = (("p00", chance.choice(OPTIMIZERS)),)
            return Question(above=((some, round(chance.uniform(0.3, 0.98), 3)),), equal=equal, sort=other)
        case _:
            if chance.random() < 0.5:
                return Question(equal=(("p19", RARE),))
            return Question(above=((some, round(1 - chance.uniform(0.8, 1.2) * RARE_RUNS / count, 7)),))
