"""The agent's archive: the same from the same environment, and it runs on a machine that has nothing of ours."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from incl_agent import archive


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(the archive, its sha256)."""
    return archive.kept(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def unpacked(made: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is in it, in a path with a space, as the startup script unpacks it."""
    folder = tmp_path_factory.mktemp("a machine")
    subprocess.run(["tar", "-xzf", str(made[0]), "-C", str(folder)], check=True)
    return folder


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **more}


def test_the_same_environment_gives_the_same_bytes(made: tuple[Path, str], tmp_path: Path) -> None:
    path, digest = made
    assert archive.build(tmp_path / "again.tar.gz") == digest
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert archive.kept(path.parent) == made
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_what_was_made_of_something_else_goes(tmp_path: Path) -> None:
    (tmp_path / "agent-0000000000000000.tar.gz").write_bytes(b"old")
    path, _ = archive.kept(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_it_has_no_service_no_secret_and_no_link(made: tuple[Path, str]) -> None:
    with tarfile.open(made[0]) as tar:
        members = tar.getmembers()
    assert all(member.isfile() for member in members)
    names = {member.name for member in members}
    assert "bin/incl-agent-vm" in names
    tops = {name.split("/")[1] for name in names if name.startswith("lib/")}
    assert {"incl", "incl_agent", "incl_shared", "nats", "pydantic"} <= tops
    assert not tops & {"incl_provisioner", "incl_tracker", "incl_local", "sqlalchemy", "faststream", "google"}
    assert not any(name.endswith((".creds", ".seed", ".pyc")) or "/testing/" in name for name in names)


def test_it_imports_everything_that_an_agent_needs(unpacked: Path) -> None:
    """-I: nothing of the environment that it was made in is seen."""
    lib = unpacked / "lib"
    words = (
        "import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; sys.path.insert(0, sys.argv[1]); "
    )
    words += "import incl_agent.vm, incl_agent.app, incl_shared.previews.worker, importlib.metadata as m; "
    words += "print(incl_agent.vm.__file__, m.version('incl-agent'))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", words, str(lib)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(lib))


def test_the_launcher_starts_it(unpacked: Path) -> None:
    launcher = str(unpacked / "bin" / "incl-agent-vm")
    done = subprocess.run([launcher], capture_output=True, text=True, env=environment())
    assert done.returncode == 78, done.stderr
    assert "INCL_VM_TOKEN_FILE" in done.stdout
    assert (unpacked / "env" / "bin" / "python").exists()


def test_on_another_python_it_says_so(unpacked: Path, tmp_path: Path) -> None:
    text = (unpacked / "bin" / "incl-agent-vm").read_text()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "bin").mkdir()
    other = tmp_path / "bin" / "incl-agent-vm"
    other.write_text(text.replace(version, "3.99").replace(f"{sys.version_info[0]}, {sys.version_info[1]}", "3, 99"))
    other.chmod(0o755)
    done = subprocess.run([str(other)], capture_output=True, text=True, env=environment())
    assert done.returncode == 78
    assert "this image has no Python 3.99" in done.stderr
