"""The services of one machine, each built from the place that it runs in. The only module that knows them all."""

from __future__ import annotations

import importlib
from typing import Protocol

from incl_local.place import SERVICE_NAMES, Place


class App(Protocol):
    """What every service's create_app gives."""

    async def start(self) -> None:
        """Serve."""
        ...

    async def stop(self) -> None:
        """Stop serving; what was accepted is safe."""
        ...


def preload() -> None:
    """Import every service (1.5 s of the start), so that this can happen while the bus starts."""
    for name in SERVICE_NAMES:
        importlib.import_module(f"incl_{name}.app")


def build(name: str, place: Place) -> App:
    """A service with its settings.

    Raises:
        KeyError: when there is no such service.
    """
    return _BUILDERS[name](place)


def _provisioner(place: Place) -> App:
    from incl_provisioner.app import create_app
    from incl_provisioner.settings import ProvisionerSettings

    return create_app(ProvisionerSettings(**_common("provisioner", place)))
