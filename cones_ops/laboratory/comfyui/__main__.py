"""Print the folder of the ComfyUI that tests, demo and tools use."""

from __future__ import annotations

import sys

from ...errors import ConesError
from .checkout import find_host

try:
    sys.stdout.write(f"{find_host()}\n")
except ConesError as error:
    sys.exit(str(error))
