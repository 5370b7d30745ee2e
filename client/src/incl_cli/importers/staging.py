"""Where an old run is written as `incl.init()` would have recorded it, so that it is shipped by the same code.

The same source gives the same records with the same numbers, and a source that grew gives the same ones and more after
them: so the tracker's watermarks say what is new, and nothing can be stored twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from incl._files import safe_name
from incl._values import EXACT, encode, pieces, to_key, to_plain, to_step, to_text
from incl_shared.ids import derived_id
from incl_shared.queries.tracker import SYSTEM_PREFIX
from incl_shared.states import ExperimentState

_BUFFER = 1 << 18
_MAX_MS = 1 << 48
_WORD = re.compile(r"[^A-Za-z0-9_-]")


@dataclass
class Origin:
    """What a source says of its run before its records are read. identity: the same for the same run, wherever it lies.

    started: seconds since the epoch. command, python, git: as RunStarted's provenance has them.
    """

    identity: tuple[str, ...]
    name: str
    started: float
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    python: str = ""
    git: dict[str, Any] = field(default_factory=dict)


@dataclass
class Ending:
    """How the run ended, as far as its files say; ended in seconds since the epoch."""

    state: ExperimentState
    ended: float
    message: str = ""


class OldRun(Protocol):
    """One run of another tool, found on the disk."""

    @property
    def path(self) -> Path:
        """Where it lies."""
        ...

    @property
    def size(self) -> int:
        """Bytes of its record files."""
        ...

    def origin(self) -> Origin:
        """What it says of itself.

        Raises:
            InvalidInput: it cannot be read.
        """
        ...

    def copy(self, stage: Stage) -> Ending:
        """Write all of it into a stage.

        Raises:
            InvalidInput: it cannot be read.
        """
        ...


@dataclass
class Counts:
    """What a source has. left_out: what INCL does not keep, by kind. problems: damage, in words."""

    points: int = 0
    records: int = 0
    media: int = 0
    system: int = 0
    outputs: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def _is_system(name: str) -> bool:
    return name.startswith(SYSTEM_PREFIX)


class StagingStopped(Exception):  # noqa: N818  (no error)
    """Nobody waits for this copy any more."""


class Pen:
    """Writes the records of one writer."""

    def __init__(self, stage: Stage, name: str) -> None:
        self._stage = stage
        self._counts = stage.counts
        self.name = name
        self.records = 0
        self._keys: dict[str, str] = {}
        self._file: BinaryIO | None = None
        if stage.spool is not None:
            self._file = (stage.spool / f"{name}.jsonl").open("wb", buffering=_BUFFER)

    def _write(self, line: bytes) -> None:
        if self._stage.stopped:
            raise StagingStopped
        self.records += 1
        self._counts.records += 1
        if self._file is not None:
            self._file.write(line)

    def scalars(self, time: float, step: int, values: Mapping[str, float]) -> None:
        """One record of numbers (several where there are more than one may hold)."""
        system = sum(map(_is_system, values))
        self._counts.points += len(values) - system
        self._counts.system += system
        if len(values) == 1:
            ((name, value),) = values.items()
            key = self._keys.get(name) or self._keys.setdefault(name, json.dumps(to_key(name)))
            shown = repr(value) if math.isfinite(value) else json.dumps(value)
            self._write(f'{{"k":"m","t":{time!r},"s":{step},"v":{{{key}:{shown}}}}}\n'.encode("ascii"))
            return
        for piece in pieces({to_key(name): value for name, value in values.items()}):
            self._write(encode({"k": "m", "t": time, "s": step, "v": piece}))

    def config(self, time: float, values: Mapping[str, Any]) -> None:
        """Hyper-parameters."""
        self._write(encode({"k": "p", "t": time, "v": to_plain(dict(values))}))

    def alert(self, time: float, title: str, text: str, level: str) -> None:
        """An alert."""
        record = {"k": "a", "t": time, "title": to_text(title, 500), "text": to_text(text), "level": level}
        self._write(encode(record))

    def media(self, time: float, step: int, kind: str, key: str, data: bytes | Path, ending: str) -> None:
        """A file that belongs to a key: its bytes, or where it lies. kind: image, table or text.

        The record is written whether or not the file is there, so that the numbers of the others do not depend on it.
        """
        own = hashlib.sha256(f"{self.name}\x1f{self.records}".encode()).hexdigest()[:24]
        name = safe_name(key, ending)
        target = self._stage.place(own, name)
        if isinstance(data, bytes) or data.is_file():
            self._counts.media += 1
            if target is not None:
                target.parent.mkdir(parents=True)
                if isinstance(data, bytes):
                    target.write_bytes(data)
                else:
                    shutil.copyfile(data, target)
        else:
            self._counts.left_out[f"{kind} whose file is missing"] += 1
        record = {"k": "f", "t": time, "s": step, "kind": kind, "key": to_text(key, 250)}
        self._write(encode({**record, "file": str(target or own), "name": name}))

    def close(self) -> None:
        """Nothing more comes."""
        if self._file is not None:
            self._file.close()


class Stage:
    """A run directory in the making; without a path it only counts."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.spool = path / "spool" if path is not None else None
        self.counts = Counts()
        self.stopped = False
        self._pens: list[Pen] = []
        if self.spool is not None and path is not None:
            for name in ("spool", "outputs"):
                shutil.rmtree(path / name, ignore_errors=True)
                (path / name).mkdir(parents=True)

    def pen(self, *name: str) -> Pen:
        """A new writer, named after the file that it copies; the same names give the same writer."""
        readable = _WORD.sub("", name[0])[:20]
        pen = Pen(self, f"{readable}-{derived_id(*name)[:16]}")
        self._pens.append(pen)
        return pen

    def place(self, own: str, name: str) -> Path | None:
        """Where a file of the spool goes."""
        return None if self.spool is None else (self.spool / "files" / own / name).absolute()

    def output(self, source: Path, name: str) -> None:
        """Keep a file as an output under this relative path."""
        self.counts.outputs += 1
        if self.path is not None:
            target = self.path / "outputs" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    @property
    def written(self) -> dict[str, int]:
        """Records of each writer, as watermarks name them."""
        return {f"metrics/{pen.name}": pen.records for pen in self._pens if pen.records}

    def close(self) -> None:
        """Close the files."""
        for pen in self._pens:
            pen.close()


def run_id(kind: str, project: str, origin: Origin) -> str:
    """The id of an imported run: its time, then a hash of what it is; the same source is the same run of a project."""
    digest = hashlib.sha256("\x1f".join(("import", kind, project, *origin.identity)).encode()).digest()
    moment = min(max(int(origin.started * 1000), 0), _MAX_MS - 1)
    value = moment << 80 | int.from_bytes(digest[:10], "big")
    return "".join("0123456789abcdefghjkmnpqrstvwxyz"[value >> shift & 31] for shift in range(125, -5, -5))


def flat_numbers(values: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries as ('outer/inner', value)."""
    for name, value in values.items():
        key = f"{prefix}/{name}" if prefix else str(name)
        if isinstance(value, dict) and value and depth < 16:
            yield from flat_numbers(value, key, depth + 1)
        else:
            yield key, value


def as_number(value: Any) -> float | int | None:
    """A number as a spool holds it, or none."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        if -EXACT <= value <= EXACT:
            return value
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return value if isinstance(value, float) else None


def as_step(value: Any, default: int = 0) -> int:
    """A step as 64 bits hold it."""
    step = to_step(value)
    return default if step is None else step
