"""Text -> tokens. Nearly anything that is no operator, comma, bracket, quote or blank is part of a word."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from incl_shared.errors import InvalidInput

QUOTES = "\"'`"
_SIGNS = "=!<>~"
_SINGLE = frozenset("(),")
_OPERATORS = ("<=", ">=", "!=", "==", "=", "<", ">", "~")


class TokenKind(Enum):
    """What a token is."""

    WORD = auto()
    QUOTED = auto()
    OPERATOR = auto()
    OPEN = auto()
    CLOSE = auto()
    COMMA = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it lies: columns from 0, end excluded."""

    kind: TokenKind
    text: str
    start: int
    end: int

    def word(self) -> str:
        """The token as a keyword; nothing when it is quoted."""
        return self.text.lower() if self.kind is TokenKind.WORD else ""


def problem(message: str, source: str, column: int, *, hint: str = "") -> InvalidInput:
    """An error that shows the place: the part of the text around it, and a caret below."""
    begin = max(0, column - 50)
    shown = source[begin : begin + 100].replace("\n", " ").replace("\t", " ")
    lead = "…" if begin else ""
    caret = " " * (len(lead) + column - begin) + "^"
    cause = f"column {column + 1}:\n  {lead}{shown}\n  {caret}"
    return InvalidInput(message, cause=cause, hint=hint or "see `incl ls --help` for the grammar")


def tokens(source: str) -> list[Token]:
    """All tokens, the last one being END.

    Raises:
        InvalidInput: at an open quote or a sign that means nothing.
    """
    found: list[Token] = []
    position = 0
    while position < len(source):
        if source[position].isspace():
            position += 1
            continue
        token = _next(source, position)
        found.append(token)
        position = token.end
    found.append(Token(TokenKind.END, "", len(source), len(source)))
    return found


def _next(source: str, start: int) -> Token:
    sign = source[start]
    if sign in _SINGLE:
        kind = {"(": TokenKind.OPEN, ")": TokenKind.CLOSE, ",": TokenKind.COMMA}[sign]
        return Token(kind, sign, start, start + 1)
    if sign in QUOTES:
        return _quoted(source, start)
    if sign in _SIGNS:
        for operator in _OPERATORS:
            if source.startswith(operator, start):
                return Token(TokenKind.OPERATOR, "=" if operator == "==" else operator, start, start + len(operator))
        raise problem(f"{sign!r} means nothing here", source, start, hint="operators: = != < <= > >= ~ in")
    end = start
    while end < len(source) and not source[end].isspace() and source[end] not in "(),=!<>~" + QUOTES:
        end += 1
    return Token(TokenKind.WORD, source[start:end], start, end)


def _quoted(source: str, start: int) -> Token:
    quote, text, position = source[start], [], start + 1
    while position < len(source):
        sign = source[position]
        if sign == "\\" and position + 1 < len(source) and source[position + 1] in (quote, "\\"):
            text.append(source[position + 1])
            position += 2
        elif sign == quote:
            return Token(TokenKind.QUOTED, "".join(text), start, position + 1)
        else:
            text.append(sign)
            position += 1
    raise problem("a quote is not closed", source, start, hint=f"end the text with {quote}")
