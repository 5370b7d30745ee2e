"""Writes requirements.lock (all that runs, and the demo), requirements-dev.lock (the checks and tests as well) and
benchmarks/requirements-peers.lock (what is measured beside us; another environment, so it is resolved on its own).

Third-party requirements are read from each distribution's own pyproject.toml; resolving is uv's work.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ["shared", "client", "deploy/local", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("services/*"))]
ASKED_FOR = {"arrow", "optuna", "plot"}
"""Extras that only a person asks for; the tests have them in the group dev."""
OPTIONS = [
    "--universal",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-header",
    "--python-version",
    "3.11",
    "--quiet",
]


def third_party() -> list[str]:
    """What the distributions need that is not ours."""
    needs: set[str] = {"setuptools>=77"}
    for distribution in DISTRIBUTIONS:
        project = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = project.get("optional-dependencies", {})
        extras = [need for name, needed in groups.items() if name not in ASKED_FOR for need in needed]
        needs |= {need for need in [*project["dependencies"], *extras] if not need.startswith("incl")}
    return sorted(needs)


def compile_lock(needs: list[str], output: str, constraint: str | None) -> None:
    """Resolve needs into a file of pinned versions with hashes."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(needs) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", *OPTIONS, "--no-annotate", str(source), "-o", output]
        subprocess.run(command + (["-c", constraint] if constraint else []), cwd=ROOT, check=True)


def main() -> None:
    """Write both files."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    runtime = third_party() + groups["demo"]
    compile_lock(runtime, "requirements.lock", None)
    compile_lock(runtime + groups["dev"], "requirements-dev.lock", "requirements.lock")
    peers = (ROOT / "benchmarks" / "requirements-peers.in").read_text(encoding="utf-8").splitlines()
    compile_lock(peers, "benchmarks/requirements-peers.lock", None)


if __name__ == "__main__":
    main()
