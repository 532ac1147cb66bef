"""An alias of `python -m maskdiff.experiments.distillation.attempts`."""

import sys

from maskdiff.cli.arguments import run_cli
from maskdiff.experiments.distillation.attempts import main

if __name__ == "__main__":
    sys.exit(run_cli(main))
