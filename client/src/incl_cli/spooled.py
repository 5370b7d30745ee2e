"""The files that wait in a run's spool for their upload, each told of once, wherever the run lies by now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from incl_shared.telemetry import SpooledFile, spooled_file
from incl_shared.telemetry.records import loads

_KEPT_IN = "files"
_MARKS = (b'{"k":"c"', b'{"k":"f"', b'{"k":"v"')
_PIECE = 1 << 20


@dataclass
class _Place:
    """How far a writer is read: bytes, and lines."""

    offset: int = 0
    lines: int = 0


class SpooledFiles:
    """Reads on where it was, so that a long run is not read again and again."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool.resolve()
        self._at: dict[str, _Place] = {}

    def new(self) -> list[SpooledFile]:
        """Those whose records were written since the last call, oldest first of each writer."""
        found = []
        for path in sorted(self._spool.glob("*.jsonl")):
            if path.is_file() and not path.is_symlink():
                place = self._at.setdefault(path.stem, _Place())
                for number, line in _lines(path, place):
                    file = spooled_file(self._spool, path.stem, number, line)
                    file = file or moved_file(self._spool, path.stem, number, line)
                    found += [file] if file is not None else []
        return found


def _lines(path: Path, place: _Place) -> Iterator[tuple[int, bytes]]:
    """(number, text) of the complete lines after a place that speak of files; the place goes on with them.

    A line that is longer than a piece is none of ours, and is passed by.
    """
    try:
        stream = path.open("rb")
    except OSError:
        return
    with stream:
        stream.seek(place.offset)
        whole = True
        while piece := stream.readline(_PIECE):
            ends = piece.endswith(b"\n")
            if not ends and len(piece) < _PIECE:
                return
            place.offset += len(piece)
            if ends:
                place.lines += 1
                if whole and piece.startswith(_MARKS):
                    yield place.lines, piece[:-1]
            whole = ends


def moved_file(spool: Path, writer: str, sequence: int, line: bytes) -> SpooledFile | None:
    """The file that a line speaks of, where the whole directory of the run was moved or copied: records name it by its
    absolute path, and it lies in `files/<its own folder>/<name>` of the (resolved) spool."""
    record = loads(line)
    name = record.get("file") if record is not None else None
    if record is None or not isinstance(name, str) or "\x00" in name:
        return None
    parts = PurePosixPath(name.replace("\\", "/")).parts[-3:]
    if len(parts) < 3 or parts[0] != _KEPT_IN or ".." in parts:
        return None
    path = spool.joinpath(*parts)
    try:
        inside = path.resolve().is_relative_to(spool)
    except (OSError, RuntimeError):
        return None
    return SpooledFile(writer, sequence, record, path) if inside and path.exists() else None
