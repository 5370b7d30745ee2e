"""Metrics that nobody reads: to make and count them took a tenth of a schedule's time.

The product makes, names and labels them as ever; a wrong number of labels is an error here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import incl_agent.metrics
import incl_provisioner.metrics
import incl_shared.bus.metrics
import incl_shared.recovery


class Silent:
    """A counter, a gauge or a histogram, or a series of one."""

    __slots__ = ("_series", "_width")

    def __init__(self, name: str, text: str, labels: Sequence[str] = (), **_: Any) -> None:
        self._width = len(labels)
        self._series: Silent | None = None

    def labels(self, *values: str) -> Silent:
        """The series with these labels."""
        assert len(values) == self._width, f"{len(values)} labels, not {self._width}"
        if self._series is None:
            self._series = Silent("", "")
        return self._series

    def _counted(self, value: float = 1.0) -> None:
        assert not self._width, "a metric with labels has no value of its own"

    inc = dec = set = observe = _counted

    def set_function(self, asked: Callable[[], float]) -> None:
        """Nobody asks."""

    def remove(self, *values: str) -> None:
        """Nothing is shown."""

    def clear(self) -> None:
        """Nothing is shown."""


def exchanges() -> list[tuple[Any, str, Any]]:
    """Names of the product that are exchanged: (module, name, what stands in)."""
    modules = (incl_shared.recovery, incl_shared.bus.metrics, incl_provisioner.metrics, incl_agent.metrics)
    kinds = ("Counter", "Gauge", "Histogram")
    return [(module, kind, Silent) for module in modules for kind in kinds if hasattr(module, kind)]
