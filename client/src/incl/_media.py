"""Images, tables and texts as files: PNG by zlib, CSV by csv, from whatever the script has at hand."""

from __future__ import annotations

import io
import itertools
import os
import struct
from typing import Any, List, Optional, Sequence, Tuple

from incl import _files
from incl._values import to_text
from incl._warn import warn

_PNG = b"\x89PNG\r\n\x1a\n"
_MAGIC = ((_PNG, ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def png(width: int, height: int, channels: int, pixels: bytes) -> bytes:
    """A PNG of 8-bit pixels, row by row. channels: 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA. Source: RFC 2083."""
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = width * channels
    view = memoryview(pixels)
    raw = b"".join(b"\x00" + bytes(view[y * row : (y + 1) * row]) for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    return _PNG + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")


def _array(image: Any) -> Any:
    for method in ("detach", "cpu"):
        if hasattr(image, method):
            image = getattr(image, method)()
    if not hasattr(image, "__array_interface__") and hasattr(image, "numpy"):
        image = image.numpy()
    if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[2] not in (1, 3, 4):
        image = image.transpose(1, 2, 0)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in _COLOURS) or 0 in image.shape:
        raise ValueError(f"an image is height x width, or height x width x 1, 3 or 4, not {tuple(image.shape)}")
    return image


def _bytes_of(image: Any) -> Any:
    """8-bit values: floats count from 0 to 1 (not-a-number is black), booleans are black and white."""
    kind = image.dtype.kind
    if kind == "f":
        image = image.copy()
        image[image != image] = 0  # only not-a-number differs from itself
        return (image.clip(0, 1) * 255 + 0.5).astype("uint8")
    if kind == "b":
        return image.astype("uint8") * 255
    return image.clip(0, 255).astype("uint8")


def image_file(image: Any) -> Tuple[Any, str]:
    """(bytes or path, ending) of an image.

    Raises:
        ValueError, OSError: it is none.
    """
    if isinstance(image, (str, os.PathLike)):
        path = os.fspath(image)
        return path, os.path.splitext(str(path))[1].lower() or ".png"
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
        for magic, ending in _MAGIC:
            if data.startswith(magic):
                return data, ending
        raise ValueError("the bytes are no PNG, JPEG, GIF or WebP")
    if hasattr(image, "savefig"):
        stream = io.BytesIO()
        image.savefig(stream, format="png")
        return stream.getvalue(), ".png"
    if hasattr(image, "save") and hasattr(image, "convert"):
        stream = io.BytesIO()
        image.save(stream, format="PNG")
        return stream.getvalue(), ".png"
    if hasattr(image, "ndim") and hasattr(image, "shape"):
        array = _bytes_of(_array(image))
        channels = array.shape[2] if array.ndim == 3 else 1
        return png(int(array.shape[1]), int(array.shape[0]), channels, array.tobytes()), ".png"
    raise ValueError(f"{type(image).__name__} is no image: give a path, PNG or JPEG bytes, an array, a figure")


def log_image(key: str, image: Any, step: Any = None) -> None:
    """See `incl.log_image`."""
    try:
        data, ending = image_file(image)
    except Exception as error:
        warn("image", f"image {key!r} is dropped: {error}")
        return
    _files.keep("image", str(key), data, _files.safe_name(str(key), ending), step)


def csv_text(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """RFC 4180 text, with a line of names first."""
    import csv

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([to_text(name) for name in columns])
    for row in rows:
        writer.writerow([_cell(value) for value in row])
    return stream.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, (int, float)) else to_text(value)


def table(data: Any, columns: Optional[Sequence[Any]]) -> str:
    """CSV of a data frame (anything with to_csv), a list of dicts, a dict of lists, or rows with column names.

    Raises:
        ValueError: it is no table.
    """
    if hasattr(data, "to_csv"):
        return str(data.to_csv(index=False))
    if hasattr(data, "write_csv"):
        return str(data.write_csv())
    if isinstance(data, dict):
        return csv_text(list(data), list(itertools.zip_longest(*data.values())))
    rows: List[Any] = list(data)
    if rows and all(isinstance(row, dict) for row in rows):
        names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
        return csv_text(names, [[row.get(name) for name in names] for row in rows])
    if columns is None:
        raise ValueError("rows need columns=[…]")
    return csv_text(columns, rows)


def log_table(key: str, data: Any = None, columns: Optional[Sequence[Any]] = None, step: Any = None) -> None:
    """See `incl.log_table`."""
    try:
        text = table(data, columns)
    except Exception as error:
        warn("table", f"table {key!r} is dropped: {error}")
        return
    _files.keep("table", str(key), text.encode("utf-8", "replace"), _files.safe_name(str(key), ".csv"), step)


def log_text(key: str, text: Any, step: Any = None) -> None:
    """See `incl.log_text`."""
    data = to_text(text, 2**31).encode("utf-8", "replace")
    _files.keep("text", str(key), data, _files.safe_name(str(key), ".txt"), step)
