"""The SDK is the standard library alone, for Python 3.9 and newer."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import incl

PACKAGE = Path(incl.__file__).parent
FILES = sorted(PACKAGE.glob("*.py"))
SCRIPT = """
import json, math, sys
import incl
foreign = ("numpy", "pydantic", "msgspec", "nats", "incl_shared", "incl_cli")
assert not [m for m in sys.modules if m.partition(".")[0] in foreign]
with incl.init(config={"lr": 0.1}, mode="offline") as run:
    incl.log({"loss": 0.5, "nan": math.nan, "deep": {"a": True}}, step=1)
    incl.log({"loss": 0.25}, step=2)
    incl.log({"loss": 0.25}, step=2)
    kept = incl.checkpoint(b"x", step=2, metrics={"loss": 0.25})
    assert incl.latest_checkpoint() == kept and incl.config.lr == 0.1
    incl.log_text("t", "hello"); incl.log_table("rows", [{"a": 1}]); incl.alert("done")
    (incl.output_dir / "x").write_text("y")
    assert (incl.rank, incl.node_rank, incl.num_nodes, incl.attempt, incl.experiment_id) == (0, 0, 1, 1, run.id)
    try: incl.nothing
    except AttributeError: pass
    lines = [json.loads(line) for file in (run.directory / "spool").glob("*.jsonl") for line in file.open()]
print("".join(line["k"] for line in lines))
"""


def pythons() -> list[str]:
    """A Python of each minor version that there is: on the PATH, or beside the one that runs this."""
    found = {}
    for minor in range(9, 16):
        beside = sorted(Path(sys.base_prefix).parent.glob(f"*3.{minor}*/bin/python3.{minor}"))
        on_path = shutil.which(f"python3.{minor}")
        for candidate in [*map(str, beside), *([on_path] if on_path else [])]:
            asked = subprocess.run(
                [candidate, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True, timeout=30
            )
            if asked.returncode == 0 and asked.stdout.strip() == str(minor):
                found.setdefault(minor, candidate)
    return list(found.values())


def test_it_works_under_every_python_there_is(tmp_path: Path) -> None:
    candidates = pythons()
    if not candidates:
        pytest.skip("no Python found by name")
    for number, python in enumerate(candidates):
        place = tmp_path / f"with {number}"
        place.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("INCL_", "PYTHON"))}
        environment = {**clean, "PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [python, "-W", "error", "-c", SCRIPT],
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, (python, done.stderr)
        assert done.stdout == "pmmmcffa\n"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_is_python_3_9_and_imports_the_standard_library_only(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Match)
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        for name in names:
            root = name.partition(".")[0]
            assert root == "incl" or root in sys.stdlib_module_names, name


def test_ruff_finds_nothing_newer_than_python_3_9() -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    done = subprocess.run(
        [
            ruff,
            "check",
            "--isolated",
            "--target-version",
            "py39",
            "--select",
            "E9,F,UP036",
            "--output-format",
            "json",
            PACKAGE,
        ],
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == []


def test_importing_is_light() -> None:
    script = f"""
import sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
before = set(sys.modules)
import incl
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {
        "subprocess",
        "pathlib",
        "shutil",
        "asyncio",
        "multiprocessing",
        "csv",
        "tempfile",
        "socket",
        "logging",
        "typing",
    }
    assert not loaded & heavy
    assert "incl._run" not in loaded
