"""`python -m searching.worker`: jobs come as JSON lines on stdin, each regret curve goes out as one on stdout."""

from __future__ import annotations

import json
import sys
import traceback

from searching import problems, running, scoring


def main() -> None:
    """Until stdin ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        job = running.Job(**{**asked, "recipe": tuple(sorted(asked.get("recipe", {}).items()))})
        try:
            kept = running.curve(job)
        except Exception as error:  # noqa: BLE001 - one optimiser that breaks on one problem must not end the table
            print(json.dumps({**asked, "error": f"{type(error).__name__}: {error}"}), flush=True)
            traceback.print_exc()
            continue
        task, scale = problems.problem(job.problem), problems.scale(job.problem)
        curve = [scoring.regret(best, task.optimum, scale, task.floor) for best in kept["best"]]
        print(json.dumps({**asked, "regret": curve, "ask_s": kept["ask_s"]}), flush=True)


if __name__ == "__main__":
    main()
