"""The migrations of each service are one line: two that were written side by side are put in order before they land."""

from __future__ import annotations

import pytest

from incl_shared.migrations import head_revision, migrations_folder


@pytest.mark.parametrize("service", ["provisioner", "tracker", "registry", "gateway", "hpo"])
def test_there_is_one_newest_migration(service: str) -> None:
    assert head_revision(migrations_folder(f"incl_{service}"))
