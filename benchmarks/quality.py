"""The same as `cones bench quality` (cones_ops/toy_world/quality), where the other benchmarks are."""

from __future__ import annotations

import sys

from cones_ops.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "quality", *sys.argv[1:]]))
