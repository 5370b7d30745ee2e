"""Which agents may come in, by the version that they speak."""

from __future__ import annotations

from incl_provisioner.domain.cloud.names import rank_of
from incl_shared.protocol import OLDEST


def refusal(node: str, protocol: int) -> str:
    """Why the agent of a machine is refused; empty: it is not."""
    if protocol >= OLDEST:
        return ""
    return (
        f"the agent of {node} is too old: it speaks version {protocol} of the platform's protocol, "
        f"{OLDEST} is the oldest that is understood"
    )


def remedy(node: str) -> str:
    """What is to be done about that."""
    if rank_of(node) is not None:
        return "make its archive anew: python -m incl_agent.archive"
    return "install the platform's own version of incl-agent there, and start it again"
