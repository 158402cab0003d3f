"""One search on a MODEL: from what the node receives to a SearchResult.

Everything is checked before the model is loaded. The mask carries the fingerprint of the base weights, without the
patches that happened to be on the model, so that Apply recognises the base with or without a LoRA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.concept_mask import Where
from ....cones_ops.masks.fingerprint import fingerprint
from ....cones_ops.models.targets import TargetChoice, own_tokens_at, select_targets
from ....cones_ops.search.estimate import BYTES, OnEstimate
from ....cones_ops.search.find import SearchResult, find_concept_neurons
from ....cones_ops.search.objective import Examples
from ....cones_ops.search.settings import OnStep, SearchSettings
from ..parameters import PREFIX, base_weight, parameter_shapes
from ..text.token_positions import Concept, own_of
from .borrow import borrow
from .host_model import BorrowedModel

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
    where: Where = "everywhere",
    on_estimate: OnEstimate | None = None,
) -> SearchResult:
    """Find the concept's neurons; the model is the same afterwards. At own tokens the class inputs are not used."""
    names = select_targets(parameter_shapes(model), choice)
    words = checked_words(task)
    captions = captioned(SUBJECT, task.subject_conditioning, len(task.subject["samples"]))
    prior_inputs = checked_class(task) if where == "everywhere" else ({}, {})
    latents = checked_latents({SUBJECT: task.subject} | prior_inputs[0])
    facts = own_token_facts(captions.values(), words, names) if where == "own tokens" else {}

    def body(host: BorrowedModel) -> SearchResult:
        prior = Examples(host.latents.get(CLASS, host.latents[SUBJECT]), [CLASS]) if CLASS in host.conds else None
        return find_concept_neurons(
            host,
            Examples(host.latents[SUBJECT], list(captions)),
            prior,
            identifier=words[0],
            class_word=words[1],
            settings=settings,
            density=density,
            prior_weight=prior_weight,
            distill=prior is not None and CLASS not in host.latents,
            on_step=on_step,
            on_estimate=on_estimate,
        )

    conditionings = captions | prior_inputs[1]
    concepts = [words] if where == "own tokens" else []
    result = borrow(
        model,
        conditionings,
        latents,
        names,
        body,
        rows=settings.batch,
        concepts=concepts,
        statistics=BYTES[settings.method],
    )
    base = fingerprint({name: base_weight(model, PREFIX + name) for name in names})
    told = {**result.mask.provenance, **facts}
    return replace(result, mask=replace(result.mask, fingerprint=base, provenance=told))


def checked_words(task: Task) -> tuple[str, str]:
    """Identifier and class word, both needed to name the concept."""
    identifier, class_word = task.identifier.strip(), task.class_word.strip()
    if not identifier or not class_word:
        raise ConesError(
            f'identifier "{identifier}", class word "{class_word}": both are needed, as in "sks" and "star"; '
            "use the words of the subject's prompt"
        )
    return identifier, class_word


def captioned(label: str, prompts: Any, pictures: int) -> dict[str, Any]:
    """CONDITIONINGs by label: one for all pictures, or one per picture."""
    prompts = list(prompts)
    check_single(label, prompts, pictures)
    if len(prompts) <= 1:
        return {label: prompts}
    if len(prompts) != pictures:
        raise ConesError(
            f"{len(prompts)} prompts for {pictures} pictures ({label}); connect one prompt for all, or one per picture "
            "(prompt_per_line in Encode Prompt with Concepts, or Conditioning (Combine))"
        )
    return {f"{label} {k + 1}": [one] for k, one in enumerate(prompts)}


def checked_class(task: Task) -> tuple[dict[str, Any], dict[str, Any]]:
    """Latents (maybe none) and CONDITIONING of the class, by label."""
    if task.class_conditioning is None:
        raise ConesError(
            "class_conditioning is not connected; without it every other prompt would suffer. "
            "Encode the prompt without "
            'the identifier ("a star") and connect it; class pictures are optional. Or search at own tokens, which '
            "needs neither"
        )
    latents = {} if task.class_latents is None else {CLASS: task.class_latents}
    check_single(CLASS, task.class_conditioning, len((task.class_latents or task.subject)["samples"]))
    return latents, {CLASS: task.class_conditioning}


def check_single(label: str, conditioning: Any, pictures: int) -> None:
    """ConesError for a batch of prompts in one tensor."""
    for entry in conditioning:
        if len(entry[0]) != 1:
            raise ConesError(
                f"the {label} conditioning is a batch of {len(entry[0])} prompts for "
                f"{pictures} pictures; connect one prompt that fits all pictures"
            )


def checked_latents(given: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Latents by label; ConesError where nothing is in them."""
    latents: dict[str, Tensor] = {label: one["samples"] for label, one in given.items()}
    for label, one in latents.items():
        if isinstance(one, torch.Tensor) and not one.is_nested and torch.count_nonzero(one) == 0:
            raise ConesError(f"the {label} latents are all zero; connect VAE Encode of the pictures")
    return latents


def own_token_facts(captions: Iterable[Any], concept: Concept, names: Sequence[str]) -> dict[str, str]:
    """Which tokens a search used, for the mask's provenance; ConesError where there are none to search at."""
    if others := [name for name in names if own_tokens_at(name) is None]:
        raise ConesError(
            f"{listed(others)} do not read the text, or not where its tokens can be told apart, and so have no own "
            "tokens; choose text targets, or where = everywhere"
        )
    places = [one for caption in captions for one in own_of(caption, concept)]
    seen = dict.fromkeys(
        f"{', '.join(str(int(k)) for k in one.of(concept))} of {one.encoded.shape[1]}" for one in places
    )
    words = ", ".join(dict.fromkeys(one.words for one in places))  # none: an empty conditioning, refused by `borrow`
    return {"own_tokens": f"{words}, at {'; '.join(list(seen)[:5])}"}
