"""A small picture of an image. Runs in the worker process only: what it is given was written by somebody's job."""

from __future__ import annotations

import io
import warnings
from typing import IO, Any, Final

MAX_SIDE: Final = 256
"""Pixels of the longer side of a thumbnail."""
MAX_PIXELS: Final = 50_000_000
"""Pixels of an image that is decoded: at four bytes each what the worker's memory holds several times."""
_SMALL_BYTES: Final = 6_000
_QUALITIES: Final = (75, 50, 25)
_MOST_BYTES: Final = 16_000
_FORMATS: Final = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_SHOWN_AS_IS: Final = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp"}


def thumbnail(source: IO[bytes]) -> dict[str, Any]:
    """format, width and height of the image, and data (bytes of the thumbnail); without data: it is its own thumbnail.

    Raises:
        Exception: whatever the decoder says.
    """
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    with Image.open(source, formats=_FORMATS) as image:
        kind, (width, height) = image.format or "", image.size
        orientation = image.getexif().get(0x0112, 1)
        image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))
        image.load()
        if orientation in (5, 6, 7, 8):
            width, height = height, width
        about = {"width": width, "height": height}
        if size <= _SMALL_BYTES and max(width, height) <= MAX_SIDE and kind in _SHOWN_AS_IS:
            return about | {"format": _SHOWN_AS_IS[kind]}
        small = _eight_bit(image)
        small.thumbnail((MAX_SIDE, MAX_SIDE), reducing_gap=2.0)
        small = ImageOps.exif_transpose(small)
    return about | {"format": "webp", "data": _encoded(small)}


def _eight_bit(image: Any) -> Any:
    """As a mode that WebP has: RGB, or RGBA where something shines through."""
    if image.mode.startswith("I"):
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    clear = image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if clear else "RGB")


def _encoded(image: Any) -> bytes:
    """WebP of a few KB: what has much detail is kept more coarsely."""
    data = b""
    for quality in _QUALITIES:
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=quality, method=3)
        data = stream.getvalue()
        if len(data) <= _MOST_BYTES:
            break
    return data
