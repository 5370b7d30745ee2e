"""`make bench NAME=x`: runs one benchmark and prints its result as the last line, one JSON object.

A benchmark is a module of this folder with `bench() -> Result`; a name that the standard library has too (queue) is
that of bench_<name>.py. Both sides are measured in one run; `ratio` is
ours / target where there is no peer to run beside.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def names() -> dict[str, str]:
    """Every benchmark there is, with its module."""
    modules = sorted(p.stem for p in HERE.glob("*.py") if "\ndef bench(" in p.read_text(encoding="utf-8"))
    return {module.removeprefix("bench_"): module for module in modules}


def main(arguments: list[str]) -> int:
    """Run one by its name."""
    if len(arguments) != 1 or arguments[0] not in names():
        sys.stderr.write(f"error: which benchmark?\nhint: make bench NAME={'|'.join(names())}\n")
        return 2
    sys.path.insert(0, str(HERE))
    print(f"# {arguments[0]} on {platform.platform()}, Python {platform.python_version()}", file=sys.stderr)
    result = importlib.import_module(names()[arguments[0]]).bench()
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
