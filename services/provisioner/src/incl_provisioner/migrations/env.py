"""Run by Alembic."""

from incl_provisioner.tables import metadata
from incl_shared.migrations import run_env

run_env(metadata)
