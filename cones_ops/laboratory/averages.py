"""Means and shares with their standard errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

Average = dict[str, float | None]  # value, standard_error, n


def mean_with_error(values: Sequence[float] | Tensor, digits: int | None = None) -> Average:
    """Mean, its standard error (None for one value) and how many there are; all None without values."""
    numbers = np.asarray(values, dtype=float)
    n = len(numbers)
    mean = float(numbers.mean()) if n else None
    error = float(numbers.std(ddof=1)) / n**0.5 if n > 1 else None
    if digits is not None:
        mean, error = (None if number is None else round(number, digits) for number in (mean, error))
    return {"value": mean, "standard_error": error, "n": n}


def share_error(share: float, n: int) -> float:
    """Binomial standard error of a share of `n`."""
    return float((share * (1 - share) / n) ** 0.5)
