"""Settings of the service of sweeps, from INCL_HPO_…"""

from __future__ import annotations

import os

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from incl_shared.service_settings import ServiceSettings


def _workers() -> int:
    return max(1, min(4, (os.cpu_count() or 2) - 1))


class HpoSettings(ServiceSettings):
    """All times in seconds."""

    model_config = SettingsConfigDict(env_prefix="INCL_HPO_", env_nested_delimiter="__", frozen=True, extra="forbid")

    workers: int = Field(default_factory=_workers, ge=1, le=64, description="Processes that compute proposals.")
    worker_idle_s: float = Field(60.0, gt=0, description="How long a process without work is kept.")
    propose_limit_s: float = Field(120.0, gt=0, description="A proposal that takes longer is tried again, elsewhere.")
    batch: int = Field(16, ge=1, le=1000, description="Points that are proposed at once, at most.")
    tick_s: float = Field(5.0, gt=0, description="Each sweep is looked at at least so often.")
    records_wait_s: float = Field(
        4_000.0, gt=0, description="How long the records of a trial that ended are waited for: longer than the tracker."
    )
    costs_every_s: float = Field(10.0, gt=0, description="How often it is asked what the trials of a sweep have cost.")
    pause_s: float = Field(1.0, gt=0, description="The pause after a step that failed.")
