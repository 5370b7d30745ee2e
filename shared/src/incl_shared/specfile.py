"""The experiment file: YAML to ExperimentSpec, every complaint with its line and what was probably meant.

Read as YAML 1.2 reads scalars: `on`, `yes` and `no` are words, 1e-3 is a number, 1:30 and dates are text. Values under
`env` are taken as they are written, so that 1.10 stays 1.10. Aliases and merge keys work, within limits; a key at the
top that begins with `x-` is the author's own (a place for anchors).
"""

from __future__ import annotations

import difflib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from incl_shared.errors import InvalidInput, NotFoundError
from incl_shared.spec import ExperimentSpec, duration_text, size_text

if TYPE_CHECKING:
    from incl_shared.yamltext import Located

MAX_BYTES = 1024 * 1024
"""The largest experiment file."""
_SHOWN = 20
_HINT = "every key with its meaning: docs/experiment-file.md, or incl schema"
_EXTENSION = "x-"
SWEEP = "sweep"
"""A key of an experiment file that `incl sweep` alone reads."""
_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping (name: value)",
    "model_type": "a mapping (name: value)",
    "model_attributes_type": "a mapping (name: value)",
}
_WRITTEN: dict[tuple[str, ...], Callable[[Any], object]] = {
    ("resources", "memory"): size_text,
    ("max_duration",): duration_text,
    ("checkpoint", "grace"): duration_text,
}
_PREFIX = re.compile(r"^([a-z_]+(?:\.[a-z_]+)*): (.*)$", re.DOTALL)

Path_ = tuple[str | int, ...]
ModelT = typing.TypeVar("ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Override:
    """A value given on the command line: it replaces what the file says, and complaints name its option."""

    path: tuple[str, ...]
    value: object
    label: str


@dataclass
class SpecDocument:
    """An experiment file as read: plain values, and where each of them stands."""

    source: str
    values: dict[str, Any]
    places: dict[Path_, str] = field(default_factory=dict)
    """(key, key, index …) -> 'train.yaml:12' or the option's name."""

    def place(self, path: Path_) -> str:
        """Where a path stands, or the nearest thing around it."""
        for length in range(len(path), -1, -1):
            found = self.places.get(path[:length])
            if found is not None:
                return found
        return self.source


def load_document(path: Path, verbatim: tuple[str, ...] = ("env",)) -> SpecDocument:
    """The document of a file; see `parse_document`.

    Raises:
        NotFoundError: there is no such file.
        InvalidInput: not readable, too large, not YAML, not a mapping; with line and caret where there is one.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", hint="incl run -- COMMAND runs without a file") from None
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}", cause=str(error.strerror or error), hint="name a file that you can read"
        ) from error
    if len(raw) > MAX_BYTES:
        raise InvalidInput(
            f"{path} is larger than {MAX_BYTES // 1024} KiB",
            hint="an experiment file only describes; keep data outside",
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InvalidInput(
            f"{path.name}:{line}: not UTF-8 text", cause=str(error.reason), hint="save it as UTF-8"
        ) from error
    return parse_document(text, path.name, verbatim)


def parse_document(text: str, source: str = "experiment.yaml", verbatim: tuple[str, ...] = ("env",)) -> SpecDocument:
    """The document of a text; `source` names it in complaints. verbatim: mappings whose values stay as written.

    Raises:
        InvalidInput: not YAML, or not a mapping.
    """
    from incl_shared.yamltext import YamlProblem, read_yaml

    try:
        root = read_yaml(text, verbatim=verbatim)
    except YamlProblem as problem:
        place = f"{source}:{problem.line}" if problem.line else source
        raise InvalidInput(
            f"{place}: {problem.message}", cause=problem.snippet, hint=problem.hint or _HINT
        ) from problem
    if root is None:
        return SpecDocument(source, {})
    if not isinstance(root.value, dict):
        raise InvalidInput(
            f"{source}:{root.line}: an experiment file is a mapping (name: value)",
            hint="begin with: command: python train.py",
        )
    document = SpecDocument(source, {})
    document.values = _plain(root, (), document)
    return document


def _plain(located: Located, path: Path_, document: SpecDocument) -> Any:
    document.places[path] = f"{document.source}:{located.line}" if path else document.source
    if isinstance(located.value, dict):
        return {
            key: _plain(child, (*path, key), document)
            for key, child in located.value.items()
            if path or not key.startswith(_EXTENSION)
        }
    if isinstance(located.value, list):
        return [_plain(child, (*path, index), document) for index, child in enumerate(located.value)]
    return located.value


def override(document: SpecDocument, overrides: Iterable[Override]) -> SpecDocument:
    """The document with values from the command line in place of its own.

    Raises:
        InvalidInput: a path leads through something that is not a mapping.
    """
    values = dict(document.values)
    places = dict(document.places)
    for item in overrides:
        at: dict[str, Any] = values
        for depth, key in enumerate(item.path[:-1]):
            child = at.get(key, {})
            if not isinstance(child, Mapping):
                raise InvalidInput(f"{item.label}: {'.'.join(item.path[: depth + 1])} is not a mapping", hint=_HINT)
            at[key] = dict(child)
            at = at[key]
        at[item.path[-1]] = item.value
        for stale in [place for place in places if place[: len(item.path)] == item.path]:
            del places[stale]
        places[item.path] = item.label
    return SpecDocument(document.source, values, places)


def validate(document: SpecDocument) -> ExperimentSpec:
    """The spec of a document.

    Raises:
        InvalidInput: the message has a line for each problem, `train.yaml:12: unknown key 'resorces'`.
    """
    values = {key: value for key, value in document.values.items() if key != SWEEP}
    return validated(SpecDocument(document.source, values, document.places), ExperimentSpec)


def validated(document: SpecDocument, model: type[ModelT], hint: str = _HINT) -> ModelT:
    """The same for any model. hint: where its keys are told of."""
    try:
        return model.model_validate(document.values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        within = {detail["loc"][:length] for detail in details for length in range(len(detail["loc"]))}
        counted = [one for one in details if one["type"] != "too_short" or one["loc"] not in within]
        problems = _unique(_problem(document, detail, model) for detail in counted)
    problems.sort(key=lambda problem: problem.order)
    if len(problems) == 1:
        raise InvalidInput(problems[0].text, hint=problems[0].hint or hint)
    lines = [problem.text + (f" ({problem.hint})" if problem.hint else "") for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"… and {len(problems) - _SHOWN} more")
    raise InvalidInput("\n".join(lines), hint=hint)


def read_spec(path: Path, overrides: Iterable[Override] = ()) -> ExperimentSpec:
    """The spec of a file with overrides: load_document, override and validate at once."""
    return validate(override(load_document(path), overrides))


def spec_text(spec: ExperimentSpec) -> str:
    """The file of a spec: what differs from the defaults, sizes and durations as people write them.

    `validate(parse_document(…))` makes the same spec of it.
    """
    import yaml

    return yaml.safe_dump(spec_values(spec, defaults=False), sort_keys=False, allow_unicode=True)


def spec_values(spec: ExperimentSpec, *, defaults: bool = True) -> dict[str, Any]:
    """What stands in the file of a spec, with the defaults or without, sizes and durations as people write them."""
    values = spec.model_dump(mode="json", exclude_defaults=not defaults)
    for path, written in _WRITTEN.items():
        at: Any = values
        for key in path[:-1]:
            at = at.get(key, {})
        if at.get(path[-1]) is not None:
            at[path[-1]] = written(at[path[-1]])
    return values


@dataclass(frozen=True)
class _Problem:
    text: str
    hint: str
    order: tuple[str, int]


def _unique(problems: Iterable[_Problem]) -> list[_Problem]:
    return list({problem.text: problem for problem in problems}.values())


def _problem(document: SpecDocument, detail: Any, model: type[BaseModel]) -> _Problem:
    path: Path_ = tuple(part for part in detail["loc"] if part != "[key]")
    kind, hint = str(detail["type"]), ""
    if kind == "extra_forbidden":
        key = str(path[-1])
        text, hint = f"unknown key {_quoted(key)}", _did_you_mean(key, _keys(path[:-1], model), path[:-1])
    elif kind == "missing":
        text, hint = _missing(path)
    else:
        path, text, hint = _complaint(path, kind, detail)
        named = (*path, text.partition(": ")[2].partition(" ")[0].rstrip(":"))
        path = named if named in document.places else path
    place = document.place(path)
    file, _, line = place.rpartition(":")
    order = (file, int(line)) if line.isdigit() else (place, 0)
    return _Problem(f"{place}: {text}", hint, order)


def _missing(path: Path_) -> tuple[str, str]:
    if path == ("command",):
        return "there is no command", "add a line: command: python train.py"
    parent = ".".join(str(part) for part in path[:-1])
    return f"{_quoted(str(path[-1]))} is missing" + (f" in {parent}" if parent else ""), ""


def _complaint(path: Path_, kind: str, detail: Any) -> tuple[Path_, str, str]:
    message, found, hint = str(detail["msg"]), detail.get("input"), ""
    if kind == "value_error":
        message = str(detail.get("ctx", {}).get("error", message))
        named = _PREFIX.match(message)
        if not path and named is not None:
            return tuple(named[1].split(".")), f"{named[1]}: {named[2]}", ""
    elif kind in _TYPES:
        expected = "text or a list of words" if path == ("command",) else _TYPES[kind]
        message = f"expected {expected}, found {_found(found)}"
        if kind == "string_type" and isinstance(found, bool | int | float):
            message += "; put it in quotes"
    elif kind in ("enum", "literal_error"):
        expected = str(detail["ctx"]["expected"])
        message = f"expected one of {expected}, found {_found(found)}"
        close = difflib.get_close_matches(str(found), re.findall(r"'([^']*)'", expected), n=1)
        hint = f"did you mean {close[0]!r}?" if close else ""
    elif kind in ("string_too_long", "too_long"):
        message = f"is too long: {_length(found, detail)}, at most {_limit(detail)} allowed"
    elif kind == "string_pattern_mismatch":
        message = f"{_found(found)} has characters that are not allowed here (must match {detail['ctx']['pattern']})"
    elif kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        message = f"{message[0].lower()}{message[1:].replace('input ', '')}, found {_found(found)}"
    name = ".".join(str(part) for part in path)
    return path, f"{name}: {message}" if name else message, hint


def _limit(detail: Any) -> object:
    return detail["ctx"].get("max_length", "?")


def _length(found: object, detail: Any) -> str:
    count = len(found) if isinstance(found, str | list | dict | tuple) else detail["ctx"].get("actual_length", "?")
    return f"{count} {'characters' if isinstance(found, str) else 'entries'}"


def _found(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the number {value}" if isinstance(value, int | float) else _quoted(str(value))


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def _did_you_mean(key: str, known: list[str], parent: Path_) -> str:
    close = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if not known:
        return ""
    where = f"{'.'.join(str(part) for part in parent)} has" if parent else "the file has"
    return f"{where} the keys {', '.join(known)}"


def _keys(path: Path_, model: Any) -> list[str]:
    """The keys that a mapping at a path of a model may have."""
    named = False
    for part in path:
        if isinstance(part, int) or named:
            named = False
            continue
        known = model.model_fields.get(part) if model is not None else None
        named = known is not None and typing.get_origin(known.annotation) is dict
        model = _model_in(known.annotation) if known is not None else None
    return sorted(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part)) is not None), None)


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema of the experiment file, for editors. What `incl schema` prints.

    Broader than the model's own where the file is: sizes, durations and shorthands may be text.
    """
    schema = ExperimentSpec.model_json_schema(mode="validation")
    keys, parts = schema["properties"], schema["$defs"]
    for at in (
        parts["Resources"]["properties"]["memory"],
        keys["max_duration"],
        parts["Checkpoint"]["properties"]["grace"],
    ):
        _or_text(at)
    command = keys["command"]
    words = {key: command.pop(key) for key in ("type", "items", "minItems", "maxItems") if key in command}
    command["anyOf"] = [words, {"type": "string", "minLength": 1}]
    command["description"] = "What to run: a list of words, or text for `sh -c`."
    keys["env"]["additionalProperties"] = {"type": ["string", "number", "boolean"]}
    keys["checkpoint"] = {
        "anyOf": [{"$ref": "#/$defs/Checkpoint"}, {"$ref": "#/$defs/CheckpointPolicy"}],
        "description": "How checkpoints are kept: all, latest, best, none, or a mapping.",
    }
    keys[SWEEP] = {"type": "object", "description": "Its search, for incl sweep: a sweep file without experiment."}
    schema["patternProperties"] = {"^x-": {}}
    schema.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "INCL experiment"})
    return schema


def _or_text(schema: dict[str, Any]) -> None:
    kept = {key: schema.pop(key) for key in list(schema) if key not in ("description", "default", "title")}
    choices = kept.get("anyOf", [kept])
    schema["anyOf"] = [{"type": "string", "minLength": 1}, *choices]


def schema_text() -> str:
    """The schema as it lies in contracts/experiment.schema.json."""
    return json.dumps(experiment_schema(), indent=2, sort_keys=True) + "\n"
