"""The tables of the package, read once."""

from __future__ import annotations

import pytest

from incl_provisioner.catalog import Catalog, load_catalog


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog()
