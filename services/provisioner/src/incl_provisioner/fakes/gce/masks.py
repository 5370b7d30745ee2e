"""The header X-Goog-FieldMask: which fields an answer has. `a/b`, `a.b`, `a(b,c)`, `*` for every name."""

from __future__ import annotations

from typing import Any

from incl_provisioner.fakes.gce.problems import ApiError

Tree = dict[str, Any]


def parse(text: str) -> Tree:
    """name -> what of it is wanted; empty: all.

    Raises:
        ApiError: it is no mask.
    """
    tree: Tree = {}
    rest = _fields(text.replace(" ", ""), tree)
    if rest:
        raise _wrong(text)
    return tree


def apply(tree: Tree, value: Any) -> Any:
    """What a mask leaves of a value."""
    if not tree:
        return value
    if isinstance(value, list):
        return [apply(tree, each) for each in value]
    if not isinstance(value, dict):
        return value
    wanted = {name: tree[name] if name in tree else tree["*"] for name in value if name in tree or "*" in tree}
    return {name: apply(below, value[name]) for name, below in wanted.items()}


def _fields(text: str, into: Tree) -> str:
    """Read fields until the text or the group ends; what is left."""
    while True:
        text = _field(text, into)
        if not text.startswith(","):
            return text
        text = text[1:]


def _field(text: str, into: Tree) -> str:
    while True:
        length = next((at for at, letter in enumerate(text) if letter in "/.(),"), len(text))
        name, text = text[:length], text[length:]
        if not name:
            raise _wrong(text)
        into = into.setdefault(name, {})
        if text.startswith("("):
            text = _fields(text[1:], into)
            if not text.startswith(")"):
                raise _wrong(text)
            return text[1:]
        if not text.startswith(("/", ".")):
            return text
        text = text[1:]


def _wrong(text: str) -> ApiError:
    return ApiError(400, "invalidParameter", f"Invalid field selection {text[:80]}")
