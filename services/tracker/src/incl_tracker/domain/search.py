"""Text search in blobs of lines: most blobs are known not to hold a text without a look at their lines."""

from __future__ import annotations

ODD_LETTERS = "ßİŉſǰẖẗẘẙẚẞ\N{KELVIN SIGN}ﬀﬁﬂﬃﬄﬅﬆ"
"""All letters beyond ASCII that are ASCII when folded, at least in part."""


class Needle:
    """A text that is sought with cases folded."""

    def __init__(self, text: str) -> None:
        self._folded = text.casefold()
        self._ascii = self._folded.encode() if self._folded.isascii() else None
        self._odd = [letter.encode() for letter in ODD_LETTERS if not set(letter.casefold()).isdisjoint(self._folded)]

    def is_in(self, line: str) -> bool:
        """Whether a line has it."""
        return self._folded in line.casefold()

    def may_be_in(self, blob: bytes) -> bool:
        """Whether a line of these bytes may have it. False is certain.

        blob: UTF-8 texts, each after bytes of which none can begin a letter that the text goes on with (msgpack).
        """
        if self._ascii is None:
            return self._folded in blob.decode("utf-8", "replace").casefold()
        return self._ascii in blob.lower() or any(letter in blob for letter in self._odd)
