"""Alembic's entry."""

from __future__ import annotations

from incl_registry.tables import metadata
from incl_shared.migrations import run_env

run_env(metadata)
