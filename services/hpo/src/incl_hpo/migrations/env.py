"""Run by `incl_shared.migrations`."""

from incl_hpo.tables import metadata
from incl_shared.migrations import run_env

run_env(metadata)
