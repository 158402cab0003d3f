"""DreamBench's arithmetic on embeddings: cosines, averaged over pictures, then prompts, then subjects.

DINO and CLIP-I are `image_scores` of the two judges' image embeddings, CLIP-T is `text_scores`; `among_themselves` of
the real pictures is the ceiling of both image scores. Embeddings need not be normalised. No weights, no pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..averages import Average, mean_with_error

SCORES = ("dino", "clip_i", "clip_t")


def image_scores(generated: Tensor, real: Tensor) -> Tensor:
    """Per prompt (P,): mean cosine over all pairs of generated (P, S, D) and real pictures (n, D)."""
    return (_unit(generated) @ _unit(real).T).mean(dim=(1, 2))  # (P, S, n)


def text_scores(generated: Tensor, texts: Tensor) -> Tensor:
    """Per prompt (P,): mean cosine of generated pictures (P, S, D) with their own prompt's text (P, D)."""
    return (_unit(generated) * _unit(texts)[:, None]).sum(dim=-1).mean(dim=1)


def among_themselves(real: Tensor) -> float | None:
    """Mean cosine over all pairs of different pictures (n, D); None when there is only one."""
    n = len(real)
    if n < 2:
        return None
    cosines = _unit(real) @ _unit(real).T  # (n, n), 1 on the diagonal
    return float((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1)))


def summary(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures over subjects (or pairs), over the subjects of each class, and of the real pictures."""
    subjects = {entry["subject"]: entry for cell in cells for entry in cell["subjects"]}
    real: dict[str, Any] = {}
    for score in SCORES[:2]:
        values = [entry["real"][score] for entry in subjects.values()]
        real[f"real_{score}"] = mean_with_error([value for value in values if value is not None])
    by_class: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        by_class.setdefault(" + ".join(sorted(entry["class"] for entry in cell["subjects"])), []).append(cell)
    return {**_means(cells), **real, "by_class": {name: _means(group) for name, group in sorted(by_class.items())}}


def _means(cells: Sequence[Mapping[str, Any]]) -> dict[str, Average]:
    return {score: mean_with_error([cell[score] for cell in cells]) for score in SCORES}


def _unit(embeddings: Tensor) -> Tensor:
    return F.normalize(embeddings.double(), dim=-1)
