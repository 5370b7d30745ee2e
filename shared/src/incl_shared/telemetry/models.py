"""What a script said with incl.register_model: a 'v' record of its spool, as the registration that it asks for."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from incl_shared.errors import InvalidInput
from incl_shared.ids import derived_id
from incl_shared.queries.models import RegisterModel
from incl_shared.telemetry.spool import SpooledFile

KIND = "model"
"""The kind under which the files of such a record are listed."""


def registration(file: SpooledFile, experiment: str, attempt: int, rank: int) -> RegisterModel:
    """What to ask the registry for, once the files are listed. Of the same record it is the same registration.

    Raises:
        InvalidInput: no model can be registered by what the record says.
    """
    record: dict[str, Any] = file.record
    try:
        return RegisterModel.model_validate(
            {
                "registration": derived_id("model", experiment, attempt, rank, file.writer, file.sequence),
                "model": record.get("model"),
                "experiment": experiment,
                "path": file.listed_as,
                "kind": KIND,
                "attempt": attempt,
                "rank": rank,
                "note": record.get("note", ""),
                "tags": record.get("tags", ()),
                "metadata": record.get("metadata", {}),
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"{where} cannot be {str(first['input'])[:60]!r}", cause=first["msg"]) from None
