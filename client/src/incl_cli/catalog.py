"""Every command in one table, so that `incl --help` and completion import nothing else."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """One command: its name, the group that help shows it in, one line, and the module that has it."""

    name: str
    group: str
    summary: str
    module: str

    @property
    def local(self) -> bool:
        """Whether it comes with the distribution incl-local."""
        return self.module == LOCAL


LOCAL = "incl_local.cli"
_HERE = "incl_cli.commands."

COMMANDS: tuple[Command, ...] = (
    Command("run", "Run", "Submit an experiment and follow it", _HERE + "run"),
    Command("rerun", "Run", "Run an experiment again, from the same code", _HERE + "rerun"),
    Command("sweep", "Run", "Search for the best parameters, in parallel", _HERE + "sweep"),
    Command("stop", "Run", "Stop experiments", _HERE + "stop"),
    Command("queue", "Run", "The machines and what waits for them", _HERE + "queue"),
    Command("machines", "Run", "The machines of a cloud that are there for you", _HERE + "machines"),
    Command("data", "Run", "Snapshots of a cloud, and the disks made of them", _HERE + "data"),
    Command("ls", "Look", "List experiments; filter and sort them", _HERE + "ls"),
    Command("show", "Look", "All of one experiment: stages, attempts, metrics, files", _HERE + "show"),
    Command("logs", "Look", "What an experiment printed; -f follows", _HERE + "logs"),
    Command("metrics", "Look", "Draw metrics in the terminal", _HERE + "metrics"),
    Command("media", "Look", "Images, tables and texts that an experiment logged", _HERE + "media"),
    Command("compare", "Look", "How experiments differ", _HERE + "compare"),
    Command("download", "Keep", "Fetch outputs, checkpoints and code", _HERE + "download"),
    Command("share", "Keep", "A link to one file, for somebody without an account", _HERE + "share"),
    Command("model", "Keep", "Versions of models, aliases such as production, and what made them", _HERE + "model"),
    Command("rm", "Keep", "Delete experiments: into the trash, or for good", _HERE + "rm"),
    Command("restore", "Keep", "Take experiments out of the trash", _HERE + "restore"),
    Command("sync", "Keep", "Ship runs that were logged without a server", _HERE + "sync"),
    Command("import", "Keep", "Bring runs of TensorBoard and W&B over", _HERE + "importing"),
    Command("secret", "Access", "Set, list and remove the project's secrets", _HERE + "secret"),
    Command("token", "Access", "Create, list and revoke access tokens", _HERE + "token"),
    Command("login", "Access", "Use a platform that runs elsewhere", _HERE + "login"),
    Command("up", "Platform", "Start the platform on this machine", LOCAL),
    Command("down", "Platform", "Stop the platform; jobs go on", LOCAL),
    Command("status", "Platform", "What runs, and how it is", LOCAL),
    Command("doctor", "Platform", "What is wrong, and the command that mends it", LOCAL),
    Command("admin", "Platform", "What is stuck; back up, restore, rebuild; dead letters", _HERE + "admin"),
    Command("schema", "Tools", "The JSON Schema of the experiment file", _HERE + "schema"),
    Command("completion", "Tools", "Completion for bash, zsh or fish", _HERE + "completion"),
)

BY_NAME = {command.name: command for command in COMMANDS}
ALIASES = {
    "list": "ls",
    "nodes": "queue",
    "log": "logs",
    "delete": "rm",
    "metric": "metrics",
    "secrets": "secret",
    "tokens": "token",
    "sweeps": "sweep",
    "models": "model",
}
"""Words that people type for a command."""
