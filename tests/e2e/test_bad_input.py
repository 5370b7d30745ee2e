"""Bad input gets a clear error with the next step, and nothing is lost."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from incl_local.testing import Home, Result, wait


def refused(result: Result, *words: str) -> None:
    """It failed with our three lines and these words, and without a traceback."""
    assert result.code not in (0, 1, 3, 70), result
    assert "error: " in result.err
    assert "hint: " in result.err
    assert "Traceback" not in result.err + result.out
    for word in words:
        assert word in result.err, result.err


def test_a_broken_yaml(home: Home, project: Path) -> None:
    (project / "train.yaml").write_text("name: x\ncommand: [python\n")
    refused(home.incl("run", "train.yaml", cwd=project), "train.yaml")


def test_an_unknown_key_with_its_line_and_what_was_meant(home: Home, project: Path) -> None:
    (project / "train.yaml").write_text("name: x\ncommand: python train.py\nresorces: {cpu: 1}\n")
    refused(home.incl("run", "train.yaml", cwd=project), "train.yaml:3", "resources")


def test_a_missing_command(home: Home, project: Path) -> None:
    (project / "train.yaml").write_text("name: x\n")
    refused(home.incl("run", "train.yaml", cwd=project), "command")


def test_a_name_of_ten_thousand_characters(home: Home, project: Path) -> None:
    refused(home.incl("run", "--name", "n" * 10_000, "--", "true", cwd=project), "name")


def test_an_unknown_metric(home: Home, project: Path) -> None:
    (project / "t.py").write_text("import incl\nincl.log({'loss': 1})\n")
    assert home.incl("run", "--", "python", "t.py", cwd=project).code == 0
    refused(home.incl("metrics", "@last", "lss", cwd=project), "lss", "loss")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_working_directory(home: Home, project: Path) -> None:
    secret = project / "secret"
    secret.mkdir()
    (secret / "x").write_text("x")
    secret.chmod(0)
    try:
        refused(home.incl("run", "--", "true", cwd=project), "secret")
    finally:
        secret.chmod(stat.S_IRWXU)


def test_a_working_directory_that_is_not_there(home: Home, project: Path) -> None:
    refused(home.incl("run", "--workdir", "nowhere", "--", "true", cwd=project), "nowhere")


def test_the_server_is_down_at_submit(fresh: Home) -> None:
    work = fresh.folder / "work"
    work.mkdir()
    refused(fresh.incl("run", "--", "true", cwd=work), "incl up")
    assert fresh.incl("up", "--detach", timeout=90).code == 0
    assert fresh.incl("down").code == 0
    refused(fresh.incl("run", "--", "true", cwd=work), "incl up")


def test_a_command_that_does_not_exist(home: Home, project: Path) -> None:
    failed = home.incl("run", "--", "no-such-command-anywhere", cwd=project)
    assert failed.code == 3
    view = home.show()
    assert view["row"]["reason"] == "command"
    assert "no-such-command-anywhere" in view["message"]
    assert view["hint"]


def test_an_image_that_cannot_be_had(home: Home, project: Path) -> None:
    failed = home.incl("run", "--image", "localhost:1/none:none", "--", "true", cwd=project)
    assert failed.code != 0
    if failed.code == 3:
        view = home.show()
        assert view["row"]["reason"] in ("image", "unsupported")
        assert view["message"]
        assert view["hint"]
    else:
        refused(failed, "image")


def test_what_no_machine_can_honour_is_refused_at_submit(home: Home, project: Path) -> None:
    refused(home.incl("run", "--cpu", "4000", "--", "true", cwd=project), "4000")
    refused(home.incl("run", "--instance", "a3-highgpu-8g", "--", "true", cwd=project), "instance")
    refused(home.incl("run", "--gpu", "1000", "--", "true", cwd=project), "GPU")


def test_a_line_of_ten_megabytes_and_bytes_that_are_no_text(home: Home, project: Path) -> None:
    (project / "t.py").write_text(
        "import sys\nsys.stdout.buffer.write(b'x' * 10_000_000 + b'\\n')\n"
        "sys.stdout.buffer.write(b'\\xff\\xfe caf\\xe9\\n')\nprint('the end')\n"
    )
    done = home.incl("run", "--detach", "--", "python", "t.py", cwd=project)
    assert done.code == 0, done.err
    view = wait(lambda: (v := home.show()) and v["settled"] and v, 60, "settled")
    assert view["gaps"] == 0
    logs = home.incl("logs", "@last")
    assert logs.out.count("x") >= 10_000_000
    assert "caf\N{REPLACEMENT CHARACTER}" in logs.out
    assert "the end" in logs.out


def test_unknown_ids_and_commands(home: Home) -> None:
    refused(home.incl("show", "zzzzzzzz"), "incl ls")
    refused(home.incl("shwo", "@last"), "show")
    refused(home.incl("ls", "val_acc >"), "val_acc")
