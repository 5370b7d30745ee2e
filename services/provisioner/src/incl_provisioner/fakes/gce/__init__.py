"""A Compute Engine on this machine that the real google-cloud-compute talks to.

Docs: docs/mechanisms/fake-cloud.md. `python -m incl_provisioner.fakes.gce --help` runs it by hand.
"""

from incl_provisioner.fakes.gce.cloud import CloudSettings, FakeCloud
from incl_provisioner.fakes.gce.faults import Fault
from incl_provisioner.fakes.gce.pace import Pace
from incl_provisioner.fakes.gce.threaded import ThreadedCloud

__all__ = ["CloudSettings", "FakeCloud", "Fault", "Pace", "ThreadedCloud"]
