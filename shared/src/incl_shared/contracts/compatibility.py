"""Whether a changed JSON Schema still reads what was written before, and is still read by what reads today.

Allowed: a new optional field, new documentation, a new value of an enumeration, a wider bound.
Not allowed: a field that goes away, becomes required, or changes its type; an enumeration that loses a value.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def breaks(old: Schema, new: Schema) -> list[str]:
    """The reasons why readers would break; none: the change is compatible."""
    return _Comparison(old, new).node(old, new, "$")


class _Comparison:
    """One walk over two schemas side by side; definitions are looked up in each one's own."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old.get("$defs", {})
        self._new = new.get("$defs", {})
        self._seen: set[tuple[str, str]] = set()

    def node(self, old: Schema, new: Schema, where: str) -> list[str]:
        references = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if any(references):
            if references in self._seen:
                return []
            self._seen.add(references)
            old, new = self._follow(old, self._old), self._follow(new, self._new)
        found = self._types(old, new, where) + self._fields(old, new, where)
        for key in ("items", "additionalProperties"):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                found += self.node(old[key], new[key], f"{where}.{key}")
        return found + self._alternatives(old, new, where)

    def _follow(self, schema: Schema, definitions: Schema) -> Schema:
        reference = schema.get("$ref")
        return definitions[reference.rsplit("/", 1)[1]] if reference else schema

    def _types(self, old: Schema, new: Schema, where: str) -> list[str]:
        found = []
        if old.get("type") != new.get("type") and not {"anyOf", "oneOf"} & (set(old) | set(new)):
            found.append(f"{where}: the type was {old.get('type')} and is {new.get('type')}")
        gone = set(map(str, old.get("enum", []))) - set(map(str, new.get("enum", [])))
        if gone and "enum" in new:
            found.append(f"{where}: the values {sorted(gone)} are gone")
        if old.get("const") != new.get("const"):
            found.append(f"{where}: the constant was {old.get('const')} and is {new.get('const')}")
        return found

    def _fields(self, old: Schema, new: Schema, where: str) -> list[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        found = [f"{where}.{name}: the field is gone" for name in before if name not in after]
        required = set(new.get("required", []))
        found += [
            f"{where}.{name}: a new field must be optional" for name in after if name not in before and name in required
        ]
        for name in before:
            if name in after:
                found += self.node(before[name], after[name], f"{where}.{name}")
        return found

    def _alternatives(self, old: Schema, new: Schema, where: str) -> list[str]:
        found = []
        for key in ("anyOf", "oneOf"):
            before, after = self._kinds(old.get(key, []), self._old), self._kinds(new.get(key, []), self._new)
            if key in old and key not in new:
                found.append(f"{where}: the alternatives are gone")
                continue
            for kind in sorted(before):
                if kind not in after:
                    found.append(f"{where}: the alternative {kind} is gone")
                else:
                    found += self.node(before[kind], after[kind], f"{where}|{kind}")
        return found

    def _kinds(self, options: list[Schema], definitions: Schema) -> dict[str, Schema]:
        named = {}
        for option in options:
            target = self._follow(option, definitions)
            named[str(target.get("title") or target.get("type") or sorted(target))] = option
        return named
