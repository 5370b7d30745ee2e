"""Settings of the provisioner, from INCL_PROVISIONER_…"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from incl_shared.service_settings import ServiceSettings


class CloudOptions(BaseModel):
    """A cloud, from INCL_PROVISIONER_CLOUD__…; durations in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(min_length=1, max_length=120, description="The project of the provider that machines are in.")
    provider: str = "gce"
    zones: tuple[str, ...] = Field((), description="Zones that may be used; none named: all of the regions.")
    regions: tuple[str, ...] = Field((), description="Regions that may be used; none named: all.")
    network: str = "default"
    subnetwork: str = Field("", description="Empty: the region's own.")
    service_account: str = Field("", description="The account that machines run as; empty: none at all.")
    scopes: tuple[str, ...] = Field(
        ("https://www.googleapis.com/auth/devstorage.read_only",),
        description="What tokens of that account are good for at most. Jobs on the machine can get one.",
    )
    external_ip: bool = False
    image_project: str = "debian-cloud"
    image_family: str = "debian-12"
    gpu_image_project: str = "deeplearning-platform-release"
    gpu_image_family: str = "common-cu128-ubuntu-2204-nvidia-570"
    boot_gib: int = Field(50, ge=10, le=64_000)
    longest_s: float = Field(7 * 86_400.0, gt=300, description="A machine's whole life at most.")
    margin_s: float = Field(1_800.0, gt=0, description="What a machine needs besides its job: boot, fetch, upload.")
    spot: bool = Field(False, description="Whether spot is meant where the author says nothing.")
    spot_count: int = Field(
        2, ge=0, description="After so many preemptions on demand; 0: never. An experiment has 3 attempts by default."
    )
    spot_window_s: float = Field(6 * 3600.0, gt=0, description="Preemptions within so long count.")
    endpoint: str = Field("", description="Of another API than the provider's, such as the fake cloud's.")
    agent_url: str = Field("", description="Where machines fetch the agent's archive; empty: none can be made.")
    agent_sha256: str = Field("", description="Of the agent's archive.")
    enroll_url: str = Field("", description="Where machines trade their token: the gateway's /api/v1/nodes/enroll.")
    bus_urls: tuple[str, ...] = Field((), description="Where machines reach the bus; none: as the provisioner does.")
    round_s: float = Field(10.0, gt=0, description="How often the cloud is looked at while something is wanted.")
    sweep_s: float = Field(60.0, gt=0, description="How often it is looked at while nothing is.")
    quiet_s: float = Field(8.0, gt=0, description="A call of the provider without an answer is told of after so long.")
    boot_s: float = Field(900.0, gt=0, description="A machine that is made and says nothing for so long is given up.")
    boots: int = Field(2, ge=1, description="After so many tries whose machines said nothing it has failed.")
    drain_s: float = Field(600.0, ge=0, description="How long machines stay for telemetry that is not stored yet.")
    advice: bool = Field(True, description="Whether the provider is asked where machines can be had (advice.capacity).")
    data_idle_s: float = Field(
        6 * 3600.0, ge=0, description="A read-only disk of a snapshot that nobody uses for so long is deleted."
    )
    data_make_s: float = Field(1_800.0, gt=0, description="One that is not made by then is given up; others are tried.")
    notice_s: int = Field(30, ge=0, le=120, description="Of a preemption, before the signal; spot only.")

    @property
    def complete(self) -> bool:
        """Whether machines can be made: they would know where to fetch the agent, and where to enrol."""
        return bool(self.agent_url and self.agent_sha256 and self.enroll_url)


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
    cloud: CloudOptions | None = Field(None, description="The cloud where machines are made; none: no cloud.")
    machines: Path | None = Field(None, description="A table of machines in place of the package's.")
    prices: Path | None = Field(None, description="Prices over those of the package.")
