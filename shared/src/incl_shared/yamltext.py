"""YAML with the line of every value: PyYAML's parser, YAML 1.2's plain scalars, and limits.

Duplicate keys are errors; aliases expand at most to a limit ("billion laughs"), and not into themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

MAX_VALUES = 50_000
"""Values in one file, aliases expanded."""
MAX_DEPTH = 40
_INT = re.compile(r"^[-+]?[0-9][0-9_]*$|^0x[0-9a-fA-F]+$|^0o[0-7]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_SPECIAL = re.compile(r"^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = ("", "~", "null", "Null", "NULL")
_STR, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_PLAIN = "!plain"


class YamlProblem(Exception):  # noqa: N818
    """What is wrong with a text, and in which line (from 1; 0: unknown)."""

    def __init__(self, message: str, line: int = 0, *, snippet: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.line, self.snippet, self.hint = message, line, snippet, hint


@dataclass(frozen=True)
class Located:
    """A value (plain, or dict of key -> Located, or list of Located) and its line; a key's line for its value."""

    value: Any
    line: int


_LOADER: Any = type(
    "_Loader",
    (getattr(yaml, "CSafeLoader", yaml.SafeLoader),),
    {"yaml_implicit_resolvers": {"<": [(_MERGE, re.compile(r"^<<$"))], None: [(_PLAIN, re.compile(r""))]}},
)
"""The fastest parser there is. Plain scalars are left alone, so that their text is not lost."""


def read_yaml(text: str, *, verbatim: tuple[str, ...] = ()) -> Located | None:
    """The one document of a text, or none when it is empty.

    verbatim: mappings (env, experiment.env) whose values keep numbers as the text that was written.

    Raises:
        YamlProblem: syntax, duplicate keys, unknown tags, more than one document, too much of anything.
    """
    if (control := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text)) is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise YamlProblem(f"the character U+{ord(control[0]):04X} is not allowed", line)
    try:
        loader = _LOADER(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, text) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise YamlProblem(str(error).splitlines()[0] if str(error) else "nested too deeply") from error
    if node is None:
        return None
    return _Walk(verbatim).value(node, (), node.start_mark.line + 1)


def plain_value(text: str) -> Any:
    """What a YAML scalar or flow collection on one line means: 3, 0.5, true, [a, b], text."""
    located = read_yaml(text)
    return _strip(located) if located is not None else None


def _strip(located: Located) -> Any:
    if isinstance(located.value, dict):
        return {key: _strip(child) for key, child in located.value.items()}
    return [_strip(child) for child in located.value] if isinstance(located.value, list) else located.value


def _syntax(error: yaml.MarkedYAMLError, text: str) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    message = (error.problem or "cannot be read as YAML").strip()
    if error.context:
        message = f"{message} ({error.context})"
    if mark is None:
        return YamlProblem(message)
    lines = text.splitlines()
    snippet = ""
    if mark.line < len(lines):
        start = max(0, mark.column - 60)
        shown = lines[mark.line][start : start + 100].replace("\t", " ")
        snippet = f"{shown}\n{' ' * (mark.column - start)}^"
    tab = "\t" in (lines[mark.line] if mark.line < len(lines) else "")
    return YamlProblem(message, mark.line + 1, snippet=snippet, hint="indent with blanks, not with tabs" if tab else "")


class _Walk:
    """Nodes to values. Counts what aliases expand to, and knows which nodes it is inside of."""

    def __init__(self, verbatim: tuple[str, ...]) -> None:
        self._verbatim = verbatim
        self._count = 0
        self._inside: set[int] = set()

    def value(self, node: yaml.Node, path: tuple[str, ...], line: int) -> Located:
        self._count += 1
        if self._count > MAX_VALUES:
            raise YamlProblem(f"more than {MAX_VALUES} values (aliases count each time)", line)
        if isinstance(node, yaml.ScalarNode):
            return Located(self._scalar(node, path), line)
        if id(node) in self._inside:
            raise YamlProblem("an alias that contains itself", line)
        if len(self._inside) >= MAX_DEPTH:
            raise YamlProblem("nested too deeply", line)
        if node.tag not in (None, _PLAIN, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "!"):
            raise YamlProblem(f"the tag {node.tag[:80]!r} is not allowed", line)
        self._inside.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return Located([self.value(child, path, child.start_mark.line + 1) for child in node.value], line)
            return Located(self._mapping(node, path), line)
        finally:
            self._inside.discard(id(node))

    def _mapping(self, node: yaml.Node, path: tuple[str, ...]) -> dict[str, Located]:
        own: dict[str, Located] = {}
        merged: dict[str, Located] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlProblem("a key must be a word", line)
            if key_node.tag == _MERGE:
                for source in self._sources(value_node, line):
                    merged = {**self._mapping(source, path), **merged}
                continue
            key = key_node.value
            if key in own:
                raise YamlProblem(f"{key[:60]!r} is here twice; the first is in line {own[key].line}", line)
            own[key] = self.value(value_node, (*path, key), line)
        return {**merged, **own}

    def _sources(self, node: yaml.Node, line: int) -> Iterator[yaml.MappingNode]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, yaml.MappingNode) or id(source) in self._inside:
                raise YamlProblem("<< needs a mapping, or a list of mappings", line)
            self._count += len(source.value)
            yield source

    def _scalar(self, node: yaml.ScalarNode, path: tuple[str, ...]) -> Any:
        text = str(node.value)
        if node.tag == _STR or node.style not in (None, "") or node.tag == "!":
            return text
        if node.tag not in (_PLAIN, _MERGE, None):
            raise YamlProblem(f"the tag {node.tag[:80]!r} is not allowed", node.start_mark.line + 1)
        meaning = _plain(text)
        if isinstance(meaning, bool) or meaning is None or isinstance(meaning, str):
            return meaning
        return text if ".".join(path[:-1]) in self._verbatim else meaning


def _plain(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.match(text) and len(text) <= 300:
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text.replace("_", ""))
    if _SPECIAL.match(text):
        return math.nan if "n" in text.lower().replace("inf", "") else float(text.replace(".", ""))
    return float(text) if _FLOAT.match(text) else text
