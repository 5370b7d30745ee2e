"""The administrator's own connection to the bus of a platform on this machine."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from incl_shared.bus.client import BusClient


@asynccontextmanager
async def administrator() -> AsyncIterator[BusClient]:
    """Connected with the administrator's credential, which only the platform's owner can read.

    Raises:
        DeniedError: the credential is not on this machine.
        UnavailableError: the bus cannot be reached.
    """
    from incl_cli.context import load_context
    from incl_shared.bus.client import BusClient
    from incl_shared.errors import DeniedError
    from incl_shared.settings import BusSettings

    context = load_context()
    creds = Path(context.data_dir) / "creds" / "admin.creds" if context.data_dir else None
    if creds is None or not creds.exists():
        raise DeniedError(
            "the administrator's credential is not here",
            cause=f"there is no {creds}" if creds else "this platform runs elsewhere",
            hint="run it where the platform runs, as its owner",
        )
    settings = BusSettings(urls=context.urls, creds=creds, name="incl-admin", inbox_prefix="_INBOX.admin.admin")
    async with await BusClient.connect(settings) as client:
        yield client
