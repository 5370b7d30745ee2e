"""House rules that no linter knows: sizes of files and functions, hosts and paths that must not be committed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_BROAD_SHARE = 0.15
TEXT = re.compile(r"\.(png|jpe?g|gif|woff2?|ico|gz|zst|tar|bin)$")
HOSTS = re.compile("|".join(["py" + r"pi\.org", "python" + "hosted", r"registry\." + "npmjs", r"deb\." + "debian"]))
PATHS = re.compile(
    r"(?:^|[\s\"'=(:`])/(?:" + "|".join(["wo" + "rk", "fa" + "rm", "ro" + "ot", r"home/\w+"]) + r")/[\w.]"
)
SIGNALS = re.compile(r"kill\s+(?:-\w+\s+)?-1\b|\bpk" + r"ill\b|\bkill" + r"all\b|os\.kill\(\s*-1")
UNFINISHED = re.compile(r"\b(?:TO" + "DO|FIX" + "ME|XX" + r"X)\b")


def committed() -> list[Path]:
    """Every file that git knows, or would take."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file() and not TEXT.search(name)]


def lines_against(file: Path, text: str) -> Iterator[str]:
    """Lines that must not be committed."""
    rules = [("a registry's host", HOSTS), ("a path of a particular machine", PATHS)]
    if file.suffix in {".py", ".sh", ".yaml", ".yml", ".ts"}:
        rules += [("unfinished work", UNFINISHED), ("a signal sent too widely", SIGNALS)]
    for number, line in enumerate(text.splitlines(), 1):
        for name, pattern in rules:
            if pattern.search(line):
                yield f"{file.relative_to(ROOT)}:{number}: {name}"


def shape_of(file: Path, tree: ast.Module, text: str) -> Iterator[str]:
    """Files and functions that are too long."""
    name = file.relative_to(ROOT)
    if text.count("\n") > MAX_FILE_LINES:
        yield f"{name}: {text.count(chr(10))} lines, at most {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"


def broad(tree: ast.Module) -> tuple[int, int]:
    """(broad handlers, all handlers)."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    wide = [
        h
        for h in handlers
        if h.type is None or (isinstance(h.type, ast.Name) and h.type.id in ("Exception", "BaseException"))
    ]
    return len(wide), len(handlers)


def main() -> int:
    """Print what is wrong; 1 when anything is."""
    found: list[str] = []
    wide = handlers = 0
    for file in committed():
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.name not in {"requirements.lock", "requirements-dev.lock"}:
            found.extend(lines_against(file, text))
        if file.suffix == ".py":
            tree = ast.parse(text)
            found.extend(shape_of(file, tree, text))
            if "/tests/" not in f"/{file.relative_to(ROOT)}":
                counted = broad(tree)
                wide, handlers = wide + counted[0], handlers + counted[1]
    if handlers and wide / handlers > MAX_BROAD_SHARE:
        found.append(f"{wide} of {handlers} except handlers are broad, at most {MAX_BROAD_SHARE:.0%}")
    sys.stdout.writelines(f"{line}\n" for line in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
