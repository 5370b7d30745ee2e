"""Settings of the tracker, from INCL_TRACKER_…"""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from incl_shared.settings import ServiceSettings
from incl_tracker.domain.retention import Rule


class TrackerSettings(ServiceSettings):
    """What the tracker needs to know; times in seconds."""

    model_config = SettingsConfigDict(env_prefix="INCL_TRACKER_", env_nested_delimiter="__", frozen=True)

    settle_after_s: float = Field(60.0, gt=0, description="How long missing records are waited for after an end.")
    settle_most_s: float = Field(
        3_600.0, gt=0, description="How long they are waited for at most while their shipper lives and brings nothing."
    )
    settle_check_s: float = Field(1.0, gt=0, description="How often attempts that are due are looked for.")
    live_interval_s: float = Field(0.1, gt=0, description="At most one live message of a kind and experiment in it.")
    trash_kept_s: float = Field(30 * 86_400.0, ge=0, description="How long what was deleted can be restored.")
    compact_check_s: float = Field(
        5.0, gt=0, description="How often experiments that are due for compaction are sought."
    )
    retention: tuple[Rule, ...] = Field(
        (), description='What becomes of what ended long ago; JSON, such as [{"after_days": 90, "action": "archive"}].'
    )
    retention_check_s: float = Field(600.0, gt=0, description="How often what ended long ago is looked through.")
    fetch_check_s: float = Field(1.0, gt=0, description="How often experiments asked back from the archive are sought.")
    trash_check_s: float = Field(2.0, gt=0, description="How often the trash is looked through.")
    history_check_s: float = Field(
        30.0, gt=0, description="How often it is looked whether a segment of the history is due."
    )
    history_purge_s: float = Field(
        86_400.0, gt=0, description="How often what is purged is taken out of the segments of the history."
    )
    run_grace_s: float = Field(
        900.0, gt=0, description="A run outside the platform is lost after so long without word."
    )
    run_check_s: float = Field(5.0, gt=0, description="How often runs outside the platform are looked at.")
    lease_s: float = Field(
        10.0, gt=0, description="After so long without word of a tracker the others take its partitions over."
    )
    list_limit_s: float = Field(5.0, gt=0, description="The longest that a list may take.")
    list_cache_mb: int = Field(512, ge=1, description="Megabytes of columns that are kept in memory for lists.")
    warm_check_s: float = Field(600.0, gt=0, description="How often a round of reading columns ahead is tried again.")
    pack_check_s: float = Field(5.0, gt=0, description="How often experiments that changed are put into columns.")
    pack_quiet_s: float = Field(30.0, ge=0, description="How long a running experiment must not change for that.")
