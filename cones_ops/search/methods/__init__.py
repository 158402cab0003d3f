"""Search methods: from gradients on concept-implanting losses to one score per searched entry (see settings.py).

All have one signature and live side by side, so that each can be compared with the others.
"""

from __future__ import annotations

from ..settings import Method, MethodName
from .cones import cones
from .learned import learned
from .taylor import taylor

METHODS: dict[MethodName, Method] = {
    "learned": learned,
    "cones": cones,
    "taylor": taylor,
}
