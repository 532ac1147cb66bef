"""The program `maskdiff` (`python -m maskdiff`); see `maskdiff/cli/maskdiff.py`."""

from __future__ import annotations

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.cli.maskdiff import main


def run() -> int:
    """Run the program; an error of the user is one line and status 2."""
    return run_cli(main)


if __name__ == "__main__":
    sys.exit(run())
