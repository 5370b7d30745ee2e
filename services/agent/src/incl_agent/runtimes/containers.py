"""Images, run by podman or docker through their command lines.

The container's name is the job's id, so that a repeat finds it. Folders have the same paths inside and outside. The
image is pulled before the job counts as prepared, and what runs is the digest that was found then.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from incl_agent.runtimes.base import Exit, Launch, Outcome, Plan, Prepared, Refusal, RuntimeFailure
from incl_agent.runtimes.host import from_shell_code
from incl_agent.runtimes.pulling import Login, digest_of, failure, kept, untagged
from incl_shared.states import EndReason

_PROBE_S = 60.0
_PULL_S = 3600.0
_DEFAULT_SHM = 1 << 30
_PLATFORM_ERROR = 125
_NO_COMMAND = re.compile(r"executable file .* not found|exec: |no such file or directory|exec format error")
_CLIENT_NAMES = (
    *("HOME", "PATH", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF", "CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE"),
    *("CONTAINER_HOST", "DOCKER_HOST", "DOCKER_CONFIG"),
)
"""What the tool itself needs of the agent's environment."""
_PULL_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
"""What a pull needs besides; containers get nothing of it."""
_RESTRICTED_CONF = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc={processes}:{processes}"]
"""
"""For a machine without systemd and with few privileges, where podman's own defaults do not work."""
_MOST_PROCESSES = 32_768
_INIT_PLACES = ("/usr/libexec/podman/catatonit", "/usr/lib/podman/catatonit", "/usr/local/libexec/podman/catatonit")


@dataclass(frozen=True)
class _Said:
    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The tool's own last words."""
        lines = [line for line in (self.err or self.out).splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"exit code {self.code}"


class ContainerRuntime:
    """podman or docker; the differences between the two are in here."""

    def __init__(self, tool: str, folder: Path) -> None:
        """tool: 'podman' or 'docker'. folder: where a configuration of our own may be written."""
        self.name = tool
        self._folder = folder
        self._env = {name: os.environ[name] for name in _CLIENT_NAMES if name in os.environ}

    async def available(self) -> bool:
        """Whether the tool answers and could run something: podman with its own configuration, else with ours."""
        if shutil.which(self.name) is None:
            return False
        if self.name == "docker":
            return (await self._run("version", "--format", "{{.Server.Version}}", seconds=_PROBE_S)).code == 0
        self._configure()
        return (await self._run("info", "--format", "{{.Host.OCIRuntime.Name}}", seconds=_PROBE_S)).code == 0

    async def prepare(self, image: str | None, login: Login | None = None, digest: str | None = None) -> Prepared:
        """Pull the image unless it is here, and pin what it is now. Without a login the tool's own are used.

        With a login the registry is always asked: that an image is here says nothing of who may have it. A digest from
        an earlier attempt is what a tag means from then on. It may be that of an image that was only ever built here.

        Raises:
            RuntimeFailure: reason image (or infra), in the tool's words.
        """
        if not image:
            raise RuntimeFailure(EndReason.UNSUPPORTED, f"{self.name} needs an image")
        if image.startswith("-"):
            raise RuntimeFailure(EndReason.IMAGE, f"{image!r} is not the name of an image")
        pinned = digest_of(image)
        if pinned is None and digest is not None:
            there = await self._here(image, digest) if login is None else None
            if there is not None:
                return there
            pinned, image = digest, f"{untagged(image)}@{digest}"
        found = None if login is not None else await self._inspect(image, pinned)
        if found is not None:
            return found
        began = time.time()
        pulled = await self._pull(image, login)
        found = await self._inspect(image, pinned) if pulled.code == 0 else None
        if found is None:
            raise failure(self.name, image, pulled.words, login)
        return replace(found, pulling=began, pulled=max(began, time.time()))

    async def _here(self, image: str, digest: str) -> Prepared | None:
        """An image that an earlier attempt ran here: by its name, or by its own id where no registry has it."""
        for name in (image, digest):
            found = await self._inspect(name, None)
            if found is not None and found.digest == digest:
                return found
        return None

    async def _pull(self, image: str, login: Login | None) -> _Said:
        more = {name: os.environ[name] for name in _PULL_NAMES if name in os.environ}
        if login is None:
            return await self._run("pull", image, seconds=_PULL_S, more=more)
        with kept(login, image) as folder:
            if self.name == "docker":
                return await self._run("--config", str(folder), "pull", image, seconds=_PULL_S, more=more)
            named = ("pull", "--authfile", str(folder / "config.json"), image)
            return await self._run(*named, seconds=_PULL_S, more=more)

    def launch(self, plan: Plan, prepared: Prepared) -> Launch:
        """`run` in the foreground, under the shim. Secrets cross by name, never in a command line."""
        argv = [self.name, "run", "--name", plan.name, "--network", "host", "--pull", "never", *self._init()]
        argv += ["--workdir", str(plan.cwd), "--stop-timeout", str(max(1, int(plan.grace_s)))]
        argv += ["--label", f"incl.job={plan.name}", *self._limits(plan), *self._user(), *self._devices(plan)]
        for path in plan.readable:
            argv += ["--volume", f"{path}:{path}:ro"]
        for path in plan.writable:
            argv += ["--volume", f"{path}:{path}"]
        for mount in plan.mounts:
            argv += ["--volume", f"{mount.source}:{mount.target}" + ("" if mount.writable else ":ro")]
        for name in sorted(plan.env):
            argv += ["--env", name if name not in self._env else f"{name}={plan.env[name]}"]
        entry, *rest = plan.argv
        argv += ["--entrypoint", json.dumps([entry]) if self.name == "podman" else entry]
        argv += [prepared.image or "", *rest]
        return Launch(
            tuple(argv),
            {**plan.env, **self._env},
            plan.cwd,
            plan.grace_s,
            plan.max_duration_s,
            reap=False,
            kill=(self.name, "kill", "--signal", "KILL", plan.name),
            cleanup=(self.name, "rm", "--force", "--volumes", plan.name),
        )

    def outcome(self, exit_: Exit, errors: str) -> Outcome:
        """125 to 127 are the tool's own; 128+n stands for a signal."""
        lines = [line for line in errors.splitlines() if line.startswith(("Error: ", f"{self.name}: "))]
        if exit_.exit_code in (126, 127) and lines and _NO_COMMAND.search(lines[-1]):
            hint = "is it in the image? the image's own entrypoint is not used"
            return Outcome(exit_, Refusal(EndReason.COMMAND, f"the command cannot be run: {lines[-1]}", hint))
        if exit_.exit_code in (_PLATFORM_ERROR, 126, 127) and lines:
            return Outcome(exit_, Refusal(EndReason.INFRA, f"{self.name} cannot run the container: {lines[-1]}"))
        return Outcome(from_shell_code(exit_))

    async def remove(self, name: str) -> None:
        """Remove a container that a dead shim left; none is no error."""
        await self._run("rm", "--force", "--volumes", name, seconds=_PROBE_S)

    def _configure(self) -> None:
        """Without systemd podman's own defaults fail: it gets a configuration, unless there is one."""
        if "CONTAINERS_CONF" not in self._env and not Path("/run/systemd/system").exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / "containers.conf"
            hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            processes = _MOST_PROCESSES if hard == resource.RLIM_INFINITY else min(_MOST_PROCESSES, hard)
            path.write_text(_RESTRICTED_CONF.format(processes=processes), encoding="ascii")
            self._env["CONTAINERS_CONF"] = str(path)

    def _init(self) -> list[str]:
        """A first process that passes signals on and buries orphans, where the tool has one. Without it the command is
        process 1, to whom SIGTERM means nothing unless it has a handler for it."""
        has = self.name == "docker" or shutil.which("catatonit") or any(Path(place).exists() for place in _INIT_PLACES)
        return ["--init"] if has else []

    def _limits(self, plan: Plan) -> list[str]:
        shm = min(plan.memory or _DEFAULT_SHM * 2, 64 * _DEFAULT_SHM) // 2
        found = ["--shm-size", str(shm)]
        if plan.cpu is not None:
            found += ["--cpus", f"{plan.cpu:g}"]
        if plan.memory is not None:
            found += ["--memory", str(plan.memory)]
        return found

    def _user(self) -> list[str]:
        """Files that the job writes belong to the agent's user."""
        if os.getuid() == 0:
            return []
        return ["--userns", "keep-id"] if self.name == "podman" else ["--user", f"{os.getuid()}:{os.getgid()}"]

    def _devices(self, plan: Plan) -> list[str]:
        if not plan.gpus:
            return []
        if self.name == "docker":
            return ["--gpus", f'"device={",".join(map(str, plan.gpus))}"']
        return [part for gpu in plan.gpus for part in ("--device", f"nvidia.com/gpu={gpu}")]

    async def _inspect(self, image: str, pinned: str | None) -> Prepared | None:
        """What the image is here; None: it is not, or is not what its digest says."""
        said = await self._run("image", "inspect", image, seconds=_PROBE_S)
        try:
            document = json.loads(said.out)[0]
        except (ValueError, IndexError):
            return None
        name = image.partition("@")[0]
        known = [each.rpartition("@") for each in document.get("RepoDigests") or []]
        ours = [
            digest
            for repository, _, digest in known
            if name in (repository, repository.removeprefix("docker.io/")) or name.startswith(f"{repository}:")
        ]
        digests = ours or [digest for _, _, digest in known]
        if pinned is not None:
            return Prepared(image=str(document["Id"]), digest=pinned) if pinned in digests else None
        identity = str(document["Id"])
        digest = digests[0] if digests else identity
        return Prepared(image=identity, digest=digest if ":" in digest else f"sha256:{digest}")

    async def _run(self, *argv: str, seconds: float, more: Mapping[str, str] | None = None) -> _Said:
        process = await asyncio.create_subprocess_exec(
            self.name,
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**self._env, **(more or {})},
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            return _Said(124, "", f"{self.name} {argv[0]} did not end within {seconds:.0f} s")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _Said(process.returncode or 0, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
