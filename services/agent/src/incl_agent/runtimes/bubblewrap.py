"""A sandbox without an image: the machine's files read-only, own /tmp, processes and IPC; the network is shared."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from incl_agent.runtimes.base import Exit, Launch, Outcome, Plan, Prepared, Refusal, RuntimeFailure
from incl_agent.runtimes.host import from_shell_code
from incl_agent.runtimes.pulling import Login
from incl_shared.states import EndReason

_PROBE_S = 10.0
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")


class BubblewrapRuntime:
    """Runs the command under bwrap.

    bwrap itself and the first process of its namespace stand between the shim and the command: SIGTERM goes to what is
    below them, and killing bwrap takes the whole namespace down.
    """

    name = "bubblewrap"

    async def available(self) -> bool:
        """Whether a sandbox can be made here (user namespaces may be forbidden)."""
        tool = shutil.which("bwrap")
        if tool is None:
            return False
        process = await asyncio.create_subprocess_exec(
            tool,
            *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "--unshare-ipc", "true"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            return await asyncio.wait_for(process.wait(), _PROBE_S) == 0
        except TimeoutError:
            process.kill()
            await process.wait()
            return False

    async def prepare(self, image: str | None, login: Login | None = None, digest: str | None = None) -> Prepared:
        """Nothing to fetch."""
        if image is not None:
            raise RuntimeFailure(EndReason.UNSUPPORTED, f"a sandbox cannot run the image {image}")
        return Prepared()

    def launch(self, plan: Plan, prepared: Prepared) -> Launch:
        """bwrap around the command. Later mounts cover earlier ones."""
        argv = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--ro-bind", "/", "/"]
        argv += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
        argv += ["--bind-try", "/dev/shm", "/dev/shm"] if plan.gpus else []  # noqa: S108
        for path in plan.hidden:
            argv += ["--tmpfs", str(path)] if path.is_dir() else []
        for path in (*_tools_below_tmp(plan.env), *plan.readable):
            argv += ["--ro-bind-try", str(path), str(path)]
        for path in plan.writable:
            argv += ["--bind", str(path), str(path)]
        for mount in plan.mounts:
            argv += ["--bind" if mount.writable else "--ro-bind", str(mount.source), str(mount.target)]
        for device in (*_DEVICES, *(f"/dev/nvidia{gpu}" for gpu in plan.gpus)) if plan.gpus else ():
            argv += ["--dev-bind-try", device, device]
        argv += ["--chdir", str(plan.cwd), "--", *plan.argv]
        env = {**plan.env, "TMPDIR": "/tmp"}  # noqa: S108
        return Launch(tuple(argv), env, plan.cwd, plan.grace_s, plan.max_duration_s, wrappers=2)

    def outcome(self, exit_: Exit, errors: str) -> Outcome:
        """bwrap tells a signal as 128+n, and says on stderr why it could not run the command."""
        last = errors.rstrip().rpartition("\n")[2]
        if exit_.exit_code == 1 and last.startswith("bwrap: execvp "):
            command = last.removeprefix("bwrap: execvp ").rpartition(":")[0]
            hint = "is it installed here? commands are looked up in PATH, or relative to the working directory"
            return Outcome(exit_, Refusal(EndReason.COMMAND, f"the command {command!r} cannot be run: {last}", hint))
        if exit_.exit_code == 1 and last.startswith("bwrap: "):
            return Outcome(exit_, Refusal(EndReason.INFRA, f"the sandbox cannot be made: {last}"))
        return Outcome(from_shell_code(exit_))


def _tools_below_tmp(env: dict[str, str]) -> list[Path]:
    """Python environments that lie under /tmp, which the sandbox covers."""
    found = [env.get("VIRTUAL_ENV"), env.get("CONDA_PREFIX"), sys.prefix, sys.base_prefix]
    return sorted({Path(path) for path in found if path and path.startswith("/tmp/")})  # noqa: S108
