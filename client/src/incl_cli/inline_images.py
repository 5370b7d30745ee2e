"""Images inside a terminal: the protocols of kitty and of iTerm2.

Sources: https://sw.kovidgoyal.net/kitty/graphics-protocol/, https://iterm2.com/documentation-images.html
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from incl_cli.output import Output

_CHUNK: Final = 4096
_MOST_BYTES: Final = 1 << 20
_FORMATS: Final = ("WEBP", "PNG", "JPEG", "GIF")


def protocol(out: Output) -> Callable[[bytes], str] | None:
    """What makes an image's bytes into text that draws it here; none where nothing is known to."""
    if not out.out.isatty():
        return None
    program, terminal = os.environ.get("TERM_PROGRAM", ""), os.environ.get("TERM", "")
    if os.environ.get("KITTY_WINDOW_ID") or "kitty" in terminal or program == "ghostty":
        return kitty
    if program in ("iTerm.app", "WezTerm", "mintty"):
        return iterm
    return None


def kitty(data: bytes) -> str:
    """In pieces of 4096 characters, as PNG."""
    text = base64.b64encode(as_png(data)).decode()
    pieces = [text[at : at + _CHUNK] for at in range(0, len(text), _CHUNK)]
    last = len(pieces) - 1
    return "".join(
        f"\x1b_G{'a=T,f=100,' if number == 0 else ''}m={0 if number == last else 1};{piece}\x1b\\"
        for number, piece in enumerate(pieces)
    )


def iterm(data: bytes) -> str:
    """One sequence with all of it, as PNG."""
    png = as_png(data)
    return f"\x1b]1337;File=inline=1;size={len(png)}:{base64.b64encode(png).decode()}\x07"


def as_png(data: bytes) -> bytes:
    """A thumbnail as PNG.

    Raises:
        InclError: it is none.
    """
    import io

    from PIL import Image

    from incl_shared.errors import IntegrityError

    if len(data) > _MOST_BYTES:
        raise IntegrityError("a thumbnail is too large to be one")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if max(image.size) > 1024:
                raise IntegrityError("a thumbnail is too large to be one")
            stream = io.BytesIO()
            image.convert("RGBA").save(stream, "PNG")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise IntegrityError("a thumbnail is no image", cause=str(error)[:200]) from error
    return stream.getvalue()
