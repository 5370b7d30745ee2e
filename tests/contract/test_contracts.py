"""The frozen contracts: model and file agree, golden examples read and write, breaking changes are seen."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from incl_shared import contracts
from incl_shared.contracts.compatibility import breaks
from incl_shared.contracts.page import events_page
from incl_shared.events import REGISTER

GOLDEN = sorted([*REGISTER, "NodeWanted.v1", "Report.v1"])
ROOT = Path(__file__).resolve().parents[2]


def test_models_and_files_agree() -> None:
    assert contracts.problems() == []


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_example_is_read_and_written_again_the_same(name: str) -> None:
    golden = json.loads(contracts.golden_path(name).read_text(encoding="utf-8"))
    model = contracts.models()[name].model_validate_json(json.dumps(golden))
    assert json.loads(model.model_dump_json()) == golden


@pytest.mark.parametrize("name", sorted(REGISTER))
def test_readers_ignore_unknown_fields_and_writers_forbid_them(name: str) -> None:
    golden = json.loads(contracts.golden_path(name).read_text(encoding="utf-8"))
    newer = json.dumps({**golden, "from_the_future": 1}).encode()
    assert json.loads(REGISTER[name].read(newer).model_dump_json()) == golden
    with pytest.raises(ValidationError):
        REGISTER[name].model_validate_json(newer)


def _schema(**fields: Any) -> dict[str, Any]:
    model: type[BaseModel] = type("M", (BaseModel,), {"__annotations__": fields})
    return contracts.schema(model)


def test_a_new_optional_field_is_compatible() -> None:
    assert breaks(_schema(a=int), {**_schema(a=int, b=int), "required": ["a"]}) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (_schema(a=int, b=int), _schema(a=int), "b: the field is gone"),
        (_schema(a=int), _schema(a=int, b=int), "b: a new field must be optional"),
        (_schema(a=int), _schema(a=str), "a: the type was integer and is string"),
        (_schema(a=list[int]), _schema(a=list[str]), "a.items: the type was integer and is string"),
        (_schema(a=int | None), _schema(a=int), "the alternatives are gone"),
    ],
)
def test_what_breaks_readers_is_seen(old: dict[str, Any], new: dict[str, Any], reason: str) -> None:
    assert any(reason in found for found in breaks(old, new))


def test_the_page_of_events_is_current() -> None:
    assert (ROOT / "docs" / "events.md").read_text(encoding="utf-8") == events_page()
