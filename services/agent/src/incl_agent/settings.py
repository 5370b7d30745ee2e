"""Settings of the agent, from the environment (INCL_AGENT_…) or from who embeds it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from incl_shared.settings import BusSettings

GIB = 1 << 30


class AgentSettings(BaseSettings):
    """Frozen; every duration in seconds, every size in bytes."""

    model_config = SettingsConfigDict(env_prefix="INCL_AGENT_", frozen=True, env_nested_delimiter="__", extra="ignore")

    node: str = "local"
    data_dir: Path = Field(default_factory=lambda: Path.home() / ".local/share/incl/agent")
    bus: BusSettings = Field(default_factory=BusSettings)
    address: str = Field("127.0.0.1", description="Where other nodes reach this one.")
    cpu: float | None = Field(None, description="Cores to offer; none offers what the agent may use.")
    memory: int | None = Field(None, description="Memory to offer; none offers all of it.")
    heartbeat_s: float = 3.0
    poll_s: float = Field(1.0, description="How often the wanted state is read besides being pushed.")
    sample_s: float = Field(5.0, description="How often processes and GPUs are measured.")
    cache_bytes: int = Field(10 * GIB, description="Bound of the node's cache of code and checkpoints.")
    leave_s: float = Field(60.0, description="How long the outputs of a job that is not wanted may take to be stored.")
    lost_s: float = Field(10.0, description="After this time without progress the bus has lost what it confirmed.")
    drain_bytes: int = Field(64 * GIB, description="Telemetry of ended jobs that may wait here to be stored.")
    drain_age_s: float = Field(30 * 86_400.0, description="How long the telemetry of an ended job may wait here.")
    drain_free_bytes: int = Field(GIB, description="With less room on the disk the oldest that waits is dropped.")
    drain_check_s: float = Field(10.0, description="How often these limits are looked at.")
    retry_limit_s: float = Field(600.0, description="How long a fetch or an upload is tried again before infra.")
    container_tool: str | None = Field(None, description="podman or docker; none takes the first that works.")
    pass_env: tuple[str, ...] = Field((), description="More names of the agent's environment that jobs inherit.")
    disks: Path | None = Field(
        None, description="Where a machine of a cloud finds its disks by name; none: it is none, and mounts nothing."
    )
    reserve_bytes: int = Field(
        0, ge=0, description="Of its disk, kept back for the ends of jobs that fill it: where nobody makes room."
    )
    ops_host: str = "127.0.0.1"
    ops_port: int | None = Field(None, ge=0, le=65_535, description="Health and metrics over HTTP; none: not served.")
    guarded: bool = Field(
        True, description="Whether shims end their jobs when the agent renews the node's lease no more; see lease.py."
    )
    hidden: tuple[Path, ...] = Field((), description="Folders that sandboxed jobs must not see (credentials).")

    @property
    def jobs_dir(self) -> Path:
        """One folder a job."""
        return self.data_dir / "jobs"

    @property
    def cache_dir(self) -> Path:
        """Blobs by sha256."""
        return self.data_dir / "cache"


def usable_cores() -> float:
    """Cores that this process may use: affinity, bounded by the cgroup's quota."""
    cores = float(len(os.sched_getaffinity(0)))
    for quota, period in _quotas():
        if quota > 0 and period > 0:
            cores = min(cores, quota / period)
    return cores


def _quotas() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        found.append((-1 if quota == "max" else int(quota), int(period)))
    except (OSError, ValueError):
        pass
    try:
        base = Path("/sys/fs/cgroup/cpu")
        found.append((int((base / "cpu.cfs_quota_us").read_text()), int((base / "cpu.cfs_period_us").read_text())))
    except (OSError, ValueError):
        pass
    return found
