"""Finding what is meant, or saying why it is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from incl_registry.models import store
from incl_shared.errors import ConflictError, InvalidInput, NotFoundError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from incl_shared.queries.models import GetVersion


def existing(model: Any, name: str, *, trashed: bool = True) -> Any:
    """The row of a model that is there. trashed: also one in the trash.

    Raises:
        NotFoundError: there is none.
    """
    if model is None:
        raise NotFoundError(f"there is no model {name}", hint="incl model ls")
    if model.trashed is not None and not trashed:
        raise NotFoundError(f"the model {name} is in the trash", hint=f"incl model restore {name}")
    return model


def known(version: Any, name: str, number: int) -> Any:
    """The row of a version that was registered, and whose files are kept, be it in the trash.

    Raises:
        NotFoundError: there is none, or it is purged.
    """
    if version is None:
        raise NotFoundError(f"there is no version {name}:{number}", hint=f"incl model show {name}")
    if version.purged is not None:
        raise NotFoundError(f"{name}:{number} was purged: its files are not kept", hint=f"incl model history {name}")
    return version


def present(version: Any, name: str, number: int) -> Any:
    """The row of a version that is neither purged nor in the trash.

    Raises:
        NotFoundError: there is none.
    """
    if known(version, name, number).trashed is not None:
        raise NotFoundError(f"{name}:{number} is in the trash", hint=f"incl model restore {name}:{number}")
    return version


def version_found(connection: sa.Connection, project: str, query: GetVersion) -> Any:
    """The row of the version that is asked for.

    Raises:
        NotFoundError: there is none. InvalidInput: a number and an alias.
    """
    name = query.model
    if query.number is not None and query.alias is not None:
        raise InvalidInput("a version is named by its number or by an alias", hint=f"incl model show {name}:3")
    existing(store.model_of(connection, project, name), name, trashed=False)
    number = query.number
    if query.alias is not None:
        alias = store.alias_of(connection, project, name, query.alias)
        if alias is None or alias.number is None:
            others = store.aliases_of(connection, project, [name])[name]
            there = ", ".join(f"{one.alias} ({one.number})" for one in others[:8])
            raise NotFoundError(
                f"{name} has no alias {query.alias}",
                cause=f"there are: {there}" if there else "it has none",
                hint=f"incl model alias {name} {query.alias} NUMBER sets it",
            )
        number = alias.number
    if number is None:
        newest = store.newest_of(connection, project, name)
        if newest is None:
            raise NotFoundError(f"{name} has no version that is not in the trash", hint=f"incl model show {name}")
        return newest
    return present(store.version_of(connection, project, name, number), name, number)


def not_pointed_at(connection: sa.Connection, project: str, model: str, number: int | None) -> None:
    """Refuse to put away what an alias points at.

    Raises:
        ConflictError: one does.
    """
    pointing = [one for one in store.aliases_of(connection, project, [model])[model] if number in (None, one.number)]
    if pointing:
        one = pointing[0]
        raise ConflictError(
            f"the alias {one.alias} points at {model}:{one.number}",
            hint=f"move it first: incl model alias {model} {one.alias} NUMBER, or --remove",
        )
