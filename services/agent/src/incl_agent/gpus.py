"""GPUs by NVML. A machine without a GPU or a driver has none, and that is no error."""

from __future__ import annotations

import logging
from dataclasses import dataclass

_log = logging.getLogger("incl.agent")


@dataclass(frozen=True)
class GpuUse:
    """percent of time busy; memory in bytes."""

    percent: float
    memory: float


class Gpus:
    """The GPUs of this machine. NVML is loaded at the first question and kept."""

    def __init__(self) -> None:
        self._handles: list[object] | None = None
        self.name = ""

    def count(self) -> int:
        """How many there are."""
        return len(self._open())

    def read(self, indices: list[int]) -> dict[int, GpuUse]:
        """The use of some of them; one that cannot be read is left out."""
        if not indices:
            return {}
        import pynvml

        handles, found = self._open(), {}
        for index in indices:
            if index < len(handles):
                try:
                    rates = pynvml.nvmlDeviceGetUtilizationRates(handles[index])
                    memory = pynvml.nvmlDeviceGetMemoryInfo(handles[index])
                    found[index] = GpuUse(float(rates.gpu), float(memory.used))
                except pynvml.NVMLError as error:
                    _log.debug("GPU %d cannot be read: %s", index, error)
        return found

    def _open(self) -> list[object]:
        if self._handles is None:
            self._handles = []
            import pynvml

            try:
                pynvml.nvmlInit()
                count = int(pynvml.nvmlDeviceGetCount())
                self._handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
                if self._handles:
                    name = pynvml.nvmlDeviceGetName(self._handles[0])
                    self.name = name.decode() if isinstance(name, bytes) else str(name)
            except pynvml.NVMLError as error:
                _log.debug("no GPUs: %s", error)
        return self._handles
