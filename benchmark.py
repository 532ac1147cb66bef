#!/usr/bin/env python
"""Measure checkpoints and samplers side by side; see `maskdiff/cli/benchmark.py`."""

from __future__ import annotations

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
