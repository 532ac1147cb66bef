"""`python -m maskdiff.distillation`: an alias of `python -m maskdiff.experiments.distillation`."""

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.experiments.distillation.cli import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
