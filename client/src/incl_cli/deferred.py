"""Putting off an import of nats-py's that the command line may never need."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any


@contextmanager
def deferred_jetstream() -> Iterator[None]:
    """Whoever imports nats-py in here gets `nats.js` as a module that loads when something of it is first used.

    `nats.aio.client` imports its JetStream API at the top, a tenth of what `incl run` takes to start; publishing,
    asking and subscribing never touch it. The standard library's LazyLoader does not serve: the import statement
    itself reads `__spec__`, which makes it load. Does nothing where nats-py is loaded already.
    """
    package = PathFinder.find_spec("nats")
    spec = PathFinder.find_spec("nats.js", package.submodule_search_locations) if package else None
    if "nats" in sys.modules or spec is None or spec.loader is None:
        yield
        return
    module, loader = module_from_spec(spec), spec.loader

    def load(name: str) -> Any:
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, name)

    module.__dict__["__getattr__"] = load
    sys.modules["nats.js"] = module
    yield
    importlib.import_module("nats").__dict__["js"] = module
