"""`python -m incl_shared.contracts`: freeze what is new, write docs/events.md, refuse what breaks readers."""

from __future__ import annotations

import sys
from pathlib import Path

from incl_shared.contracts import freeze
from incl_shared.contracts.page import events_page


def main(arguments: list[str]) -> int:
    """Freeze, and write the page to the path given."""
    broken = freeze()
    for reason in broken:
        sys.stderr.write(f"error: {reason}\n")
    if broken:
        sys.stderr.write("hint: add a new version of the event beside the old one\n")
        return 1
    if arguments:
        Path(arguments[0]).write_text(events_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
