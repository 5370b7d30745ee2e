"""A process that computes proposals: questions come on stdin, answers go to stdout, until stdin ends.

Each is a JSON text behind its length (4 bytes, big endian). `incl_hpo.domain.question` makes a question: parameters of
the sweep file, algorithm, seed, count, seconds (after which no further point is begun, as others wait too),
history and pending; for a sampler of Optuna options, objectives, constraints, earlier and trials in their place;
`probe` asks whether that sampler can be asked at all. An answer: points, `exhausted` (there are no more), `refused`
(why there can be none) with cause and hint, for Optuna's samplers memos (one a point, stored with it); or `error`.
"""

from __future__ import annotations

import importlib
import json
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from incl_hpo.domain.space import space_of
from incl_hpo.search import Observation, SamplerUnusableError, SearchError, Space, SpaceExhaustedError, sampler
from incl_shared.sweep import SweepParameter

LENGTH = struct.Struct(">I")
_PARAMETERS: TypeAdapter[dict[str, SweepParameter]] = TypeAdapter(dict[str, SweepParameter])
_Asked = Iterator[tuple[dict[str, Any], Any]]


def propose(question: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a question: up to `count` points, each of them new."""
    answer: dict[str, Any] = {"points": [], "memos": [], "exhausted": False, "refused": "", "cause": "", "hint": ""}
    try:
        space = space_of(_PARAMETERS.validate_python(question["parameters"]))
        asks = _optuna if "trials" in question else _own
        until = time.monotonic() + question["seconds"]
        for point, memo in asks(space, question):
            answer["points"].append(point)
            answer["memos"].append(memo)
            if len(answer["points"]) >= question["count"] or time.monotonic() >= until:
                break
    except SpaceExhaustedError:
        answer["exhausted"] = True
    except SearchError as error:
        answer |= {"refused": error.message, "cause": getattr(error, "cause", ""), "hint": error.hint}
    return answer


def _own(space: Space, question: Mapping[str, Any]) -> _Asked:
    """The platform's own samplers: one point after the other."""
    asked = sampler(question["algorithm"])
    history = [Observation(point, tuple(values), tuple(limits)) for point, values, limits in question["history"]]
    pending = list(question["pending"])
    while True:
        point = asked.ask(space, history, pending, question["seed"])
        yield point, None
        pending.append(point)


def _optuna(space: Space, question: Mapping[str, Any]) -> _Asked:
    """Optuna's, which need not be there."""
    importlib.invalidate_caches()  # it may have been installed since this process began
    try:
        from incl_hpo.from_optuna import OptunaSampler, Tried, made_up
    except ModuleNotFoundError as error:
        raise SamplerUnusableError.not_installed(question["algorithm"], error.name or "optuna", str(error)) from error

    name = question["algorithm"].removeprefix("optuna.")
    asked = OptunaSampler(name, question["options"], question["objectives"], question["constraints"])
    if question.get("probe"):
        return asked.asks(space, made_up(space, asked.objectives, asked.constraints), [], question["seed"])
    earlier, trials = [[Tried.read(one) for one in question[part]] for part in ("earlier", "trials")]
    return asked.asks(space, earlier, trials, question["seed"])


def serve(incoming: BinaryIO, outgoing: BinaryIO) -> None:
    """Answer until there are no more questions."""
    while len(head := incoming.read(LENGTH.size)) == LENGTH.size:
        question = json.loads(incoming.read(LENGTH.unpack(head)[0]))
        try:
            answer = propose(question)
        except (ValueError, ArithmeticError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
        text = json.dumps(answer).encode()
        outgoing.write(LENGTH.pack(len(text)) + text)
        outgoing.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
