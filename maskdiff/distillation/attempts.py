"""`python -m maskdiff.distillation.attempts`, the former name of the command in `maskdiff.experiments.distillation`."""

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.experiments.distillation.attempts import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
