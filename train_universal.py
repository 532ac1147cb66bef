#!/usr/bin/env python
"""Train a universal denoiser; see `maskdiff/cli/train.py`."""

from __future__ import annotations

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.cli.train import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
