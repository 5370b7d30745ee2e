"""The machine itself: a process group, no isolation (and INCL says so)."""

from __future__ import annotations

from incl_agent.runtimes.base import Exit, Launch, Outcome, Plan, Prepared, RuntimeFailure
from incl_agent.runtimes.pulling import Login
from incl_shared.states import EndReason


class HostRuntime:
    """Runs the command as it is."""

    name = "host"

    async def available(self) -> bool:
        """Always."""
        return True

    async def prepare(self, image: str | None, login: Login | None = None, digest: str | None = None) -> Prepared:
        """Nothing to fetch; an image cannot be honoured here."""
        if image is not None:
            raise RuntimeFailure(EndReason.UNSUPPORTED, f"the host runtime cannot run the image {image}")
        return Prepared()

    def launch(self, plan: Plan, prepared: Prepared) -> Launch:
        """The command itself."""
        return Launch(plan.argv, plan.env, plan.cwd, plan.grace_s, plan.max_duration_s)

    def outcome(self, exit_: Exit, errors: str) -> Outcome:
        """As the kernel told it."""
        return Outcome(exit_)


def from_shell_code(exit_: Exit) -> Exit:
    """An exit told by a wrapper: 128+n stands for signal n, as shells write it."""
    if exit_.exit_code is None or not 128 < exit_.exit_code <= 192:
        return exit_
    return Exit(**{**vars(exit_), "exit_code": None, "signal": exit_.exit_code - 128})
