"""`python -m cones_ops.cli` is the command `cones`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
