"""Run by Alembic."""

from incl_gateway.tables import metadata
from incl_shared.migrations import run_env

run_env(metadata)
