"""`python -m maskdiff.distillation`: see `door.py`."""

import sys

from maskdiff import cli
from maskdiff.distillation.door import main

if __name__ == "__main__":
    sys.exit(cli.run_door(main))
