"""Typed questions over the bus: one class a question, which names its service, its subject and its answer."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator


class Answer(BaseModel):
    """What a service answers. Unknown fields are ignored, so that services and clients can differ in age.

    NaN and infinities cross JSON as the strings 'NaN', 'Infinity', '-Infinity', which a float field reads back.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, ser_json_inf_nan="strings", defer_build=True)


_INT64 = 2**63
AnswerT = TypeVar("AnswerT", bound=Answer)

QUERIES: dict[tuple[str, str], type[Query[Any]]] = {}
"""Every question by (service, name)."""


class Query(BaseModel, Generic[AnswerT]):
    """A question. Who asks is read from the subject, never from here."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    service: ClassVar[str]
    name: ClassVar[str]
    answer: ClassVar[type[Answer]]
    operators: ClassVar[bool] = False
    """Whether only the platform's operator may ask; see `subjects.SYSTEM_PROJECT`."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Whole numbers that no database has a column for are refused where they come from."""
        for name, value in self.__dict__.items():
            if isinstance(value, int) and not -_INT64 <= value < _INT64:
                raise ValueError(f"{name} is beyond 64 bits")
        return self

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: object) -> None:
        if "name" in cls.__dict__:
            QUERIES[(cls.service, cls.name)] = cls


class Done(Answer):
    """It is done; there is nothing to say."""
