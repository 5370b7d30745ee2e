"""Runs the fake storage by hand."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from incl_registry.fakes.gcs.server import FakeStorage


def main() -> int:
    """Until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m incl_registry.fakes.gcs",
        description="A Cloud Storage on this machine, in memory. Prints a line of JSON: its url.",
    )
    parser.add_argument("bucket", nargs="*", default=["incl"], help="buckets that are there (default: incl)")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: a free one)")
    parser.add_argument("--key", type=Path, help="write the service account's key there, and ask for its tokens")
    given = parser.parse_args()
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with FakeStorage(*given.bucket, port=given.port, guarded=given.key is not None) as storage:
        if given.key is not None:
            given.key.touch(0o600)
            given.key.write_text(storage.key_file)
        sys.stdout.write(json.dumps({"url": storage.url, "buckets": given.bucket}) + "\n")
        sys.stdout.flush()
        signal.sigwait(signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
