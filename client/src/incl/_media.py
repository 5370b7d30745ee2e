"""Images, tables and texts as files: PNG by zlib, CSV by csv, from whatever the script has at hand."""

from __future__ import annotations

import io
import itertools
import os
import struct
import sys
from typing import Any, List, Optional, Sequence, Tuple, Union

from incl import _files
from incl._values import to_text
from incl._warn import warn

_PNG = b"\x89PNG\r\n\x1a\n"
_MAGIC = ((_PNG, ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"))
_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
_GAP = 2
"""Pixels between the images of a grid."""


def png(width: int, height: int, channels: int, pixels: bytes, filtered: bool = False) -> bytes:
    """A PNG of 8-bit pixels, row by row. channels: 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA. Source: RFC 2083.

    filtered: each row is given as the difference to the one above (filter 2). With that and zlib's run lengths a
    photograph takes half the time and two thirds of the room of zlib's usual level.
    """
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row, mark = width * channels, b"\x02" if filtered else b"\x00"
    view = memoryview(pixels)
    raw = b"".join(piece for y in range(height) for piece in (mark, view[y * row : (y + 1) * row]))
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE if filtered else zlib.Z_DEFAULT_STRATEGY)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    body = packer.compress(raw) + packer.flush()
    return _PNG + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _array(image: Any) -> Any:
    """A numpy array of height x width (x channels), or of several of these. Tensors have their channels first."""
    first = hasattr(image, "detach")
    for method in ("detach", "cpu", "get"):
        if hasattr(image, method):
            image = getattr(image, method)()
    if "bfloat16" in str(image.dtype) and hasattr(image, "float"):
        image = image.float()
    if not hasattr(image, "__array_interface__"):
        image = image.numpy() if hasattr(image, "numpy") else sys.modules["numpy"].asarray(image)
    shape = image.shape
    if image.ndim in (3, 4) and shape[-3] in (1, 3, 4) and (first or shape[-1] not in (1, 3, 4)):
        image = image.swapaxes(-3, -2).swapaxes(-2, -1)
    if image.ndim not in (2, 3, 4) or (image.ndim > 2 and image.shape[-1] not in _COLOURS) or 0 in shape:
        raise ValueError(
            f"an image is height x width, or height x width x 1, 3 or 4, or several of these, not {tuple(shape)}"
        )
    return image


def _bytes_of(image: Any) -> Any:
    """8-bit values. Floats count from 0 to 1, or from 0 to 255 where one is above 2; not-a-number is black. Booleans
    are black and white, of 16 bits the upper ones count."""
    kind = image.dtype.kind
    if kind == "f":
        image = image.astype("float32")  # a copy
        image[image != image] = 0  # only not-a-number differs from itself
        most = 255 if ((image > 2) & (image < float("inf"))).any() else 1
        return (image.clip(0, most) * (255 // most) + 0.5).astype("uint8")
    if kind == "b":
        return image.astype("uint8") * 255
    if kind not in "iu":
        raise ValueError(f"values of type {image.dtype} are no image")
    if str(image.dtype) == "uint16" and image.max() > 255:
        image = image >> 8
    return image.clip(0, 255).astype("uint8")


def _grid(images: Any) -> Any:
    """Several images (number x height x width x channels) as one, as square as it can be."""
    count, height, width, channels = images.shape
    across = next(n for n in itertools.count(1) if n * n >= count)
    down = -(-count // across)
    shape = (down * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP, channels)
    grid = images[0, :1, :1].repeat(shape[0], axis=0).repeat(shape[1], axis=1)
    grid[...] = 0
    for number in range(count):
        y, x = number // across * (height + _GAP), number % across * (width + _GAP)
        grid[y : y + height, x : x + width] = images[number]
    return grid


def _array_png(image: Any) -> bytes:
    array = _bytes_of(_array(image))
    if array.ndim == 4:
        array = _grid(array)
    height, width = int(array.shape[0]), int(array.shape[1])
    rows = array.reshape(height, -1)
    differences = rows.copy()
    differences[1:] -= rows[:-1]
    return png(width, height, array.shape[2] if array.ndim == 3 else 1, differences.tobytes(), filtered=True)


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
    figure: Any = image if hasattr(image, "savefig") else getattr(image, "figure", None)
    if hasattr(figure, "savefig"):
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        return stream.getvalue(), ".png"
    if hasattr(image, "save") and hasattr(image, "convert"):
        stream = io.BytesIO()
        if getattr(image, "mode", "") in ("CMYK", "YCbCr", "LAB", "HSV", "F"):
            image = image.convert("RGB")
        image.save(stream, format="PNG", compress_level=1)
        return stream.getvalue(), ".png"
    if hasattr(image, "ndim") and hasattr(image, "shape"):
        return _array_png(image), ".png"
    if hasattr(image, "to_image") and hasattr(image, "to_html"):
        return image.to_image(format="png"), ".png"
    raise ValueError(f"{type(image).__name__} is no image: give a path, PNG or JPEG bytes, an array, a figure")


def _name(key: str, ending: str, number: Optional[int] = None, count: int = 0) -> str:
    """The file's name: with its place in a list, and the process of its node, so that none takes another's place."""
    place = "" if number is None else f"-{number:0{len(str(count - 1))}d}"
    local = os.environ.get("LOCAL_RANK", "0")
    process = f".p{local}" if local.isdigit() and int(local) else ""
    return _files.safe_name(key, f"{place}{process}{ending}")


def log_image(
    key: str, image: Any, step: Any = None, caption: Union[str, Sequence[Optional[str]], None] = None
) -> None:
    """See `incl.log_image`."""
    several = isinstance(image, (list, tuple))
    images = list(image) if several else [image]
    captions = list(caption) if several and caption is not None and not isinstance(caption, str) else None
    kept: List[_files.Kept] = []
    for number, one in enumerate(images):
        try:
            data, ending = image_file(one)
        except Exception as error:
            warn("image", f"image {key!r} is dropped: {error}")
            continue
        name = _name(str(key), ending, number if several else None, len(images))
        said: Any = caption if captions is None else captions[number] if number < len(captions) else None
        kept.append((data, name, said))
    if kept:
        _files.keep("image", str(key), kept, step)


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
    """CSV of a data frame (anything with to_csv, write_csv or to_pydict), a list of dicts, a dict of lists, named
    tuples, or rows with column names.

    Raises:
        ValueError: it is no table.
    """
    if hasattr(data, "to_csv"):
        return str(data.to_csv(index=False))
    if hasattr(data, "write_csv"):
        return str(data.write_csv())
    if hasattr(data, "to_pydict"):
        data = data.to_pydict()
    if isinstance(data, dict):
        return csv_text(list(data), list(itertools.zip_longest(*data.values())))
    rows: List[Any] = list(data)
    if rows and all(isinstance(row, dict) for row in rows):
        names = list(columns) if columns is not None else list(dict.fromkeys(key for row in rows for key in row))
        return csv_text(names, [[row.get(name) for name in names] for row in rows])
    if columns is None and rows:
        columns = getattr(rows[0], "_fields", None)
    if columns is None:
        raise ValueError("rows need columns=[…]")
    return csv_text(columns, rows)


def log_table(
    key: str,
    data: Any = None,
    columns: Optional[Sequence[Any]] = None,
    step: Any = None,
    caption: Optional[str] = None,
) -> None:
    """See `incl.log_table`."""
    try:
        text = table(data, columns)
    except Exception as error:
        warn("table", f"table {key!r} is dropped: {error}")
        return
    _files.keep("table", str(key), [(text.encode("utf-8", "replace"), _name(str(key), ".csv"), caption)], step)


def log_text(key: str, text: Any, step: Any = None) -> None:
    """See `incl.log_text`."""
    data = to_text(text, 2**31).encode("utf-8", "replace")
    _files.keep("text", str(key), [(data, _name(str(key), ".txt"), None)], step)
