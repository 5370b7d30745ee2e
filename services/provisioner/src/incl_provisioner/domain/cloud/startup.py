"""What a machine is given to start the agent: a script that is the same for all, and checked values beside it.

The script (`startup.sh`) holds no value: all travel as attributes of the machine's metadata, and the script checks each
again before it uses it. So nothing that a person wrote is ever part of a shell's text.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

from incl_shared.errors import InvalidInput
from incl_shared.ids import SHA256_PATTERN

SCRIPT_KEY = "startup-script"
MAX_SCRIPT = 262_144
"""Bytes that the provider takes for one value of the metadata."""
_WEB = r"https?://[A-Za-z0-9._:/?&=%~+,@-]{1,2000}"
_PATTERNS = {
    "incl-agent-url": _WEB,
    "incl-agent-sha256": SHA256_PATTERN.strip("^$"),
    "incl-enroll-url": _WEB,
    "incl-enroll-token": r"[A-Za-z0-9._~+/=-]{16,4096}",
    "incl-bus": r"(?:nats|tls|ws|wss)://[A-Za-z0-9._:,/-]{1,1000}",
}
"""What each value may be. The script checks by patterns that let all of these pass."""


@dataclass(frozen=True, slots=True)
class Boot:
    """What the machines of a gang need to know to begin: all of them the same, as each knows its own name.

    `agent_url`: where the agent's archive lies, for as long as a boot takes; `token`: traded once by
    each, at `enroll_url`, for credentials of its own. `bus`: addresses, with commas between.
    """

    agent_url: str
    agent_sha256: str
    enroll_url: str
    token: str
    bus: str


@cache
def script() -> str:
    """The text of the script: the same for every machine."""
    return resources.files("incl_provisioner.domain.cloud").joinpath("startup.sh").read_text(encoding="utf-8")


def script_version() -> str:
    """The first 12 hexadecimal digits of the script's sha256: which one a machine was given."""
    return hashlib.sha256(script().encode()).hexdigest()[:12]


def metadata(boot: Boot) -> dict[str, str]:
    """The attributes of a machine: the script and the values that it reads.

    Raises:
        InvalidInput: a value has a character that it cannot have; its name is told, not its text.
    """
    values = {
        "incl-agent-url": boot.agent_url,
        "incl-agent-sha256": boot.agent_sha256,
        "incl-enroll-url": boot.enroll_url,
        "incl-enroll-token": boot.token,
        "incl-bus": boot.bus,
    }
    for name, value in values.items():
        if re.fullmatch(_PATTERNS[name], value) is None:
            raise InvalidInput(
                f"{name} cannot be given to a machine: it has characters that are not allowed, or a wrong length",
                hint="correct the setting that it comes from",
            )
    return {
        SCRIPT_KEY: script(),
        "incl-script": script_version(),
        "enable-guest-attributes": "TRUE",
        "block-project-ssh-keys": "TRUE",
        "serial-port-logging-enable": "FALSE",
        **values,
    }


SECRET_KEYS = frozenset({"incl-enroll-token"})
"""Attributes that never go into a log, an event or an error."""


@dataclass(frozen=True, slots=True)
class Phase:
    """What a machine has said of its boot: a word, and more in words."""

    name: str
    detail: str


_PHASE = re.compile(r"incl-vm: ([a-z]{1,20})(?: ([^\r\n]{0,400}))?")


def parse_phase(value: str) -> Phase | None:
    """The phase in a guest attribute, or none; whatever else a machine wrote there is not believed."""
    match = _PHASE.fullmatch(f"incl-vm: {value.strip()}")
    return Phase(match[1], _printable(match[2] or "")) if match is not None else None


def phases(console: str) -> list[Phase]:
    """The phases in what a serial console said, in order."""
    return [Phase(match[1], _printable(match[2] or "")) for match in _PHASE.finditer(console)]


def tail(console: str, lines: int = 20) -> str:
    """The end of what a console said, for an error: printable text, no more than so many lines of 200 characters."""
    kept = [_printable(line).rstrip()[:200] for line in console.splitlines()]
    return "\n".join([line for line in kept if line][-lines:])


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
