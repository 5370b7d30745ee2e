"""What the gateway can be asked: secrets, tokens, and credentials from the signer."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, SecretStr

from incl_shared.ids import Id
from incl_shared.queries.base import Answer, Done, Query


class Credential(Answer):
    """A NATS credential: a JWT and the seed that belongs to it. Both are secret."""

    jwt: SecretStr
    seed: SecretStr
    name: str
    expires: float | None = None


class AttemptCredential(Query[Credential]):
    """Asked by a node for a job that it is to run; refused when CONTROL does not say so."""

    service: ClassVar[str] = "signer"
    name: ClassVar[str] = "attempt"
    answer: ClassVar[type[Answer]] = Credential

    experiment: Id
    attempt: int
    rank: int


class RunCredential(Query[Credential]):
    """Asked by a person for a run outside the platform that is its own."""

    service: ClassVar[str] = "signer"
    name: ClassVar[str] = "run"
    answer: ClassVar[type[Answer]] = Credential

    experiment: Id


class SetSecret(Query[Done]):
    """Store or replace a secret of the project. Only jobs can read it."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "set_secret"
    answer: ClassVar[type[Answer]] = Done

    secret: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    value: str = Field(max_length=65_536, repr=False)


class SecretNames(Answer):
    """Names only."""

    names: tuple[str, ...]


class ListSecrets(Query[SecretNames]):
    """The names of the project's secrets."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "secrets"
    answer: ClassVar[type[Answer]] = SecretNames


class DeleteSecret(Query[Done]):
    """Forget a secret."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "delete_secret"
    answer: ClassVar[type[Answer]] = Done

    secret: str


class SecretValues(Answer):
    """Name -> value."""

    values: dict[str, str] = Field(repr=False)


class ReadSecrets(Query[SecretValues]):
    """Asked with a job's credential only; only names that its experiment asked for."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "read_secrets"
    answer: ClassVar[type[Answer]] = SecretValues

    names: tuple[str, ...]
