"""The tables of machines and prices of a provider: those of the package, with the operator's own over them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from incl_provisioner.domain.cloud.machines import MachineTable, read_machines
from incl_provisioner.domain.cloud.prices import PriceTable, override, read_prices
from incl_shared.errors import InvalidInput, NotFoundError

_MAX_BYTES = 4 * 1024 * 1024
PROVIDERS = ("gce",)
"""Providers whose tables lie in the package."""


@dataclass(frozen=True)
class Catalog:
    """What a provider has, and what it costs."""

    machines: MachineTable
    prices: PriceTable


def load_catalog(provider: str = "gce", *, machines: Path | None = None, prices: Path | None = None) -> Catalog:
    """The tables of a provider. `machines` replaces the package's table; `prices` overrides single prices.

    Raises:
        InvalidInput, NotFoundError: a file is not there, cannot be read, or is wrong; with its line.
    """
    if provider not in PROVIDERS and machines is None:
        raise InvalidInput(
            f"there is no table of machines for {provider!r}", hint="INCL_PROVISIONER_MACHINES names one"
        )
    table = read_machines(*_own(machines)) if machines is not None else packaged_machines(provider)
    price_table = read_prices(*_packaged(f"{provider}_prices.yaml")) if provider in PROVIDERS else None
    if prices is not None:
        text, source = _own(prices)
        price_table = override(price_table, text, source) if price_table is not None else read_prices(text, source)
    if price_table is None:
        raise InvalidInput(f"there are no prices for {provider!r}", hint="INCL_PROVISIONER_PRICES names a file")
    return Catalog(table, price_table)


def packaged_machines(provider: str) -> MachineTable:
    """The package's own table of a provider's machines."""
    return read_machines(*_packaged(f"{provider}_machines.yaml"))


def _packaged(name: str) -> tuple[str, str]:
    return resources.files("incl_provisioner.data").joinpath(name).read_text(encoding="utf-8"), name


def _own(path: Path) -> tuple[str, str]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", hint="correct the setting that names it") from None
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}", cause=str(error.strerror or error), hint="make it readable"
        ) from error
    if len(raw) > _MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {_MAX_BYTES >> 20} MiB", hint="a table of prices is small")
    try:
        return raw.decode("utf-8"), path.name
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name}: not UTF-8 text", hint="save it as UTF-8") from error
