"""`python -m incl_cli`: the command line without its script."""

import sys

from incl_cli.main import entry

sys.exit(entry())
