"""Queries of the service 'gateway': thin. Who asks is what the subject says, which the credential fixed."""

from __future__ import annotations

from pydantic import SecretStr
from sqlalchemy import Connection

from incl_gateway import store, tokens
from incl_gateway.vault import Vault
from incl_shared.auth.names import is_job
from incl_shared.db import Database, Transaction
from incl_shared.errors import AmbiguousError, DeniedError, InvalidInput, NotFoundError
from incl_shared.ids import new_id
from incl_shared.queries.base import Done
from incl_shared.queries.gateway import (
    CreateToken,
    DeleteSecret,
    ListSecrets,
    ListTokens,
    Me,
    NewToken,
    ReadSecrets,
    RevokeToken,
    SecretNames,
    SecretValues,
    SetSecret,
    TokenList,
    TokenView,
    WhoAmI,
)
from incl_shared.subjects import Asker

_MAX_VALUES = 2 * 1024 * 1024
"""Bytes of values in one answer."""


class Handlers:
    """What the gateway answers over the bus; the HTTP API uses the same for tokens."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    # --- who

    async def whoami(self, asker: Asker, query: WhoAmI) -> Me:
        """The asker and its projects."""
        await self._person(asker)
        projects = await self._database.read(lambda c: store.projects_of(c, asker.user))
        return Me(user=asker.user, projects=projects)

    async def _person(self, asker: Asker) -> None:
        if is_job(asker.user):
            raise DeniedError("a job may not ask this")
        if not await self._database.read(lambda c: store.is_member(c, asker.project, asker.user)):
            raise DeniedError(
                f"{asker.user} is no member of the project {asker.project}", hint="ask its owner to be added"
            )

    # --- tokens

    async def create_token(self, asker: Asker, query: CreateToken) -> NewToken:
        """A new token of the asker."""
        await self._person(asker)
        return await self.new_token(asker.user, query.label, query.ttl_s)

    async def new_token(self, user: str, label: str, ttl: float | None) -> NewToken:
        """A new token of a user who has been authorised."""
        fresh = tokens.fresh()
        view = await self._database.write(lambda tx: store.add_token(tx, new_id(), user, label, fresh, ttl))
        return NewToken(token=SecretStr(fresh.token), view=view)

    async def list_tokens(self, asker: Asker, query: ListTokens) -> TokenList:
        """The asker's tokens."""
        await self._person(asker)
        return await self.tokens_of(asker.user)

    async def tokens_of(self, user: str) -> TokenList:
        """A user's tokens."""
        return TokenList(tokens=await self._database.read(lambda c: store.tokens_of(c, user)))

    async def revoke_token(self, asker: Asker, query: RevokeToken) -> Done:
        """Revoke a token of the asker."""
        await self._person(asker)
        await self.revoke(asker.user, query.token)
        return Done()

    async def revoke(self, user: str, ref: str) -> None:
        """Revoke a user's own token by its id or how it begins.

        Raises:
            NotFoundError: when the user has no such token.
            AmbiguousError: when several begin so.
        """

        def work(tx: Transaction) -> None:
            store.revoke(tx, _pick(tx.connection, user, ref).id)

        await self._database.write(work)

    # --- secrets

    async def set_secret(self, asker: Asker, query: SetSecret) -> Done:
        """Store or replace a secret of the project."""
        await self._person(asker)
        box = self._vault.seal(asker.project, query.secret, query.value)
        await self._database.write(lambda tx: store.put_secret(tx, asker.project, query.secret, box, asker.user))
        return Done()

    async def list_secrets(self, asker: Asker, query: ListSecrets) -> SecretNames:
        """Names of the project's secrets."""
        await self._person(asker)
        return SecretNames(names=await self._database.read(lambda c: store.secret_names(c, asker.project)))

    async def delete_secret(self, asker: Asker, query: DeleteSecret) -> Done:
        """Forget a secret."""
        await self._person(asker)
        if not await self._database.write(lambda tx: store.delete_secret(tx, asker.project, query.secret)):
            raise NotFoundError(
                f"the project {asker.project} has no secret {query.secret[:128]!r}", hint="see: incl secret ls"
            )
        return Done()

    async def read_secrets(self, asker: Asker, query: ReadSecrets) -> SecretValues:
        """Values, for a job, of secrets that its experiment asked for.

        Raises:
            DeniedError: when the asker is no job that the signer knows, or asks for other names.
            NotFoundError: when a name is not stored.
            InvalidInput: when the values together are larger than an answer may be.
        """
        if not is_job(asker.user):
            raise DeniedError("only jobs can read the values of secrets")
        now = self._database.clock.now()

        def work(connection: Connection) -> tuple[frozenset[str] | None, dict[str, bytes]]:
            promised = store.granted(connection, asker.user, asker.project, now)
            if promised is None or not promised.issuperset(query.names):
                return promised, {}
            return promised, store.secret_boxes(connection, asker.project, query.names)

        promised, boxes = await self._database.read(work)
        if promised is None:
            raise DeniedError(f"{asker.user} is not known to the signer")
        foreign = sorted(set(query.names) - promised)
        if foreign:
            raise DeniedError(
                f"the experiment did not ask for the secret {foreign[0][:128]!r}", hint="name it under secrets:"
            )
        missing = sorted(set(query.names) - set(boxes))
        if missing:
            raise NotFoundError(
                f"the project {asker.project} has no secret {missing[0]}",
                hint=f"store it: incl secret set {missing[0]}",
            )
        if sum(len(box) for box in boxes.values()) > _MAX_VALUES:
            raise InvalidInput("these secrets are too large for one answer", hint="ask for fewer at once")
        return SecretValues(values={name: self._vault.unseal(asker.project, name, box) for name, box in boxes.items()})


def _pick(connection: Connection, user: str, ref: str) -> TokenView:
    mine = store.tokens_of(connection, user)
    found = [one for one in mine if one.id == ref] or [
        one for one in mine if one.prefix.startswith(ref[: tokens.SHOWN])
    ]
    if not found:
        raise NotFoundError("you have no such token", hint="see: incl token ls")
    if len(found) > 1:
        raise AmbiguousError(f"{len(found)} tokens begin with {ref}", hint="name its id")
    return found[0]
