"""Why a job ended, in words that help. Pure, but for the end of stderr."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, replace

from incl_agent.jobfiles import JobFiles
from incl_agent.runtimes.base import Exit, Runtime
from incl_shared.control import JobSpec
from incl_shared.errors import InclError, IntegrityError, InvalidInput, NotFoundError
from incl_shared.states import EndReason

_MESSAGE = 500
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class End:
    """The end of a job on this node."""

    reason: EndReason
    message: str = ""
    hint: str = ""
    exit_code: int | None = None
    signal: int | None = None


def rebooted() -> End:
    """The machine was restarted under the job."""
    return End(EndReason.LOST, "the machine was restarted while the job ran on it")


def stopped_before_start() -> End:
    """A stop came first."""
    return End(EndReason.STOPPED, "stopped before it started")


def fenced(end: End, why: str) -> End:
    """A stop that nobody asked for: the machine was cut off, and its work is another one's by now, or soon."""
    return replace(end, reason=EndReason.LOST, message=why, hint="") if end.reason is EndReason.STOPPED else end


def taken(end: End, why: str) -> End:
    """A stop that nobody asked for: the machine is being taken away."""
    return replace(end, reason=EndReason.PREEMPTED, message=why, hint="") if end.reason is EndReason.STOPPED else end


def from_outside(end: End) -> End:
    """A stop that neither the platform nor this agent asked for: its machine goes down."""
    why = "it was told to end by its machine, which is being switched off"
    return replace(end, reason=EndReason.LOST, message=why, hint="") if end.reason is EndReason.STOPPED else end


def lease_over() -> End:
    """The node's lease was over, and its agent was not there to say why."""
    return End(
        EndReason.LOST, "this machine's agent had no word of the bus for a whole lease; another attempt may have begun"
    )


def no_shim(errors: str) -> End:
    """The supervisor could not be started."""
    last = last_line(errors)
    return End(EndReason.INFRA, f"the job could not be started: {last or 'its supervisor ended at once'}")


def from_error(error: InclError) -> End:
    """A step before the start failed."""
    text = f"{error.message}: {error.cause}" if error.cause else error.message
    if isinstance(error, InvalidInput | NotFoundError | IntegrityError):
        return End(EndReason.ERROR, text, error.hint)
    return End(EndReason.INFRA, text, error.hint)


def not_stored(end: End, error: InclError) -> End:
    """Outputs are missing: what completed did not, what failed is told besides."""
    text = f"outputs could not be stored: {error.message}" + (f" ({error.cause})" if error.cause else "")
    if end.reason is EndReason.COMPLETED:
        return replace(end, reason=EndReason.INFRA, message=text, hint=error.hint)
    return replace(end, message=f"{end.message}; {text}" if end.message else text)


def not_started(exit_: Exit, command: str) -> End:
    """The kernel refused to run the command."""
    if exit_.stage == "lease":
        return lease_over()
    if exit_.stage == "cwd":
        return End(EndReason.INFRA, f"the job's folder cannot be entered: {exit_.error}")
    if exit_.errno == 8:
        return End(
            EndReason.COMMAND,
            f"the command {command!r} cannot be run: it is neither a program nor a script with a #! line",
            "begin the script with a line such as #!/bin/sh, or name its interpreter: sh script",
        )
    if exit_.errno == 13:
        return End(
            EndReason.COMMAND,
            f"the command {command!r} cannot be run: it is not executable",
            f"chmod +x {command}, or name its interpreter",
        )
    if "/" in command:
        hint = "paths are relative to the working directory that was packed; is the file in it, and not ignored?"
    elif command == "python":
        hint = "this machine may have python3 alone: name that, or activate your virtual environment before incl run"
    else:
        hint = "is it installed on that machine? commands are looked up in PATH; a file of yours needs ./ before it"
    return End(EndReason.COMMAND, f"the command {command!r} cannot be run: {exit_.error}", hint)


def no_room(node: str) -> End:
    """The job filled the disk of a machine of a cloud: not even how it ended could be written."""
    return End(
        EndReason.INFRA,
        f"the disk of the machine {node} is full: how the command ended could not be written",
        "a larger one: INCL_PROVISIONER_CLOUD__BOOT_GIB, or scratch: local-ssd for what is needed meanwhile",
    )


def of_exit(exit_: Exit | None, runtime: Runtime | None, files: JobFiles, spec: JobSpec) -> End:
    """The end that an exit stands for; none: the shim was killed before it could write one."""
    if exit_ is None:
        return End(
            EndReason.INFRA,
            "the job's supervisor was killed; what was left of the job was ended",
            "did the machine run out of memory?",
        )
    errors = files.errors_end()
    if runtime is not None:
        outcome = runtime.outcome(exit_, errors)
        exit_ = outcome.exit
        if outcome.refusal is not None:
            refusal = outcome.refusal
            return End(refusal.reason, refusal.message, refusal.hint, exit_.exit_code, exit_.signal)
    code, number = exit_.exit_code, exit_.signal
    if exit_.cause == "lease":
        return replace(lease_over(), exit_code=code, signal=number)
    if exit_.cause == "max_duration":
        text = f"stopped after max_duration ({spec.max_duration_s:g} s)"
        return End(EndReason.MAX_DURATION, text, "give it more: max_duration in the experiment file", code, number)
    if exit_.cause == "stop":
        text = f"did not end within {spec.grace_s:g} s of SIGTERM, and was killed" if exit_.killed else ""
        return End(EndReason.STOPPED, text, "", code, number)
    if code == 0:
        return End(EndReason.COMPLETED, exit_code=0)
    if number is not None:
        return _killed(number, errors)
    said = last_line(errors)
    return End(EndReason.ERROR, said or f"exit code {code}", _error_hint(code, said), code)


def _killed(number: int, errors: str) -> End:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    said = last_line(errors)
    text = f"killed by {name}" + (f": {said}" if said else "")
    hint = "out of memory? ask for more: resources.memory" if number == signal.SIGKILL else ""
    return End(EndReason.ERROR, text, hint, signal=number)


def _error_hint(code: int | None, said: str) -> str:
    module = re.match(r"ModuleNotFoundError: No module named '([^']+)'", said)
    if module is not None:
        return f"install {module[1]} in the environment that the job runs in, or name an image that has it"
    if code == 127:
        return "exit code 127 is a shell's word for: command not found"
    return ""


def last_line(text: str) -> str:
    """The last line that says something; for a Python traceback that is the exception."""
    for line in reversed(re.split(r"[\r\n]", text)):
        clean = _CONTROL.sub("", line).strip()
        if clean:
            return clean[:_MESSAGE]
    return ""
