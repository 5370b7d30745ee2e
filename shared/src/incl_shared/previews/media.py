"""From a record of the spool to what the artifact store lists of it: key, caption, type, thumbnail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from incl_shared.errors import InvalidInput
from incl_shared.events.experiments import Medium, Thumbnail
from incl_shared.previews.maker import Kind, Preview, PreviewMaker

_log = logging.getLogger("incl.previews")

Put = Callable[[Path], Awaitable[tuple[str, int]]]
"""Stores the bytes of a file; their sha256 and number."""


@dataclass(frozen=True, slots=True)
class Described:
    """A file of a record: what it is called, and its own blob."""

    sha256: str
    size: int


async def describe(
    maker: PreviewMaker, record: Mapping[str, Any], source: int | Path, blob: Described, put: Put, folder: Path
) -> Medium | None:
    """What is listed of a medium; none when the record is of no medium (a checkpoint).

    Args:
        source: a descriptor of the file, or its path.
        blob: of the file itself, which is stored already.
        folder: for the thumbnail's bytes, while they are on their way.

    Raises:
        InclError: the thumbnail could not be stored, as whatever else is stored. That none could be made is no error.
    """
    if record.get("k") != "f":
        return None
    kind = _type_of(record)
    thumbnail = None
    if kind in ("image", "table"):
        preview = await _preview(maker, "image" if kind == "image" else "table", source)
        if preview is not None:
            thumbnail = await _stored(preview, blob, put, folder)
    key, caption = _text(record.get("key"), 250), _text(record.get("caption"), 1000)
    return Medium(type=kind, key=key or kind, caption=caption, thumbnail=thumbnail)


async def _preview(maker: PreviewMaker, kind: Kind, source: int | Path) -> Preview | None:
    if isinstance(source, int):
        return await maker.of(kind, source)
    try:
        descriptor = await asyncio.to_thread(os.open, source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return await maker.of(kind, descriptor)
    finally:
        os.close(descriptor)


async def _stored(preview: Preview, blob: Described, put: Put, folder: Path) -> Thumbnail | None:
    facts = {"width": preview.width, "height": preview.height, "rows": preview.rows, "columns": preview.columns}
    if preview.data is None:
        sha256, size = blob.sha256, blob.size
    else:
        file = folder / f".thumbnail-{os.getpid()}-{os.urandom(6).hex()}"
        try:
            await asyncio.to_thread(file.write_bytes, preview.data)
            sha256, size = await put(file)
        except (OSError, InvalidInput) as error:
            _log.warning("a thumbnail is left out: %s", error)
            return None
        finally:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
    return Thumbnail.model_validate({"sha256": sha256, "size": size, "format": preview.format, **facts})


def _type_of(record: Mapping[str, Any]) -> Literal["image", "table", "text", "file"]:
    kind = record.get("kind")
    return kind if kind in ("image", "table", "text") else "file"


def _text(value: object, most: int) -> str:
    text = value if isinstance(value, str) else ""
    return text.encode("utf-8", "replace").decode()[:most]
