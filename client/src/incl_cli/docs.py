"""`python -m incl_cli.docs docs/cli.md`: write the page of the command line."""

from __future__ import annotations

import sys
from pathlib import Path

from incl_cli.documents import page

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
