"""The sweep file: YAML to SweepSpec, with the same complaints as the experiment file's (`incl_shared.specfile`).

`experiment:` is an experiment's mapping, or the path of an experiment file (relative to the sweep file's folder). An
experiment file with a mapping `sweep:` is a sweep file too: the search is what stands there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from incl_shared.errors import InvalidInput
from incl_shared.specfile import SWEEP, Override, SpecDocument, load_document, override, validated
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
