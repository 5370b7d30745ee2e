"""The other side of support.worker: `python -P serve.py <module>` calls functions of a module as lines on stdin ask.

In: {"call": name, "args": {…}} a line. Out: {"ok": result} or {"error": traceback} a line, on the standard output that
the process had; whatever the module prints goes to stderr. It ends with its input.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    module = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"ok": getattr(module, asked["call"])(**asked["args"])}
        except Exception:  # noqa: BLE001 the edge of this process: whoever asked is told
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
