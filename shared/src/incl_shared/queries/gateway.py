"""What the gateway can be asked: secrets, tokens, and credentials from the signer.

Values that are secret show as asterisks everywhere but in the JSON that crosses the bus.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PlainSerializer, SecretStr

from incl_shared.ids import Id
from incl_shared.queries.base import Answer, Done, Query

Revealed = Annotated[SecretStr, PlainSerializer(lambda value: value.get_secret_value(), when_used="json")]


class Credential(Answer):
    """A NATS credential: a JWT and the seed that belongs to it. Both are secret."""

    jwt: Revealed
    seed: Revealed
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


class TokenView(Answer):
    """An API token without its secret part. Times in seconds since the epoch."""

    id: Id
    label: str
    prefix: str = Field(description="How the token begins, to recognise it.")
    created: float
    expires: float | None = None
    revoked: float | None = None
    used: float | None = Field(None, description="About when it was last used.")


class NewToken(Answer):
    """A token, shown this once: only its hash is stored."""

    token: Revealed
    view: TokenView


class CreateToken(Query[NewToken]):
    """Make an API token for the asker itself."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "create_token"
    answer: ClassVar[type[Answer]] = NewToken

    label: str = Field("", max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")
    ttl_s: float | None = Field(90 * 86_400.0, gt=0, le=3_660 * 86_400.0, description="Seconds; none: for ever.")


class TokenList(Answer):
    """The asker's tokens, newest first."""

    tokens: tuple[TokenView, ...]


class ListTokens(Query[TokenList]):
    """The asker's own tokens."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "tokens"
    answer: ClassVar[type[Answer]] = TokenList


class RevokeToken(Query[Done]):
    """A token of the asker's own is worth nothing any more. Done again, nothing happens."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "revoke_token"
    answer: ClassVar[type[Answer]] = Done

    token: str = Field(min_length=4, max_length=64, description="Its id, or how it begins.")


class Me(Answer):
    """Who the asker is."""

    user: str
    projects: tuple[str, ...]


class WhoAmI(Query[Me]):
    """Who the asker is, and its projects."""

    service: ClassVar[str] = "gateway"
    name: ClassVar[str] = "whoami"
    answer: ClassVar[type[Answer]] = Me
