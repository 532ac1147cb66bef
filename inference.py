#!/usr/bin/env python
"""Generate, complete, repair, edit and solve strings; see `maskdiff/cli/inference.py`."""

from __future__ import annotations

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.cli.inference import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
