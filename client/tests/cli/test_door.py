"""The door, as a real process: help, errors, exit codes, nothing heavy imported, no tracebacks."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from incl_cli.arguments import UsageProblem
from incl_cli.catalog import COMMANDS
from incl_cli.main import complain
from incl_cli.output import Output

HEAVY = ("asyncio", "pydantic", "nats", "rich", "yaml", "zstandard", "urllib3", "incl_shared")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("INCL_", "XDG_"))}
    return {**kept, "INCL_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)}


def incl(env: dict[str, str], *words: str, stdin: str = "", code: str = "") -> subprocess.CompletedProcess[str]:
    program = ["-c", code] if code else ["-m", "incl_cli"]
    return subprocess.run(
        [sys.executable, *program, *words], env=env, input=stdin, capture_output=True, text=True, timeout=60
    )


def test_help_names_every_command_and_imports_nothing_heavy(env: dict[str, str]) -> None:
    code = (
        "import sys; from incl_cli.main import main; main(['--help']);"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = incl(env, code=code)
    assert done.stderr.strip() == "[]"
    for command in COMMANDS:
        assert f"  {command.name}" in done.stdout
        assert command.summary in done.stdout


@pytest.mark.parametrize("command", [command.name for command in COMMANDS if not command.local])
def test_every_command_has_help_without_a_platform_and_without_its_imports(env: dict[str, str], command: str) -> None:
    code = (
        f"import sys; from incl_cli.main import main; main([{command!r}, '--help']);"
        "print([name for name in ('pydantic', 'nats', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    done = incl(env, code=code)
    assert done.stdout.startswith(f"Usage: incl {command}")
    assert done.stderr.strip() == "[]"


def test_the_version(env: dict[str, str]) -> None:
    done = incl(env, "--version")
    assert done.returncode == 0
    assert done.stdout.split() == ["incl", "0.1.0"]


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["rnu"], "there is no command 'rnu'", "did you mean 'run'?"),
        (["--hlep"], "there is no option '--hlep'", "did you mean '--help'?"),
        (["ls", "--srot", "x"], "unknown option '--srot'", "did you mean '--sort'?"),
        (["run", "--nmae=x", "train.yaml"], "unknown option '--nmae'", "did you mean '--name'?"),
        (["ls", "a", "b"], "'b' is one argument too many", "incl ls --help"),
        (["stop"], "experiment is missing", "incl stop --help"),
        (["secret", "sett", "X"], "cannot be 'sett'", "did you mean 'set'?"),
        (["secret"], "is missing", "incl secret --help"),
        (["ls", "--limit", "many"], "--limit cannot be 'many'", "it takes a whole number"),
        (["run"], "there is nothing to run", "incl run -- python train.py"),
        (["run", "--"], "there is no command after --", "incl run -- python train.py"),
        (["run", "train.py"], "'train.py' is not an experiment file", "incl run -- python train.py"),
        (["completion", "csh"], "cannot be 'csh'", "zsh"),
    ],
)
def test_wrong_words_are_told_with_what_was_meant(env: dict[str, str], words: list[str], error: str, hint: str) -> None:
    done = incl(env, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert hint in "\n".join(rest)
    assert "Traceback" not in done.stderr


def test_errors_are_json_when_asked_for(env: dict[str, str]) -> None:
    done = incl(env, "stop", "--json")
    envelope = json.loads(done.stderr)["error"]
    assert (done.returncode, envelope["code"]) == (2, "usage")
    assert envelope["hint"]


def test_json_after_the_dashes_belongs_to_the_command(env: dict[str, str]) -> None:
    done = incl(env, "run", "--bad", "--", "python", "--json")
    assert done.stderr.startswith("error: ")


def test_no_platform_is_told_with_the_command_that_starts_one(env: dict[str, str]) -> None:
    done = incl(env, "ls")
    assert done.returncode == 7
    assert "no platform is known here" in done.stderr
    assert "incl up" in done.stderr


def test_a_server_that_is_down_loses_nothing_and_is_told(env: dict[str, str], tmp_path: Path) -> None:
    context = tmp_path / "context.json"
    context.write_text(json.dumps({"urls": ["nats://127.0.0.1:9"], "creds": None, "project": "default", "user": "ada"}))
    context.chmod(0o600)
    work = tmp_path / "my work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    done = subprocess.run(
        [sys.executable, "-m", "incl_cli", "run", "--", "python", "train.py"],
        env={**env, "INCL_CONTEXT_FILE": str(context)}, cwd=work, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 7
    assert "incl up" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in work.iterdir()] == ["train.py"]


def test_a_fault_of_ours_leaves_a_file_without_values(env: dict[str, str]) -> None:
    code = (
        "import sys, types; from incl_cli import catalog, main;"
        "module = types.ModuleType('broken'); sys.modules['broken'] = module;"
        "module.arguments = lambda parser: parser.add_argument('--password');"
        "module.run = lambda args, session: 1 // 0;"
        "catalog.BY_NAME['broken'] = catalog.Command('broken', 'x', 'y', 'broken');"
        "sys.exit(main.main(['broken', '--password=hunter2']))"
    )
    done = incl(env, code=code)
    assert done.returncode == 70
    assert "Traceback" not in done.stderr
    assert "ZeroDivisionError" in done.stderr
    crash = next(Path(env["INCL_HOME"]).rglob("crashes/*.txt"))
    assert str(crash) in done.stderr
    text = crash.read_text()
    assert "Traceback" in text
    assert "--password" in text
    assert "hunter2" not in text.split("Traceback")[0]


def test_a_full_disk_is_no_fault_of_ours(env: dict[str, str]) -> None:
    code = (
        "import errno, os, sys, types; from incl_cli import catalog, main;"
        "module = types.ModuleType('broken'); sys.modules['broken'] = module;"
        "module.arguments = lambda parser: None;"
        "module.run = lambda args, session: os.write(os.open('/dev/full', os.O_WRONLY), b'x');"
        "catalog.BY_NAME['broken'] = catalog.Command('broken', 'x', 'y', 'broken');"
        "sys.exit(main.main(['broken']))"
    )
    done = incl(env, code=code)
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "cause", "hint"]
    assert "No space left on device" in done.stderr
    assert not list(Path(env["INCL_HOME"]).rglob("crashes/*.txt"))


def test_a_reader_that_goes_away_is_no_error(env: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "incl_cli", "schema"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read()
    assert errors == b""


def test_ctrl_c_at_a_prompt_ends_with_130(env: dict[str, str]) -> None:
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "from incl_cli.main import main; sys.exit(main(['secret', 'set', 'KEY']))"
    )
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        seen = b""
        while b"value of KEY: " not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, b"hidden")
        assert _pressed(ours, process) == 130
        seen += os.read(ours, 1000)
    os.close(ours)
    assert b"interrupted" in seen
    assert b"hidden" not in seen


def _pressed(terminal: int, process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C until it ends: Python loses the one that comes in the moment before its read begins."""
    for _ in range(10):
        os.write(terminal, b"\x03")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(3)
    process.kill()
    return process.wait()


def test_the_local_commands_say_what_to_install_where_it_is_missing(env: dict[str, str]) -> None:
    code = "import sys; sys.modules['incl_local'] = None; from incl_cli.main import main; sys.exit(main(['up']))"
    done = incl(env, code=code)
    assert done.returncode == 2
    assert "pip install incl-local" in done.stderr


def test_completion_works_in_a_real_shell(env: dict[str, str]) -> None:
    script = incl(env, "completion", "bash").stdout
    ask = "COMP_WORDS=(incl {}); COMP_CWORD={}; _incl; echo ${{COMPREPLY[*]}}\n"
    done = subprocess.run(
        ["bash", "-c", script + ask.format("lo", 1) + ask.format("stop --wa", 2) + ask.format("admin dead", 2)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    logs, wait, letters = done.stdout.splitlines()
    assert "logs" in logs.split()
    assert wait == "--wait"
    assert letters == "dead-letters"
    assert "complete -c incl" in incl(env, "completion", "fish").stdout
    assert "bashcompinit" in incl(env, "completion", "zsh").stdout


def test_the_page_of_the_command_line_is_current() -> None:
    root = Path(__file__).parents[3]
    code = "from incl_cli.documents import page; import sys; sys.stdout.write(page())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert (root / "docs" / "cli.md").read_text() == done.stdout, "run: make docs"


def test_a_long_cause_is_broken_between_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    link = "https://example.org/" + "a" * 60
    problem = UsageProblem("no", cause=f"{'word ' * 20}{link} and\nmore", hint="incl ls")
    screen, pipe = Terminal(), io.StringIO()
    complain(problem, Output(io.StringIO(), screen, color=False), [])
    complain(problem, Output(io.StringIO(), pipe), [])
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines if link not in line)
    assert [line[:7] for line in lines] == ["error: ", "cause: ", *["       "] * (len(lines) - 3), "hint: i"]
    assert link in screen.getvalue()
    assert " ".join(screen.getvalue().split()) == " ".join(pipe.getvalue().split())
    assert len(pipe.getvalue().splitlines()) == 4
