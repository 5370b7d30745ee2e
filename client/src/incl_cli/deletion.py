"""Asking the tracker to delete or restore, and waiting until it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from incl_shared.errors import DeniedError, NotFoundError, UnavailableError
from incl_shared.ids import new_id, short
from incl_shared.queries.tracker import ExperimentView, GetExperiment

if TYPE_CHECKING:
    from incl_cli.platform import Platform
    from incl_shared.events import Event

PATIENCE_S = 60.0
_POLL_S = 0.1
Check = Callable[["Platform", str], Awaitable[bool]]


def refuse_foreign(views: Sequence[ExperimentView], user: str) -> None:
    """Deleting is the owner's.

    Raises:
        DeniedError: one of them is another's.
    """
    for view in views:
        if view.row.user != user:
            raise DeniedError(
                f"{short(view.row.id)} is {view.row.user}'s: only the owner may delete or restore it",
                hint=f"ask {view.row.user}",
            )


async def ask_for(
    platform: Platform, wanted: Sequence[tuple[ExperimentView, Event]], check: Check
) -> list[ExperimentView]:
    """Publish the requests, and wait until each shows.

    Raises:
        UnavailableError: not within a minute; it will be done all the same.
    """
    for _, event in wanted:
        await platform.publish(event, identifier=new_id())
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    for view, _ in wanted:
        while not await check(platform, view.row.id):
            if asyncio.get_running_loop().time() > deadline:
                raise UnavailableError(
                    f"{short(view.row.id)}: asked for, but not done yet", hint="it waits in the queue: incl status"
                )
            await asyncio.sleep(_POLL_S)
    return [view for view, _ in wanted]


async def until_trashed(platform: Platform, experiment: str) -> bool:
    """Whether it lies in the trash."""
    return (await platform.ask(GetExperiment(ref=experiment))).trashed is not None


async def until_restored(platform: Platform, experiment: str) -> bool:
    """Whether it is back."""
    view = await platform.ask(GetExperiment(ref=experiment))
    return view.trashed is None and view.archived is None


async def until_gone(platform: Platform, experiment: str) -> bool:
    """Whether nothing is left of it."""
    try:
        await platform.ask(GetExperiment(ref=experiment))
    except NotFoundError:
        return True
    return False
