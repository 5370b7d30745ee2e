"""Settings of the gateway, from INCL_GATEWAY_…"""

from __future__ import annotations

import getpass
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from incl_shared.auth.names import user_name_of
from incl_shared.service_settings import ServiceSettings


def _login() -> str:
    try:
        return user_name_of(getpass.getuser())
    except (KeyError, OSError):
        return user_name_of("")


class GatewaySettings(ServiceSettings):
    """All times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="INCL_GATEWAY_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    keys_dir: Path = Field(description="The platform's keys; only those of attempts, runs and persons are read.")
    vault_key: Path = Field(description="The key of the stored secrets, 0600; made when there are none yet.")
    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65_535, description="Of the HTTP API; 0 chooses a free one.")
    public_urls: tuple[str, ...] = Field((), description="Where those who log in reach the bus; none: as the gateway.")
    local_user: str = Field(default_factory=_login, description="The person of this machine, made at the start.")
    projects: tuple[str, ...] = Field(("default",), description="The local person's projects, made at the start.")
    enrolls: bool = Field(
        False, description="Whether machines of a cloud get credentials here; needs the key of nodes."
    )
    agent_archive: Path | None = Field(None, description="What machines of a cloud start with; none: not served.")
    attempt_ttl_s: float = Field(3600.0, gt=0, description="Life of an attempt's credential; the agent renews it.")
    run_ttl_s: float = Field(86_400.0, gt=0, description="Life of the credential of a run outside the platform.")
    person_ttl_s: float = Field(86_400.0, gt=0, description="Life of a credential that a token is exchanged for.")
