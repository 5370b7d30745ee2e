"""The sweep file: YAML to SweepSpec, with the same complaints as the experiment file's (`incl_shared.specfile`).

`experiment:` is an experiment's mapping, or the path of an experiment file (relative to the sweep file's folder). An
experiment file with a mapping `sweep:` is a sweep file too: the search is what stands there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from incl_shared.errors import InvalidInput
from incl_shared.specfile import SWEEP, Override, SpecDocument, experiment_schema, load_document, override, validated
from incl_shared.sweep import SweepSpec

HINT = "every key with its meaning: docs/sweeps.md"
_VERBATIM = ("experiment.env", "env")


def load_sweep(path: Path) -> SpecDocument:
    """The document of a sweep file, with the experiment file that it names in its place.

    Raises:
        NotFoundError: there is no such file, or it names one that there is not.
        InvalidInput: not readable, not YAML, not a mapping.
    """
    document = _unfolded(load_document(path, _VERBATIM))
    named = document.values.get("experiment")
    if not isinstance(named, str):
        if "experiment" not in document.values and "command" in document.values:
            raise InvalidInput(
                f"{document.place(('command',))}: a sweep file has its command below experiment, an experiment file "
                "its search below sweep",
                hint=HINT,
            )
        return document
    inner = load_document(path.parent / Path(named).expanduser())
    values = {**document.values, "experiment": {key: inner.values[key] for key in inner.values if key != SWEEP}}
    places = document.places | {("experiment", *at): place for at, place in inner.places.items()}
    return SpecDocument(document.source, values, places)


def _unfolded(document: SpecDocument) -> SpecDocument:
    """An experiment file with its search below `sweep:` as a sweep file."""
    values = document.values
    search = values.get(SWEEP)
    if not isinstance(search, dict) or "experiment" in values:
        return document
    experiment = {key: value for key, value in values.items() if key != SWEEP}
    shared: dict[str, Any] = {key: values[key] for key in ("name", "project") if key in values and key not in search}
    places = {
        at[1:] if at[:1] == (SWEEP,) else ("experiment", *at): place for at, place in document.places.items() if at
    }
    places |= {(key,): document.place((key,)) for key in shared}
    return SpecDocument(document.source, {**shared, **search, "experiment": experiment}, places)


def experiment_folder(path: Path) -> Path:
    """The folder that relative paths of the experiment start from: that of its own file."""
    named = load_document(path, _VERBATIM).values.get("experiment")
    return (path.parent / Path(named).expanduser()).parent if isinstance(named, str) else path.parent


def validate_sweep(document: SpecDocument, changes: Iterable[Override] = ()) -> SweepSpec:
    """The sweep of a document.

    Raises:
        InvalidInput: a line for each problem, `sweep.yaml:12: unknown key 'paralel'`.
    """
    return validated(override(document, changes), SweepSpec, HINT)


def sweep_text(spec: SweepSpec) -> str:
    """The file of a sweep: what differs from the defaults."""
    values: dict[str, Any] = spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def sweep_schema() -> dict[str, Any]:
    """The JSON Schema of the sweep file, for editors. What `incl sweep schema` prints.

    Broader than the model's own where the file is: the shorthands, an experiment by its path, and none at all, as
    `incl run train.yaml --sweep FILE` gives it.
    """
    schema, inner = SweepSpec.model_json_schema(mode="validation"), experiment_schema()
    keys, parts = schema["properties"], schema["$defs"]
    parts |= inner.pop("$defs")
    parts["ExperimentSpec"] = {key: value for key, value in inner.items() if key != "$schema"}
    _or(keys, "experiment", {"type": "string", "minLength": 1})
    _or(keys, "objective", {"$ref": "#/$defs/Objective"})
    _or(keys, "algorithm", parts["Algorithm"]["properties"]["name"])
    _or(keys, "early_stopping", {"$ref": "#/$defs/Stopper"})
    _or(keys["parameters"], "additionalProperties", parts["SweepParameter"]["properties"]["choices"])
    when = parts["SweepParameter"]["properties"]["when"]
    _or(when, "additionalProperties", when["additionalProperties"]["items"])
    schema["required"].remove("experiment")
    schema["patternProperties"] = {"^x-": {}}
    schema.update({"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "INCL sweep"})
    return schema


def _or(within: dict[str, Any], key: str, other: dict[str, Any]) -> None:
    kept = within[key]
    said = {name: kept.pop(name) for name in ("description", "default", "title") if name in kept}
    plain = {name: value for name, value in other.items() if name not in ("description", "default", "title")}
    within[key] = {"anyOf": [kept, plain], **said}


def sweep_schema_text() -> str:
    """The schema as it lies in contracts/sweep.schema.json."""
    return json.dumps(sweep_schema(), indent=2, sort_keys=True) + "\n"
