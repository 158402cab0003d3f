"""Whether a mask is put on the base weights that it was found on; the one rule of all hosts."""

from __future__ import annotations

from ..errors import ConesError
from .concept_mask import ConceptMask
from .fingerprint import Base, stored_otherwise


def check_base(mask: ConceptMask, base: Base, anyway: bool = False, remedy: str = "load the base it is for") -> str:
    """A note about the base, "" if there is none; ConesError, with `remedy`, for other weights unless `anyway`.

    The same weights in another storage format (bf16, fp8, quantised) are a note: the neurons mean the same there.
    """
    if mask.fingerprint in ("", base.fingerprint):
        return ""
    who = f"the concept mask \"{f'{mask.identifier} {mask.class_word}'.strip() or '?'}\""
    if stored_otherwise(mask.sketch, base.sketch):
        return f"{who} was found on the same base weights, stored in another format"
    text = (
        f"{who} was found on base weights {mask.fingerprint[:16]} but these are {base.fingerprint[:16]}; "
        "its neurons mean something else here"
    )
    if not anyway:
        raise ConesError(f"{text}: {remedy}")
    return f"{text}; applied anyway"
