"""Alembic's door to the tracker's tables."""

from incl_shared.migrations import run_env
from incl_tracker.tables import metadata

run_env(metadata)
