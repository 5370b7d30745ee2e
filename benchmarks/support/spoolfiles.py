"""Spool files as the SDK writes them, many at once: run in a process (support.serve)."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import msgspec

METRICS = 10
SPACING_S = 0.005
_START = 1_700_000_000.0
_encoder = msgspec.json.Encoder()


def write(folder: str, experiments: list[str], records: int) -> int:
    """One spool an experiment, `<folder>/<id>/`, of one writer: METRICS scalars a record. Returns bytes.

    Values drift and carry noise of whole mantissas; records are 5 ms apart, give or take some microseconds.
    """
    size = 0
    for experiment in experiments:
        place = Path(folder) / experiment
        place.mkdir(parents=True, exist_ok=True)
        path = place / "p1-0123456789.jsonl"
        if not path.exists():
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                _fill(file.write, random.Random(experiment), records)
            part.rename(path)
        size += path.stat().st_size
    return size


def _fill(write: object, chance: random.Random, records: int) -> None:
    assert callable(write)
    names = [f"train/metric_{place}" for place in range(METRICS)]
    draw, now, encode = chance.random, _START + chance.random(), _encoder.encode
    packer = struct.Struct(f"<{METRICS}d")
    lines: list[bytes] = []
    for step in range(records):
        now += SPACING_S + draw() * 2e-4
        level = 100.0 / (step + 100)
        values = [level + 0.1 * draw() for _ in names]
        if step:
            lines.append(encode({"k": "m", "t": now, "s": step, "n": names, "b": packer.pack(*values)}))
        else:
            lines.append(encode({"k": "m", "t": now, "s": step, "v": dict(zip(names, values, strict=True))}))
        if len(lines) == 1000:
            write(b"\n".join(lines) + b"\n")
            lines.clear()
    write(b"".join(line + b"\n" for line in lines))
