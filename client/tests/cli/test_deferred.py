"""What is put off is loaded when it is used, and only then."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import incl_cli.bus_platform
assert "nats.js.api" not in sys.modules, "loaded at once"
import nats
client = nats.NATS()
context = client.jetstream()
assert "nats.js.api" in sys.modules
from nats.js import JetStreamContext
from nats.js.api import Header
assert type(context) is JetStreamContext
assert nats.js.api.Header.STATUS is Header.STATUS
"""


def test_the_jetstream_api_loads_at_its_first_use() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
