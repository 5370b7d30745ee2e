"""The fixture `bus_factory`: started buses on `nats_server`, stopped at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from incl_shared.settings import BusSettings

if TYPE_CHECKING:
    from incl_shared.bus.runtime import Bus

BusFactory = Callable[..., Awaitable["Bus"]]


@pytest.fixture
async def bus_factory(bus_settings: BusSettings) -> AsyncIterator[BusFactory]:
    """`await bus_factory("tracker", setup, database=…)`: setup(bus) registers handlers; the bus is started."""
    from incl_shared.bus.runtime import Bus

    made: list[Bus] = []

    async def make(service: str, setup: Callable[[Bus], object] | None = None, **more: Any) -> Bus:
        bus = Bus(bus_settings, service=service, **more)
        if setup is not None:
            setup(bus)
        await bus.start()
        made.append(bus)
        return bus

    yield make
    for bus in reversed(made):
        await bus.stop()
