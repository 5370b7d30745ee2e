"""Fixtures that every room has."""

from __future__ import annotations

import importlib.util
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and children inherit it: their Ctrl-C would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
