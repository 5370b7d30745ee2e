"""TensorBoard's event files: a directory of them is a run.

Source: the messages Event, Summary and TensorProto of TensorFlow, as tensorboard/compat/proto has them, and the
plugins' own: scalars, images, text, hparams.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incl_cli.importers import protobuf as pb
from incl_cli.importers.framing import ForeignError, Reading, tfrecords
from incl_cli.importers.staging import Ending, Origin, Pen, Stage
from incl_shared.errors import InvalidInput
from incl_shared.states import ExperimentState

KIND = "tensorboard"
UNSAID = "TensorBoard's files do not say how a run ended"
_BUFFER = 1 << 20
_STRING = 7
_DTYPES: dict[int, tuple[str, int]] = {
    1: ("f", 5), 2: ("d", 6), 3: ("i", 7), 4: ("B", 7), 5: ("h", 7), 6: ("b", 7), 9: ("q", 10), 10: ("?", 11),
    14: ("bf", 13), 17: ("H", 7), 19: ("e", 13), 22: ("I", 16), 23: ("Q", 17),
}  # fmt: skip
"""DataType -> (struct code of tensor_content, the field of its repeated values)."""
_ENDINGS = ((b"\x89PNG", ".png"), (b"\xff\xd8", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))


def find(path: Path) -> list[TensorboardRun]:
    """The runs below a directory: every directory with event files is one. A single event file is a run, too."""
    if path.is_file():
        return [TensorboardRun(path.parent, [path], path.resolve().parent.name)]
    found = []
    for folder, _, names in os.walk(path):
        files = [Path(folder, name) for name in names if "tfevents" in name]
        if files:
            relative = Path(folder).relative_to(path).as_posix()
            found.append(TensorboardRun(Path(folder), files, path.resolve().name if relative == "." else relative))
    return sorted(found, key=lambda run: run.name)


def tensor(data: bytes) -> tuple[int, list[float], list[bytes]]:
    """(data type, numbers, strings) of a TensorProto; numbers only of a single element."""
    kind, content, pieces = 0, b"", []
    for number, wire, value, piece in pb.fields(data):
        if number == 1:
            kind = value
        elif number == 4:
            content = piece
        elif number >= 5:
            pieces.append((number, wire, value, piece))
    if kind == _STRING:
        return kind, [], [piece for number, _, _, piece in pieces if number == 8]
    code, place = _DTYPES.get(kind, ("", 0))
    if not code:
        return kind, [], []
    if content:
        return kind, _content(code, content), []
    found: list[float] = []
    for number, wire, value, piece in pieces:
        if number == place and len(found) < 2:
            found += pb.numbers(wire, value, piece, code if code in "df" else "q" if code in "ibhq" else "Q")
    if code in ("e", "bf"):
        found = [x for bits in found for x in _content(code, int(bits).to_bytes(2, "little"))]
    return kind, found, []


def _content(code: str, content: bytes) -> list[float]:
    if code == "bf":
        return [float(struct.unpack("<f", b"\0\0" + content)[0])] if len(content) == 2 else []
    return [float(struct.unpack(f"<{code}", content)[0])] if len(content) == struct.calcsize(code) else []


def hparams(content: bytes) -> tuple[dict[str, Any], int | None]:
    """(hyper-parameters, the status of the session's end) that the content of the plugin hparams has."""
    values: dict[str, Any] = {}
    status = None
    for number, _, _, piece in pb.fields(content):
        if number == 3:
            for inner, _, _, entry in pb.fields(piece):
                if inner == 1:
                    values[pb.text(pb.first(entry, 1))] = _value(pb.first(entry, 2))
        elif number == 4:
            status = next((value for inner, _, value, _ in pb.fields(piece) if inner == 1), 0)
    return values, status


def _value(data: bytes, depth: int = 0) -> Any:
    """A google.protobuf.Value."""
    for number, _, value, piece in pb.fields(data):
        if number == 2:
            return pb.double(piece)
        if number == 3:
            return pb.text(piece)
        if number == 4:
            return bool(value)
        if number == 6 and depth < 16:
            return [_value(item, depth + 1) for inner, _, _, item in pb.fields(piece) if inner == 1]
        if number == 5 and depth < 16:
            entries = [entry for inner, _, _, entry in pb.fields(piece) if inner == 1]
            return {pb.text(pb.first(e, 1)): _value(pb.first(e, 2), depth + 1) for e in entries}
    return None


@dataclass
class _Value:
    """A Summary.Value."""

    tag: str = ""
    simple: float | None = None
    image: bytes | None = None
    tensor: bytes | None = None
    plugin: str = ""
    content: bytes = b""
    other: str = ""


_OTHERS = {3: "histograms of TensorFlow 0", 5: "histograms", 6: "audio"}


def read_value(data: bytes) -> _Value:
    """A Summary.Value of its bytes."""
    found = _Value()
    for number, wire, _, piece in pb.fields(data):
        if number == 1:
            found.tag = pb.text(piece)
        elif number == 2 and wire == pb.FIXED32:
            found.simple = pb.single(piece)
        elif number == 4:
            found.image = piece
        elif number == 8:
            found.tensor = piece
        elif number == 9:
            plugin = pb.first(piece, 1)
            found.plugin, found.content = pb.text(pb.first(plugin, 1)), pb.first(plugin, 2)
        elif number in _OTHERS:
            found.other = _OTHERS[number]
    return found


@dataclass
class TensorboardRun:
    """A directory of event files. name: what the run is called unless told otherwise."""

    path: Path
    files: list[Path]
    name: str
    _heads: dict[Path, tuple[float, bytes]] = field(default_factory=dict)
    _plugins: dict[str, str] = field(default_factory=dict)
    _status: int | None = None
    _last: float = 0.0

    @property
    def size(self) -> int:
        """Bytes of its event files."""
        return sum(file.stat().st_size for file in self.files)

    def origin(self) -> Origin:
        """See OldRun. The first file's name and first record tell runs apart, whatever their directory is called."""
        for file in self.files:
            head = self._head(file)
            if head is not None:
                self._heads[file] = head
        if not self._heads:
            raise InvalidInput(
                f"{self.path} has no readable event file", cause="all of them are empty", hint="leave it out"
            )
        first = min(self._heads, key=lambda file: (self._heads[file][0], file.name))
        started, record = self._heads[first]
        config = {"imported": {"from": str(self.path.absolute()), "tool": KIND}}
        return Origin((first.name, record.hex()), self.name, started, config=config)

    def _head(self, file: Path) -> tuple[float, bytes] | None:
        try:
            with file.open("rb") as stream:
                record = next(tfrecords(stream, Reading()), None)
        except ForeignError as error:
            raise InvalidInput(
                f"{file} is not an event file", cause=str(error), hint="name other directories, or move it away"
            ) from error
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read", cause=error.strerror or str(error)) from error
        if record is None:
            return None
        try:
            time = next((pb.double(piece) for number, _, _, piece in pb.fields(record) if number == 1), 0.0)
        except pb.BadMessageError as error:
            raise InvalidInput(f"{file} is not an event file", cause=str(error)) from error
        return (time if 0 <= time < 1e11 else 0.0), record[:256]

    def copy(self, stage: Stage) -> Ending:
        """See OldRun."""
        if not self._heads:
            self.origin()
        self._plugins.clear()
        self._status, self._last = None, min(time for time, _ in self._heads.values())
        for file in sorted(self._heads, key=lambda one: (self._heads[one][0], one.name)):
            self._file(file, stage)
        failed = self._status == 2
        message = "" if self._status in (1, 2) else UNSAID
        return Ending(ExperimentState.FAILED if failed else ExperimentState.FINISHED, self._last, message)

    def _file(self, file: Path, stage: Stage) -> None:
        pen, reading = stage.pen("tb", file.name), Reading()
        bad = 0
        try:
            with file.open("rb", buffering=_BUFFER) as stream:
                for record in tfrecords(stream, reading):
                    try:
                        self._event(record, pen, stage)
                    except pb.BadMessageError:
                        bad += 1
        except OSError as error:
            raise InvalidInput(f"{file} cannot be read", cause=error.strerror or str(error)) from error
        stage.counts.problems += [f"{file}: {problem}" for problem in reading.damaged]
        if reading.torn:
            stage.counts.problems.append(f"{file}: it ends within a record (a crash, or it is being written)")
        if bad:
            stage.counts.left_out["events that cannot be read"] += bad

    def _event(self, record: bytes, pen: Pen, stage: Stage) -> None:
        time, step, values = 0.0, 0, []
        for number, _, value, piece in pb.fields(record):
            if number == 5:
                values += [inner for place, _, _, inner in pb.fields(piece) if place == 1]
            elif number == 1:
                time = pb.double(piece)
            elif number == 2:
                step = pb.signed(value)
            elif number in (4, 9):
                stage.counts.left_out["graphs"] += 1
        self._last = max(self._last, time if time < 1e11 else 0.0)
        numbers: dict[str, float] = {}
        for data in values:
            value_of = read_value(data)
            if value_of.tag in numbers:
                pen.scalars(time, step, numbers)
                numbers = {}
            if value_of.simple is not None:
                numbers[value_of.tag] = value_of.simple
            else:
                self._other(value_of, time, step, numbers, pen, stage)
        if numbers:
            pen.scalars(time, step, numbers)

    def _other(self, value: _Value, time: float, step: int, numbers: dict[str, float], pen: Pen, stage: Stage) -> None:
        plugin = self._plugin(value)
        if plugin == "hparams":
            config, status = hparams(value.content)
            self._status = self._status if status is None else status
            if config:
                pen.config(time, config)
        elif value.image is not None:
            self._images([pb.first(value.image, 4)], value.tag, time, step, pen)
        elif value.tensor is None:
            stage.counts.left_out[value.other or plugin or "empty values"] += 1
        elif plugin in ("images", "text"):
            strings = tensor(value.tensor)[2]
            if plugin == "images":
                self._images(strings[2:], value.tag, time, step, pen)
            else:
                joined = "\n".join(pb.text(one) for one in strings)
                pen.media(time, step, "text", value.tag.removesuffix("/text_summary"), joined.encode(), ".txt")
        else:
            _, found, _ = tensor(value.tensor) if plugin in ("scalars", "") else (0, [], [])
            if len(found) == 1:
                numbers[value.tag] = found[0]
            else:
                stage.counts.left_out[plugin or "tensors"] += 1

    def _plugin(self, value: _Value) -> str:
        """The plugin of a tag: only its first value need say it."""
        if value.plugin and len(self._plugins) < 100_000:
            self._plugins[value.tag] = value.plugin
        return value.plugin or self._plugins.get(value.tag, "")

    def _images(self, images: Iterable[bytes], tag: str, time: float, step: int, pen: Pen) -> None:
        several = list(images)
        for place, data in enumerate(several):
            ending = next((ending for magic, ending in _ENDINGS if data.startswith(magic)), ".png")
            suffix = f"-{place}" if len(several) > 1 else ""
            pen.media(time, step, "image", tag, data, f"{suffix}{ending}")
