"""One search on a MODEL: from what the node receives to a SearchResult.

Everything is checked before the model is loaded. The mask carries the fingerprint of the base weights, without the
patches that happened to be on the model, so that Apply recognises the base with or without a LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...cones_ops.errors import ConesError
from ...cones_ops.find import SearchResult, find_concept_neurons
from ...cones_ops.fingerprint import fingerprint
from ...cones_ops.loss import Examples
from ...cones_ops.search import OnStep, SearchSettings
from ...cones_ops.targets import TargetChoice, select_targets
from .denoiser import BorrowedModel, borrow
from .parameters import PREFIX, base_weight, parameter_shapes

SUBJECT, CLASS = "subject", "class"


@dataclass(frozen=True)
class Task:
    """What the user connected: latents dicts and CONDITIONINGs as the host passes them."""

    subject: Mapping[str, Any]
    subject_conditioning: Any
    class_latents: Mapping[str, Any] | None
    class_conditioning: Any | None
    identifier: str
    class_word: str


def search(
    model: Any,
    task: Task,
    choice: TargetChoice,
    settings: SearchSettings,
    density: float | None,
    prior_weight: float,
    on_step: OnStep | None = None,
) -> SearchResult:
    """Find the concept's neurons; the model is the same afterwards."""
    shapes = parameter_shapes(model)
    names = select_targets(shapes, choice)
    words = checked_words(task)
    latents, conditionings = checked_pictures(task)

    def body(host: BorrowedModel) -> SearchResult:
        subject = Examples(host.latents[SUBJECT], [SUBJECT])
        prior = Examples(host.latents.get(CLASS, host.latents[SUBJECT]), [CLASS])
        return find_concept_neurons(
            host,
            subject,
            prior,
            identifier=words[0],
            class_word=words[1],
            settings=settings,
            density=density,
            prior_weight=prior_weight,
            distill=CLASS not in host.latents,
            on_step=on_step,
        )

    result = borrow(model, conditionings, latents, names, body, rows=settings.batch)
    base = fingerprint({name: base_weight(model, PREFIX + name) for name in names})
    return replace(result, mask=replace(result.mask, fingerprint=base))


def checked_words(task: Task) -> tuple[str, str]:
    """Identifier and class word, both needed to name the concept."""
    identifier, class_word = task.identifier.strip(), task.class_word.strip()
    if not identifier or not class_word:
        raise ConesError(
            f'identifier "{identifier}", class word "{class_word}": both are needed, as in "sks" and "star"; '
            "use the words of the subject's prompt"
        )
    return identifier, class_word


def checked_pictures(task: Task) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Latents and conditionings by label, or what is missing or does not match."""
    if task.class_conditioning is None:
        raise ConesError(
            "class_conditioning is not connected; without it every other prompt would suffer. "
            "Encode the prompt without "
            'the identifier ("a star") and connect it; class pictures are optional'
        )
    latents: dict[str, Tensor] = {SUBJECT: task.subject["samples"]}
    if task.class_latents is not None:
        latents[CLASS] = task.class_latents["samples"]
    conditionings = {SUBJECT: task.subject_conditioning, CLASS: task.class_conditioning}
    for label, conditioning in conditionings.items():
        for entry in conditioning:
            if len(entry[0]) != 1:
                raise ConesError(
                    f"the {label} conditioning is a batch of {len(entry[0])} prompts for "
                    f"{len(latents.get(label, latents[SUBJECT]))} pictures; connect one prompt that fits all pictures"
                )
    for label, one in latents.items():
        if isinstance(one, torch.Tensor) and not one.is_nested and torch.count_nonzero(one) == 0:
            raise ConesError(f"the {label} latents are all zero; connect VAE Encode of the pictures")
    return latents, conditionings
