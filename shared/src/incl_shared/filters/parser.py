"""Tokens -> tree, by recursive descent.

The grammar::

    filter     = or
    or         = and { "or" and }
    and        = not { "and" not }
    not        = "not" not | "(" or ")" | comparison
    comparison = field operator value | field [ "not" ] "in" "(" value { "," value } ")"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from incl_shared.errors import InvalidInput
from incl_shared.filters.ast import (
    ALIASES,
    COLUMNS,
    EVERYTHING,
    NAMED,
    And,
    Compare,
    Field,
    Filter,
    Kind,
    Not,
    Op,
    Or,
    SortKey,
    Type,
    Value,
)
from incl_shared.filters.lexer import Token, TokenKind, problem, tokens
from incl_shared.filters.values import parse_value

MAX_DEPTH = 40
MAX_LENGTH = 4000
KEYWORDS = frozenset({"and", "or", "not", "in"})
_ORDERED = {Op.LT, Op.LE, Op.GT, Op.GE}
_ALLOWED: dict[Type, set[Op]] = {
    Type.TEXT: {Op.EQ, Op.NE, Op.HAS, Op.IN},
    Type.STATE: {Op.EQ, Op.NE, Op.IN},
    Type.REASON: {Op.EQ, Op.NE, Op.IN},
    Type.NUMBER: {Op.EQ, Op.NE, Op.IN} | _ORDERED,
    Type.TIME: {Op.EQ, Op.NE, Op.IN} | _ORDERED,
    Type.DURATION: {Op.EQ, Op.NE, Op.IN} | _ORDERED,
    Type.MIXED: set(Op),
}


def parse(source: str) -> Filter:
    """The tree of a filter; of an empty text, the filter that everything passes.

    Raises:
        InvalidInput: with the column, the place and, where one is near, what was probably meant.
    """
    if len(source) > MAX_LENGTH:
        raise InvalidInput(f"the filter has {len(source)} characters; at most {MAX_LENGTH} are allowed")
    parser = _Parser(source)
    if parser.peek().kind is TokenKind.END:
        return EVERYTHING
    tree = parser.either()
    parser.finish()
    return tree


def parse_sort(source: str) -> tuple[SortKey, ...]:
    """Keys of an order such as '-val_acc,created'; a leading '-' turns a key round.

    Raises:
        InvalidInput: as for a filter.
    """
    parser = _Parser(source)
    keys: list[SortKey] = []
    while parser.peek().kind is not TokenKind.END:
        keys.append(parser.sort_key())
        if parser.peek().kind is TokenKind.END:
            break
        parser.expect(TokenKind.COMMA, "a comma between two keys")
    if len(keys) > 8:
        raise InvalidInput(f"{len(keys)} keys to sort by; at most 8 are allowed")
    return tuple(keys)


def parse_field(source: str) -> Field:
    """One field, as filters name them: user, val_acc, param.lr, metric.'a name'.

    Raises:
        InvalidInput: as for a filter.
    """
    parser = _Parser(source)
    field = parser.field()
    token = parser.peek()
    if token.kind is not TokenKind.END:
        raise parser.fail(f"expected one field, found {_shown(token)} after it", token, "put quotes around a name")
    return field


class _Parser:
    """A place in a list of tokens."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._tokens = tokens(source)
        self._index = 0
        self._depth = 0

    def peek(self) -> Token:
        return self._tokens[self._index]

    def _take(self) -> Token:
        token = self.peek()
        if token.kind is not TokenKind.END:
            self._index += 1
        return token

    def fail(self, message: str, token: Token, hint: str = "") -> InvalidInput:
        return problem(message, self.source, token.start, hint=hint)

    def expect(self, kind: TokenKind, what: str) -> Token:
        token = self._take()
        if token.kind is not kind:
            raise self.fail(f"expected {what}, found {_shown(token)}", token)
        return token

    def finish(self) -> None:
        token = self.peek()
        if token.kind is TokenKind.END:
            return
        if token.kind is TokenKind.CLOSE:
            raise self.fail("this bracket closes nothing", token)
        hint = "join comparisons with and, or; put quotes around a text with blanks"
        raise self.fail(f"expected and, or, or the end, found {_shown(token)}", token, hint)

    def either(self) -> Filter:
        parts = self._joined("or", self._both)
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _both(self) -> Filter:
        parts = self._joined("and", self._negated)
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _joined(self, keyword: str, part: Callable[[], Filter]) -> list[Filter]:
        parts = [part()]
        while self.peek().word() == keyword:
            self._take()
            parts.append(part())
        return parts

    def _negated(self) -> Filter:
        token = self.peek()
        deeper = token.word() == "not" or token.kind is TokenKind.OPEN
        if not deeper:
            return self._comparison()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self.fail(f"more than {MAX_DEPTH} brackets within one another", token)
        self._take()
        if token.word() == "not":
            inner: Filter = Not(self._negated())
        else:
            inner = self.either()
            self.expect(TokenKind.CLOSE, "a closing bracket")
        self._depth -= 1
        return inner

    def _comparison(self) -> Filter:
        place = self.peek()
        field = self.field()
        token = self._take()
        if token.word() == "not" and self.peek().word() == "in":
            token = self._take()
            return Not(self._among(field, place))
        if token.word() == "in":
            self._check(field, Op.IN, token, place)
            return self._among(field, place)
        if token.kind is not TokenKind.OPERATOR:
            hint = "write a comparison, such as val_acc > 0.9 or status = finished"
            raise self.fail(f"expected an operator after {_shown(place)}, found {_shown(token)}", token, hint)
        op = Op(token.text)
        self._check(field, op, token, place)
        return Compare(field, op, (self._value(field, op, place),))

    def _among(self, field: Field, place: Token) -> Compare:
        self.expect(TokenKind.OPEN, "an opening bracket after in")
        values = [self._value(field, Op.IN, place)]
        while self.peek().kind is TokenKind.COMMA:
            self._take()
            values.append(self._value(field, Op.IN, place))
        self.expect(TokenKind.CLOSE, "a comma or a closing bracket")
        return Compare(field, Op.IN, tuple(values))

    def _check(self, field: Field, op: Op, token: Token, place: Token) -> None:
        allowed = _ALLOWED[field.type]
        if op in allowed:
            return
        names = " ".join(o.value for o in Op if o in allowed)
        raise self.fail(f"{_shown(place)} cannot be compared by {op.value}", token, f"it takes: {names}")

    def _value(self, field: Field, op: Op, place: Token) -> Value:
        token = self._take()
        if token.kind not in (TokenKind.WORD, TokenKind.QUOTED) or token.word() in KEYWORDS:
            raise self.fail(f"expected a value, found {_shown(token)}", token, _value_hint(token))
        value = parse_value(field, op, token, self.source, place)
        if self.peek().word() == "ago" and field.type is Type.TIME:
            self._take()
        return value

    def field(self) -> Field:
        token = self._take()
        if token.kind is TokenKind.QUOTED and token.text:
            return Field(Kind.METRIC, token.text)
        if token.kind is not TokenKind.WORD or token.word() in KEYWORDS:
            raise self.fail(f"expected a field or a metric, found {_shown(token)}", token, _value_hint(token))
        return self._named(token) or _plain(token.text)

    def _named(self, token: Token) -> Field | None:
        head, dot, rest = token.text.partition(".")
        kind = next((k for k in NAMED if head.lower() in (k.value, f"{k.value}s")), None)
        if not dot or kind is None:
            return None
        if rest:
            return Field(kind, rest)
        quoted = self.peek()
        if quoted.kind is TokenKind.QUOTED and quoted.start == token.end and quoted.text:
            return Field(kind, self._take().text)
        raise self.fail(f"expected a name after {token.text!r}", token, f"such as {head}.lr or {head}.'a name'")

    def sort_key(self) -> SortKey:
        token = self.peek()
        descending = token.kind is TokenKind.WORD and token.text.startswith("-")
        if descending:
            rest = Token(token.kind, token.text[1:], token.start + 1, token.end)
            self._tokens[self._index] = rest
            if not rest.text:
                self._index += 1
        place = self.peek()
        field = self.field()
        if field == Field(Kind.COLUMN, "tag"):
            raise self.fail("an experiment has several tags; there is no order by them", place)
        return SortKey(field, descending)


def _plain(text: str) -> Field:
    name = ALIASES.get(text.lower(), text.lower())
    return Field(Kind.COLUMN, name) if name in COLUMNS else Field(Kind.METRIC, text)


def _shown(token: Token) -> str:
    return "the end" if token.kind is TokenKind.END else repr(token.text[:60])


def _value_hint(token: Token) -> str:
    if token.word() in KEYWORDS:
        return f"put quotes around it: '{token.text}'"
    near = difflib.get_close_matches(token.text.lower(), list(COLUMNS), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
