"""The name of this machine as a hash: the agent and the command line compute the same one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_NAMESPACES = ("mnt",)


def machine_hash() -> str:
    """32 hexadecimal characters that name this machine and this view of its files, and not its address.

    Two processes with the same hash see the same files under the same paths (machine id, host name and mount
    namespace are equal), so that one can offer the other its own tools.
    """
    parts = [os.uname().nodename]
    for name in _ID_FILES:
        try:
            parts.append(Path(name).read_text(encoding="ascii").strip())
            break
        except (OSError, UnicodeDecodeError):
            continue
    for namespace in _NAMESPACES:
        try:
            parts.append(str(Path(f"/proc/self/ns/{namespace}").readlink()))
        except OSError:
            continue
    return hashlib.sha256("\n".join(["incl-machine", *parts]).encode()).hexdigest()[:32]
