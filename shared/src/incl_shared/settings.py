"""Settings. `BusSettings` is quick to import (the command line needs it), `ServiceSettings` comes when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

if TYPE_CHECKING:
    from incl_shared.service_settings import ServiceSettings

__all__ = ["BusSettings", "ServiceSettings"]


class BusSettings(BaseModel):
    """How to reach the bus, and as whom.

    The credential is a NATS .creds file, read again at every (re)connect, or a JWT and a seed in memory, or none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[str, ...] = Field(("nats://127.0.0.1:4222",), min_length=1)
    creds: Path | None = None
    jwt: SecretStr | None = None
    seed: SecretStr | None = None
    name: str = "incl"
    inbox_prefix: str = Field("_INBOX", description="Where answers come: the credential must allow <prefix>.>")


def __getattr__(name: str) -> Any:
    if name == "ServiceSettings":
        from incl_shared.service_settings import ServiceSettings

        return ServiceSettings
    raise AttributeError(name)
