"""The services of one machine, each built from the place that it runs in. The only module that knows them all."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from incl_local import bucket
from incl_local.cloud import provisioner_options
from incl_local.place import NODE, PROJECT, SERVICE_NAMES, Place, local_user


class App(Protocol):
    """What every service's create_app gives."""

    async def start(self) -> None:
        """Serve."""
        ...

    async def stop(self) -> None:
        """Stop serving; what was accepted is safe."""
        ...


def preload() -> None:
    """Import every service (most of the time of a start), so that this can happen while the bus starts."""
    for name in SERVICE_NAMES:
        importlib.import_module(f"incl_{name}.app")


def build(name: str, place: Place) -> App:
    """A service with its settings.

    Raises:
        KeyError: when there is no such service.
    """
    return _BUILDERS[name](place)


def _common(name: str, place: Place) -> dict[str, Any]:
    return {"database_url": place.layout.database(name), "bus": place.bus(name)}


def _provisioner(place: Place) -> App:
    from incl_provisioner.app import create_app
    from incl_provisioner.settings import ProvisionerSettings

    cloud: dict[str, Any] = {}
    if place.cloud is not None:
        cloud["cloud"] = provisioner_options(place.cloud, place.gateway_url, place.bus_url)
    return create_app(ProvisionerSettings(**_common("provisioner", place), **cloud, holder="local"))


def _tracker(place: Place) -> App:
    from incl_tracker.app import create_app
    from incl_tracker.settings import TrackerSettings

    return create_app(TrackerSettings(**_common("tracker", place)))


def _registry(place: Place) -> App:
    from incl_registry.app import create_app
    from incl_registry.settings import RegistrySettings

    where = bucket.chosen(place.layout)
    folder = place.layout.artifacts
    return create_app(
        RegistrySettings(**_common("registry", place), **where, data=folder, port=place.ports["registry"])
    )


def _gateway(place: Place) -> App:
    from incl_gateway.app import create_app
    from incl_gateway.settings import GatewaySettings

    return create_app(
        GatewaySettings(
            **_common("gateway", place),
            keys_dir=place.layout.nats / "keys",
            vault_key=place.layout.keys / "vault.key",
            port=place.ports["gateway"],
            local_user=local_user(),
            projects=(PROJECT,),
            public_urls=(place.bus_url,),
            enrolls=place.cloud is not None,
            agent_archive=Path(place.cloud.archive) if place.cloud is not None else None,
        )
    )


def _hpo(place: Place) -> App:
    from incl_hpo.app import create_app
    from incl_hpo.settings import HpoSettings

    return create_app(HpoSettings(**_common("hpo", place)))


def _agent(place: Place) -> App:
    from incl_agent.app import create_app
    from incl_agent.settings import AgentSettings

    hidden = (place.layout.creds, place.layout.nats, place.layout.keys, place.layout.root / "db")
    settings = AgentSettings(
        node=NODE, data_dir=place.layout.agent, bus=place.bus("agent"), hidden=hidden, guarded=False
    )  # jobs outlive `incl up`, however long it is down
    return create_app(settings)


_BUILDERS: dict[str, Callable[[Place], App]] = {
    "provisioner": _provisioner,
    "tracker": _tracker,
    "registry": _registry,
    "gateway": _gateway,
    "hpo": _hpo,
    "agent": _agent,
}
