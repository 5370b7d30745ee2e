"""Settings of the provisioner, from INCL_PROVISIONER_…"""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from incl_shared.service_settings import ServiceSettings


class ProvisionerSettings(ServiceSettings):
    """All times in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="INCL_PROVISIONER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    node_lease_s: float = Field(30.0, gt=0, description="A node that is silent for longer is lost.")
    machine_wait_s: float = Field(300.0, gt=0, description="How long the first machine is waited for.")
    stop_margin_s: float = Field(120.0, gt=0, description="After a job's grace: how long its end is waited for.")
    retry_pause_s: float = Field(0.5, ge=0, description="The pause before the second attempt; it grows.")
    patience_s: float = Field(30.0, ge=0, description="How long others may pass one that does not fit.")
    max_passes: int = Field(200, ge=0, description="How many others may pass one that does not fit.")
    aging_s: float = Field(600.0, gt=0, description="Waiting so long is worth one step of priority.")
    spread: bool = Field(False, description="Single jobs go to the emptiest machine, not to the fullest.")
    tick_s: float = Field(1.0, gt=0, description="The loop looks at least so often.")
    coalesce_s: float = Field(0.005, ge=0, description="The least time between two passes of the loop.")
    notice_after_s: float = Field(1.0, ge=0, description="Why an experiment waits is said after so long.")
    notice_every_s: float = Field(30.0, gt=0, description="At most so often for one experiment.")
    notices_per_s: int = Field(20, ge=1, description="At most so many for all.")
    lease_ttl_s: float = Field(5.0, gt=0, description="How long the scheduler's lease holds without renewal.")
    holder: str = Field("", description="Who holds the scheduler's lease: unique; random if empty.")
