"""Search methods: from gradients on concept-implanting losses to one score per searched entry (see settings.py).

All have one signature and live side by side, so that each can be compared with the others.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..host_model import HostModel, Key
from ..progress import Progress
from ..settings import MethodName, SampleLoss, SearchSettings
from .cones import cones
from .learned import learned
from .taylor import taylor

Method = Callable[[HostModel, SampleLoss, SearchSettings, Progress | None], dict[Key, Tensor]]

METHODS: dict[MethodName, Method] = {
    "learned": learned,
    "cones": cones,
    "taylor": taylor,
}
