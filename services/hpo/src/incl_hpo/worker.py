"""A process that computes proposals: questions come on stdin, answers go to stdout, until stdin ends.

Each is a JSON text behind its length (4 bytes, big endian). A question: parameters (of the sweep file), algorithm,
history, pending, seed, count, seconds (after which no further point of the count is begun: others wait, too). An
answer: points, `exhausted` (there are no more), `refused` (why there can be none); or `error`.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from incl_hpo.domain.space import space_of
from incl_hpo.search import Observation, SearchError, SpaceExhaustedError, sampler
from incl_shared.sweep import SweepParameter

LENGTH = struct.Struct(">I")
_PARAMETERS: TypeAdapter[dict[str, SweepParameter]] = TypeAdapter(dict[str, SweepParameter])


def propose(question: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a question: up to `count` points, each of them new."""
    points: list[dict[str, Any]] = []
    try:
        space = space_of(_PARAMETERS.validate_python(question["parameters"]))
        asked = sampler(question["algorithm"])
        history = [Observation(point, tuple(values), tuple(limits)) for point, values, limits in question["history"]]
        pending = list(question["pending"])
        until = time.monotonic() + question["seconds"]
        while len(points) < question["count"] and (not points or time.monotonic() < until):
            point = asked.ask(space, history, pending, question["seed"])
            points.append(point)
            pending.append(point)
    except SpaceExhaustedError:
        return {"points": points, "exhausted": True, "refused": ""}
    except SearchError as error:
        return {"points": points, "exhausted": False, "refused": str(error)}
    return {"points": points, "exhausted": False, "refused": ""}


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
