"""Fixtures that every room has."""

from __future__ import annotations

import importlib.util
import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so, and children inherit it: their Ctrl-C would do nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads that spin for each other's end starve all other tests
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import settings

    settings.register_profile("incl", deadline=None)  # what a test may take is pytest-timeout's to say
    settings.load_profile("incl")

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
