"""The base of every service's settings: pydantic-settings, frozen, from the environment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from incl_shared.settings import BusSettings


class ServiceSettings(BaseSettings):
    """What every service needs. A service subclasses it with its own prefix:

        model_config = SettingsConfigDict(env_prefix="INCL_TRACKER_", env_nested_delimiter="__", frozen=True)

    A part of the bus is then INCL_TRACKER_BUS__URLS='["nats://127.0.0.1:4222"]'.
    """

    model_config = SettingsConfigDict(env_nested_delimiter="__", frozen=True, extra="forbid")

    database_url: str = Field(description="sqlite:///<path> or postgresql+psycopg://…")
    bus: BusSettings = Field(default_factory=BusSettings)
    ops_host: str = "127.0.0.1"
    ops_port: int | None = Field(None, ge=0, le=65_535, description="Health and metrics over HTTP; none: not served.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
