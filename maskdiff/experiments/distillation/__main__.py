"""`python -m maskdiff.experiments.distillation`: see `cli.py`."""

import sys

from maskdiff.cli import arguments as cli
from maskdiff.experiments.distillation.cli import main

if __name__ == "__main__":
    sys.exit(cli.run_cli(main))
