"""incl schema."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl schema > experiment.schema.json
  first line of train.yaml:  # yaml-language-server: $schema=experiment.schema.json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Print it."""
    from incl_shared.specfile import schema_text

    session.out.out.write(schema_text())
    return 0
