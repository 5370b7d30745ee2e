"""Fixtures that every room has."""

from __future__ import annotations

import importlib.util

pytest_plugins = [
    name
    for name in (
        "incl_shared.testing.nats",
        "incl_shared.testing.db",
        "incl_shared.testing.bus",
        "incl_shared.testing.secure_nats",
    )
    if importlib.util.find_spec(name) is not None
]
