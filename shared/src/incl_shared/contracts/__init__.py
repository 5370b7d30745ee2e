"""The frozen contracts: a JSON Schema and a golden example for each message that crosses the bus.

`python -m incl_shared.contracts` writes what is new and refuses a change that breaks a reader of the old form:
such a change is a new version (a class with version = 2) beside the old one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from incl_shared.contracts.compatibility import breaks
from incl_shared.control import NodeWanted
from incl_shared.events import REGISTER
from incl_shared.queries import QUERIES, gateway, hpo, provisioner, registry, stuck, tracker
from incl_shared.queries import models as model_queries
from incl_shared.reports import Report

FOLDER = Path(__file__).parent
_MODULES = (gateway, hpo, model_queries, provisioner, registry, stuck, tracker)


def models() -> dict[str, type[BaseModel]]:
    """Every frozen message by the name of its file, without the ending."""
    assert all(_MODULES)
    frozen: dict[str, type[BaseModel]] = {name: event for name, event in REGISTER.items() if ours(event)}
    frozen["NodeWanted.v1"] = NodeWanted
    frozen["Report.v1"] = Report
    for (service, name), question in QUERIES.items():
        if not ours(question):
            continue
        frozen[f"query.{service}.{name}.v1"] = question
        frozen[f"answer.{question.answer.__name__}.v1"] = question.answer
    return frozen


def ours(model: type[BaseModel]) -> bool:
    """Tests make messages of their own, which are no contract."""
    return model.__module__.startswith("incl_shared.")


def schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON Schema in a form that does not change from run to run."""
    text = json.dumps(model.model_json_schema(mode="serialization"), sort_keys=True)
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def path(name: str) -> Path:
    """The file of a contract."""
    return FOLDER / f"{name}.json"


def golden_path(name: str) -> Path:
    """The file of a golden example."""
    return FOLDER / "golden" / f"{name}.json"


def frozen_schema(name: str) -> dict[str, Any] | None:
    """What the file says, or None where there is no file yet."""
    file = path(name)
    if not file.exists():
        return None
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def problems() -> list[str]:
    """What is wrong: a model and its file differ, a file has no model, or a change breaks readers."""
    found = []
    current = models()
    for name, model in sorted(current.items()):
        old, new = frozen_schema(name), schema(model)
        if old is None:
            found.append(f"{name}: not frozen yet; run `make contracts`")
        elif old != new:
            found.extend(f"{name}: {reason}" for reason in breaks(old, new))
            found.append(f"{name}: model and file differ; run `make contracts`")
    known = {path(name).name for name in current} | {"experiment.schema.json", "sweep.schema.json"}
    found.extend(f"{file.name}: no such message any more" for file in FOLDER.glob("*.json") if file.name not in known)
    return found


def freeze() -> list[str]:
    """Write new and compatibly changed contracts.

    Returns:
        The changes that break a reader; their files are left as they were.
    """
    broken: list[str] = []
    for name, model in sorted(models().items()):
        old, new = frozen_schema(name), schema(model)
        reasons = [] if old is None else breaks(old, new)
        if reasons:
            broken.extend(f"{name}: {reason}" for reason in reasons)
        elif old != new:
            path(name).write_text(json.dumps(new, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return broken
