"""What the demo finds and measures of one concept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...masks.concept_mask import ConceptMask, Where
from ...search.find import SearchResult
from ...toy_world.subjects import Subject
from ..measure import Measured

Judged = tuple[Measured, Measured, Measured]


@dataclass(frozen=True)
class DemoConcept:
    """A concept's search, its mask as loaded from its file, the file's size, and what the judge says."""

    subject: Subject
    where: Where
    result: SearchResult
    mask: ConceptMask
    file: Path
    shown: Measured
    leak: Measured
    second: Measured
