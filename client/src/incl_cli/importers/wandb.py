"""W&B's run directories: `wandb/offline-run-*`, each with a `run-*.wandb` file of its records and a folder of files.

Source: the messages of wandb/proto/wandb_internal.proto.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incl_cli.importers import protobuf as pb
from incl_cli.importers.framing import ForeignError, Reading, wandb_records
from incl_cli.importers.staging import Ending, Origin, Pen, Stage, as_number, as_step, flat_numbers
from incl_shared.errors import InvalidInput
from incl_shared.queries.tracker import SYSTEM_PREFIX
from incl_shared.states import ExperimentState

KIND = "wandb"
NO_EXIT = "W&B recorded no end of this run: its process was killed, or goes on"
_BUFFER = 1 << 20
_HISTORY, _SUMMARY, _CONFIG, _STATS, _ALERT, _RUN, _EXIT, _ENVIRONMENT = 2, 3, 5, 7, 10, 17, 18, 26
_OWN = ("_step", "_timestamp", "_runtime", "_wandb")
_HEAD_RECORDS = 50
_MAX_TABLE = 64 << 20
_LEVELS = {"WARN": "warn", "ERROR": "error"}
_INTERRUPTED = 255
_DIRECTORY = re.compile(r"^(?:offline-)?run-\d{8}_\d{6}-")


def find(path: Path) -> list[WandbRun]:
    """The runs at a path: a run's directory, or one that has some in it or in its `wandb`; also a .wandb file."""
    if path.is_file():
        return [WandbRun(path.parent, path)]
    found: dict[Path, WandbRun] = {}
    for folder, folders, names in os.walk(path):
        folders[:] = [one for one in folders if one not in ("files", "logs", "tmp")] if _is_run(folder) else folders
        for name in sorted(names):
            if name.startswith("run-") and name.endswith(".wandb"):
                found[Path(folder)] = WandbRun(Path(folder), Path(folder, name))
    return [found[folder] for folder in sorted(found)]


def _is_run(folder: str) -> bool:
    return _DIRECTORY.match(os.path.basename(folder)) is not None  # noqa: PTH119  (os.walk's own text)


def items(message: bytes, place: int = 1) -> Iterator[tuple[list[str], Any]]:
    """(the path of the key, the value) of each item of a HistoryRecord, SummaryRecord, ConfigRecord or StatsRecord."""
    for number, _, _, item in pb.fields(message):
        if number != place:
            continue
        path: list[str] = []
        value: Any = None
        for inner, _, _, piece in pb.fields(item):
            if inner == 1 and piece:
                path = [pb.text(piece)]
            elif inner == 2:
                path.append(pb.text(piece))
            elif inner == 16:
                try:
                    value = json.loads(piece)
                except (ValueError, RecursionError):
                    value = None
        if path:
            yield path, value


def nested(pairs: Iterable[tuple[list[str], Any]]) -> dict[str, Any]:
    """Items as the nested dictionary that was logged."""
    whole: dict[str, Any] = {}
    for path, value in pairs:
        place = whole
        for name in path[:-1]:
            inner = place.get(name)
            if not isinstance(inner, dict):
                inner = place[name] = {}
            place = inner
        place[path[-1]] = value
    return whole


def timestamp(message: bytes) -> float:
    """A google.protobuf.Timestamp in seconds since the epoch."""
    seconds = nanos = 0
    for number, _, value, _ in pb.fields(message):
        if number == 1:
            seconds = pb.signed(value)
        elif number == 2:
            nanos = pb.signed(value)
    return seconds + nanos / 1e9


@dataclass
class WandbRun:
    """A W&B run directory and its record file."""

    path: Path
    file: Path
    _origin: Origin | None = None
    _time: float = 0.0
    _step: int = 0
    _ending: Ending | None = None
    _kept: set[str] = field(default_factory=set)

    @property
    def size(self) -> int:
        """Bytes of its record file."""
        return self.file.stat().st_size

    def _records(self, reading: Reading) -> Iterator[bytes]:
        try:
            with self.file.open("rb", buffering=_BUFFER) as stream:
                yield from wandb_records(stream, reading)
        except ForeignError as error:
            raise InvalidInput(
                f"{self.file} is not a W&B run", cause=str(error), hint="name other directories, or move it away"
            ) from error
        except OSError as error:
            raise InvalidInput(f"{self.file} cannot be read", cause=error.strerror or str(error)) from error

    def origin(self) -> Origin:
        """See OldRun. The run's id and its time of start tell runs apart, whatever the directory is called."""
        if self._origin is None:
            self._origin = self._read_origin()
        return self._origin

    def _read_origin(self) -> Origin:
        run, environment = b"", b""
        for count, record in enumerate(self._records(Reading())):
            with suppress(pb.BadMessageError):
                run = run or pb.first(record, _RUN)
                environment = environment or pb.first(record, _ENVIRONMENT)
            if (run and environment) or count > _HEAD_RECORDS:
                break
        if not run:
            raise InvalidInput(
                f"{self.file} does not say which run it is", cause="it was killed while it began", hint="leave it out"
            )
        try:
            return self._describe(run, environment)
        except pb.BadMessageError as error:
            raise InvalidInput(f"{self.file} is damaged", cause=str(error)) from error

    def _describe(self, run: bytes, environment: bytes) -> Origin:
        said: dict[int, list[bytes]] = {}
        for number, _, _, piece in pb.fields(run):
            said.setdefault(number, []).append(piece)

        def word(number: int) -> str:
            return pb.text(said[number][-1]) if number in said else ""

        identifier, started = word(1), timestamp(said[17][-1]) if 17 in said else 0.0
        started = started if 0 <= started < 1e11 else 0.0
        about = {"id": identifier, "project": word(3), "group": word(6), "job_type": word(7), "notes": word(9)}
        config = {
            "imported": {"from": str(self.path.absolute()), "tool": KIND},
            "wandb": {name: text for name, text in about.items() if text},
        }
        if 4 in said:
            given = nested(items(said[4][-1]))
            given.pop("_wandb", None)
            config = {**given, **config}
        origin = Origin(
            (identifier, repr(started)),
            word(8) or identifier,
            started,
            tags=tuple(pb.text(tag) for tag in said.get(10, ())),
            config=config,
        )
        self._provenance(origin, environment or b"")
        return origin

    def _provenance(self, origin: Origin, environment: bytes) -> None:
        words: list[str] = []
        program = ""
        for number, _, _, piece in pb.fields(environment):
            if number == 2:
                origin.python = pb.text(piece).removeprefix("CPython ")
            elif number == 5:
                words.append(pb.text(piece))
            elif number == 6:
                program = pb.text(piece)
            elif number == 9:
                origin.git = {"remote": pb.text(pb.first(piece, 1)), "commit": pb.text(pb.first(piece, 2))}
        if not environment:
            program, words = self._metadata(origin)
        origin.command = (program, *words) if program else tuple(words)

    def _metadata(self, origin: Origin) -> tuple[str, list[str]]:
        """Older versions say it in a file."""
        try:
            said = json.loads((self.path / "files" / "wandb-metadata.json").read_bytes())
            git = said.get("git") or {}
            origin.git = {"remote": str(git.get("remote") or ""), "commit": str(git.get("commit") or "")} if git else {}
            origin.python = str(said.get("python") or "").removeprefix("CPython ")
            return str(said.get("program") or ""), [str(word) for word in said.get("args") or ()]
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return "", []

    def copy(self, stage: Stage) -> Ending:
        """See OldRun."""
        origin, reading, pen = self.origin(), Reading(), stage.pen("wandb", self.file.name)
        self._time, self._step, self._ending, self._kept = origin.started, 0, None, set()
        bad = 0
        for record in self._records(reading):
            try:
                self._record(record, pen, stage)
            except (pb.BadMessageError, RecursionError):
                bad += 1
        stage.counts.problems += [f"{self.file}: {problem}" for problem in reading.damaged]
        if reading.torn:
            stage.counts.problems.append(f"{self.file}: it ends within a record (a crash, or it is being written)")
        if bad:
            stage.counts.left_out["records that cannot be read"] += bad
        self._outputs(stage)
        return self._ending or Ending(ExperimentState.FAILED, self._time, NO_EXIT)

    def _record(self, record: bytes, pen: Pen, stage: Stage) -> None:
        for number, wire, _, body in pb.fields(record):
            if wire != pb.BYTES:
                continue
            if number == _HISTORY:
                self._history(body, pen, stage)
            elif number == _SUMMARY:
                self._summary(body, pen)
            elif number == _STATS:
                self._stats(body, pen)
            elif number == _CONFIG:
                config = nested(items(body))
                config.pop("_wandb", None)
                if config:
                    pen.config(self._time, config)
            elif number == _ALERT:
                title, text, level = (pb.text(pb.first(body, place)) for place in (1, 2, 3))
                pen.alert(self._time, title, text, _LEVELS.get(level, "info"))
            elif number == _EXIT:
                self._exit(body)

    def _history(self, body: bytes, pen: Pen, stage: Stage) -> None:
        values = nested(items(body))
        counted = next((inner for number, _, _, piece in pb.fields(body) if number == 2
                        for place, _, inner, _ in pb.fields(piece) if place == 1), 0)  # fmt: skip
        step = as_step(values.get("_step"), pb.signed(counted))
        self._step = step
        time = as_number(values.get("_timestamp"))
        if time is not None and 0 <= time < 1e11:
            self._time = max(self._time, float(time))
        else:
            time = self._time
        for name in _OWN:
            values.pop(name, None)
        numbers: dict[str, float] = {}
        for name, value in list(values.items()):
            self._leaf(name, value, float(time), step, numbers, pen, stage)
        if numbers:
            pen.scalars(float(time), step, numbers)

    def _leaf(
        self, key: str, value: Any, time: float, step: int, numbers: dict[str, float], pen: Pen, stage: Stage
    ) -> None:
        number = as_number(value)
        if number is not None:
            numbers[key] = number
        elif value in ("NaN", "Infinity", "-Infinity"):
            numbers[key] = float(value)
        elif isinstance(value, dict) and "_type" in value:
            self._media(key, value, time, step, pen, stage)
        elif isinstance(value, dict):
            for inner, leaf in value.items():
                self._leaf(f"{key}/{inner}", leaf, time, step, numbers, pen, stage)
        elif value is not None:
            stage.counts.left_out["texts in the history" if isinstance(value, str) else "lists in the history"] += 1

    def _media(self, key: str, value: dict[str, Any], time: float, step: int, pen: Pen, stage: Stage) -> None:
        kind = str(value["_type"])
        if kind == "image-file":
            self._image(key, value.get("path"), time, step, pen, "")
        elif kind in ("images/separated", "images"):
            for place, name in enumerate(value.get("filenames") or ()):
                self._image(key, name, time, step, pen, f"-{place}")
        elif kind == "table-file":
            self._table(key, value.get("path"), time, step, pen)
        else:
            stage.counts.left_out[f"{kind[:40]} (its file is kept as an output)" if "path" in value else kind[:40]] += 1

    def _inside(self, name: Any) -> Path:
        """A file below files/; what leads out of it is taken as missing."""
        root = self.path / "files"
        path = root / str(name)
        try:
            if isinstance(name, str) and "\x00" not in name and path.resolve().is_relative_to(root.resolve()):
                return path
        except OSError:
            pass
        return root / "\x7f missing"

    def _image(self, key: str, name: Any, time: float, step: int, pen: Pen, suffix: str) -> None:
        path = self._inside(name)
        self._kept.add(str(name))
        pen.media(time, step, "image", key, path, suffix + (path.suffix.lower()[:8] or ".png"))

    def _table(self, key: str, name: Any, time: float, step: int, pen: Pen) -> None:
        """As CSV, which every other table here is; the file itself is kept among the outputs."""
        path = self._inside(name)
        try:
            said: Any = json.loads(path.read_bytes()) if path.stat().st_size <= _MAX_TABLE else None
            columns, rows = said["columns"], said["data"]
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_cell(cell) for cell in row] for row in rows)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pen.media(time, step, "table", key, path, ".table.json")
            return
        pen.media(time, step, "table", key, text.getvalue().encode("utf-8", "replace"), ".csv")

    def _summary(self, body: bytes, pen: Pen) -> None:
        """Only what the script set itself: what W&B derives from the history comes with the step that it is of."""
        values = nested(items(body))
        if not values or any(name in values for name in _OWN):
            return
        numbers, texts = {}, {}
        for name, value in flat_numbers(values):
            number = as_number(value)
            if number is not None:
                numbers[name] = number
            elif isinstance(value, str):
                texts[name] = value
        if numbers:
            pen.scalars(self._time, self._step, numbers)
        if texts:
            pen.config(self._time, {"summary": texts})

    def _stats(self, body: bytes, pen: Pen) -> None:
        time = timestamp(pb.first(body, 2))
        if not 0 <= time < 1e11:
            return
        numbers = {}
        for path, value in items(body, 3):
            if not path[0].startswith("_") and (number := as_number(value)) is not None:
                numbers[SYSTEM_PREFIX + "/".join(path)] = number
        if numbers:
            self._time = max(self._time, time)
            pen.scalars(time, max(0, int(time - self.origin().started)), numbers)

    def _exit(self, body: bytes) -> None:
        said = {number: pb.signed(value) for number, _, value, _ in pb.fields(body)}
        code, runtime = said.get(1, 0), said.get(2, 0)
        ended = max(self._time, self.origin().started + max(0, runtime))
        if code == 0:
            self._ending = Ending(ExperimentState.FINISHED, ended)
        elif code == _INTERRUPTED:
            self._ending = Ending(ExperimentState.STOPPED, ended, "interrupted (W&B's exit code 255)")
        else:
            self._ending = Ending(ExperimentState.FAILED, ended, f"exit code {code}")

    def _outputs(self, stage: Stage) -> None:
        root = self.path / "files"
        for folder, _, names in os.walk(root):
            for name in sorted(names):
                path = Path(folder, name)
                listed = path.relative_to(root).as_posix()
                if path.is_file() and not path.is_symlink() and listed not in self._kept:
                    stage.output(path, listed)


def _cell(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else "" if value is None else json.dumps(value)
