#!/usr/bin/env python
"""Train a universal denoiser. See `maskdiff/cli/train.py`, or `python train_universal.py --help`."""

from __future__ import annotations

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.cli.train import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
