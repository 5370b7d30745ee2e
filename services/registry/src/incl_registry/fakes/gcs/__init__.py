"""A Cloud Storage on this machine that the real google-cloud-storage talks to.

Docs: docs/mechanisms/fake-storage.md. `python -m incl_registry.fakes.gcs --help` runs it by hand.
"""

from incl_registry.fakes.gcs.faults import Fault
from incl_registry.fakes.gcs.server import FakeStorage

__all__ = ["FakeStorage", "Fault"]
