"""`python -m cones_ops.cli` is the command `cones`."""

from . import main

if __name__ == "__main__":
    main()
