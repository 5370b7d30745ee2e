"""The base of every event, and the register that the contracts and docs/events.md are made from."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from incl_shared.ids import derived_id

REGISTER: dict[str, type[Event]] = {}
"""Every event class by its type, such as 'ExperimentQueued.v1'."""


class Event(BaseModel):
    """A fact in the past tense. Writers forbid unknown fields, readers ignore them.

    The envelope (id, time, version, trace) rides in the headers, as CloudEvents names them;
    see `incl_shared.bus.envelope`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    version: ClassVar[int] = 1
    stream: ClassVar[str] = "EVENTS"
    aggregate: ClassVar[str] = "experiment"
    """The kind token of the subject."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        REGISTER[cls.type_name()] = cls

    @classmethod
    def type_name(cls) -> str:
        """The name on the wire."""
        return f"{cls.__name__}.v{cls.version}"

    @property
    def key(self) -> str:
        """The id token of the subject: the aggregate's id. The first field by default."""
        first = next(iter(type(self).model_fields))
        return str(getattr(self, first))

    @classmethod
    def read(cls, payload: bytes) -> Event:
        """The tolerant reader: unknown fields are ignored.

        Raises:
            pydantic.ValidationError: when a known field is wrong.
        """
        return cls.model_validate_json(payload, extra="ignore")


def consequence_id(event: Event, *cause: object) -> str:
    """The id of an event that follows from something: repeated, it is the same."""
    return derived_id(event.type_name(), event.key, *cause)
