"""Text search in blobs of lines: most blobs are known not to hold a text without a look at their lines."""

from __future__ import annotations

import re

ODD_LETTERS = "ßİŉſǰẖẗẘẙẚẞ\N{KELVIN SIGN}ﬀﬁﬂﬃﬄﬅﬆ"
"""All letters beyond ASCII that are ASCII when folded, at least in part."""
_ASCII = bytes(range(128))


class Needle:
    """A text that is sought with cases folded."""

    def __init__(self, text: str) -> None:
        self._folded = text.casefold()
        self._whole = self._folded.isascii()
        self._run = max(re.findall(r"[\x00-\x7f]*", self._folded), key=len).encode()
        odd = [letter for letter in ODD_LETTERS if not set(letter.casefold()).isdisjoint(self._run.decode())]
        self._odd = [letter.encode() for letter in odd]

    def is_in(self, line: str) -> bool:
        """Whether a line has it."""
        return self._folded in line.casefold()

    def may_be_in(self, blob: bytes) -> bool:
        """Whether a line of these bytes may have it. False is certain.

        blob: UTF-8 texts, each after bytes of which none can begin a letter that the text goes on with (msgpack).
        """
        if self._run not in blob.lower() and not self._has_odd(blob):
            return False
        return self._whole or self._folded in blob.decode("utf-8", "replace").casefold()

    def _has_odd(self, blob: bytes) -> bool:
        """Whether a letter that is ASCII when folded may be there; bytes beyond ASCII are few."""
        if not self._odd:
            return False
        rest = blob.translate(None, _ASCII)
        return any(letter in rest for letter in self._odd)
