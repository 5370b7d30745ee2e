"""Ways to run a command: on the machine itself, in a sandbox, in a container. One port, one contract suite."""

from incl_agent.runtimes.base import Launch, Plan, Prepared, Runtime, RuntimeFailure

__all__ = ["Launch", "Plan", "Prepared", "Runtime", "RuntimeFailure"]
