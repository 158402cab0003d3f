"""The one exception of the library, and how it names things.

A message says what is wrong, what was seen, and what to do. Lists of names show up to five and the total.
"""

from __future__ import annotations

from collections.abc import Iterable

LONGEST = 200  # letters of a name in a message


class ConesError(ValueError):
    """Something the user can put right: a wrong file, a wrong model, settings that do not fit."""

    __module__ = "cones_ops"  # hosts show it before the name, and would show the folder in which they found this pack


def listed(names: Iterable[str], most: int = 5) -> str:
    """Up to `most` names, sorted, then the total: "a, b, c, d, e, ... (12 in all)"."""
    names = sorted(name if len(name) <= LONGEST else f"{name[:LONGEST]}..." for name in map(str, names))
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])}, ... ({len(names)} in all)"
