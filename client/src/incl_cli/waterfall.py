"""Stages as bars on one time axis."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from incl_cli.look import STAGE_STYLES
from incl_cli.output import Output
from incl_cli.text import duration, fit

if TYPE_CHECKING:
    from incl_shared.queries.tracker import Stage

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def waterfall(out: Output, stages: Sequence[Stage], now: float | None = None) -> list[str]:
    """One line a stage: name, how long, its bar, its note. A stage that goes on reaches to now."""
    if not stages:
        return []
    moment = time.time() if now is None else now
    first = min(stage.start for stage in stages)
    last = max(max(stage.end if stage.end is not None else moment, stage.start) for stage in stages)
    many = len({stage.attempt for stage in stages if stage.attempt}) > 1
    names = [f"{stage.name} #{stage.attempt}" if many and stage.attempt else stage.name for stage in stages]
    left = max(len(name) for name in names)
    room = max(10, min(60, out.width - left - 12 - 4))
    scale = room / max(last - first, 1e-6)
    lines = []
    for name, stage in zip(names, stages, strict=True):
        end = stage.end if stage.end is not None else moment
        took = duration(end - stage.start) + ("…" if stage.end is None else "")
        painted = out.paint(bar((stage.start - first) * scale, (end - first) * scale, room), STAGE_STYLES[stage.name])
        note = fit(stage.note, max(0, out.width - left - room - 16)) if stage.note else ""
        lines.append(f"  {name:<{left}} {took:>8}  {painted}  {out.paint(note, 'dim')}".rstrip())
    return lines


def bar(start: float, end: float, room: int) -> str:
    """A bar from start to end (cells, with fractions) in a field of `room` cells; at least a hairline."""
    begin = min(int(start), room - 1)
    whole = max(0.0, min(end, room) - begin)
    full = int(whole)
    part = _EIGHTHS[int((whole - full) * 8)] if full + begin < room else ""
    body = "█" * full + part.strip()
    return (" " * begin + (body or "▏")).ljust(room)[:room]
