"""Joint steps on a MODEL: from what the node receives to one tuned mask per concept.

Everything is checked before the model is loaded; the masks must have been found on this model. At own tokens the
prompts tell whose tokens are whose, and a token may be one concept's only.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.base import check_base
from ....cones_ops.masks.concept_mask import ConceptMask
from ....cones_ops.search.estimate import BYTES, OnEstimate
from ....cones_ops.search.joint import TuneResult, UnionModel, tune_concept_masks
from ....cones_ops.search.objective import Examples, Pictures
from ....cones_ops.search.settings import OnStep, SearchSettings
from ..parameters import base_identity, parameter_shapes
from ..text.captions import captioned, check_prompts, prompt_name
from ..text.token_positions import KEY, TokenPositions, phrase, token_positions_of
from .borrow import borrow
from .example_inputs import batch_or_list, checked_latents, loss_weights
from .host_model import BorrowedModel
from .kept_states import kept_state

log = logging.getLogger("cones")

TOGETHER, CLASSES = "together", "class"


@dataclass(frozen=True)
class TuneInputs:
    """One concept as the user connected it."""

    mask: ConceptMask
    latents: Any
    conditioning: Any


@dataclass(frozen=True)
class Captioned:
    """The label of some latents and those of their captions, one for all or one each; the weights of their loss."""

    latents: str
    captions: list[str]
    weights: Pictures | None


def tune(
    model: Any,
    subjects: Sequence[TuneInputs],
    together: tuple[Any, Any] | None,
    class_conditioning: Any | None,
    settings: SearchSettings,
    prior_weight: float,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
) -> TuneResult:
    """Tune the masks together; the model is the same afterwards. together: latents and CONDITIONING of them all.

    Joint steps that were cancelled or killed resume where they were when this is called with the same inputs.
    """
    masks = [subject.mask for subject in subjects]
    where, names = checked_masks(model, masks)
    connected = {f"mask_{k + 1}": (subject.latents, subject.conditioning) for k, subject in enumerate(subjects)}
    if together is not None:
        connected[TOGETHER] = together
    latents = checked_latents({label: samples for label, (samples, _) in connected.items()})
    concepts = [(mask.identifier, mask.class_word) for mask in masks]
    words = {label: [concept] for label, concept in zip(connected, concepts, strict=False)}  # together: all of them
    conditionings: dict[str, Any] = {}
    pictures = []
    for label, (samples, prompts) in connected.items():
        captions = captioned(label, prompts, len(samples["samples"]), words.get(label, concepts))
        labels = [alike(caption, conditionings) for caption in captions.items()]
        pictures.append(Captioned(label, labels, loss_weights(samples)))
    if where == "own tokens":
        check_own_tokens(pictures, conditionings, concepts)
    else:
        if class_conditioning is None:
            raise ConesError(
                "class_conditioning is not connected; these masks act everywhere, and without it every other prompt "
                "would suffer. Encode the prompts without identifiers and connect them, several through Conditioning "
                "(Combine)"
            )
        check_prompts(CLASSES, class_conditioning, len(pictures))
        conditionings |= {f"{CLASSES} {k + 1}": [entry] for k, entry in enumerate(class_conditioning)}

    def body(host: BorrowedModel) -> TuneResult:
        examples = [Examples(host.latents[group.latents], group.captions, group.weights) for group in pictures]
        apart, beside = examples[: len(masks)], examples[len(masks) :]
        acting: Any = host if where == "own tokens" else UnionModel(host, len(masks))
        prior = None if where == "own tokens" else prior_of(apart, [c for c in conditionings if c.startswith(CLASSES)])
        return tune_concept_masks(
            acting,
            masks,
            apart,
            beside[0] if beside else None,
            prior,
            settings=settings,
            prior_weight=prior_weight,
            on_step=on_step,
            on_estimate=on_estimate,
            resume=resume,
        )

    rows = settings.batch * (len(pictures) + (where == "everywhere"))  # all terms of the loss are alive at once
    with kept_state(model, conditionings, concepts) as resume:
        return borrow(
            model,
            conditionings,
            latents,
            names,
            body,
            rows=rows,
            concepts=concepts if where == "own tokens" else [],
            statistics=BYTES[settings.method] * len(masks),
        )


def checked_masks(model: Any, masks: Sequence[ConceptMask]) -> tuple[Any, list[str]]:
    """Where the masks act and what was searched; ConesError unless all are of this model and alike in both."""
    if len(masks) < 2:
        raise ConesError(f"{len(masks)} concept mask connected; connect at least two to tune them together")
    if len(ways := {mask.where for mask in masks}) > 1:
        raise ConesError(f"the masks act {' and '.join(sorted(ways))}; tune masks together that act in one way")
    names = sorted(masks[0].shapes)
    if other := [phrase((m.identifier, m.class_word)) for m in masks if sorted(m.shapes) != names]:
        raise ConesError(
            f"{listed(other)}: searched in other weights than the first mask; use the same targets for all"
        )
    shapes = parameter_shapes(model)
    if missing := [name for name in names if shapes.get(name) != masks[0].shapes[name]]:
        raise ConesError(f"the model has no {listed(missing)} of the masks' shape; were they found on another model?")
    base = base_identity(model, names)
    for mask in masks:
        if note := check_base(mask, base, remedy="load the model that the masks belong to"):
            log.warning("%s", note)
    return masks[0].where, names


def alike(caption: tuple[str, Any], conditionings: dict[str, Any]) -> str:
    """The label of an equal conditioning that is there already; else the caption's own, and it is put there.

    Rows with one label go through the model together.
    """
    label, conditioning = caption
    for known, other in conditionings.items():
        if len(conditioning) == len(other) == 1 and same_text(conditioning[0], other[0]):
            return known
    conditionings[label] = conditioning
    return label


def same_text(first: Any, second: Any) -> bool:
    """Whether two entries of a CONDITIONING hold the same text, token positions and further tensors."""
    return same(first[0], second[0]) and same(first[1], second[1])


def same(first: Any, second: Any) -> bool:
    """Whether two values of a CONDITIONING are equal; what is neither tensor nor mapping must be one object."""
    if isinstance(first, TokenPositions) and isinstance(second, TokenPositions):
        return same(first.positions, second.positions)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    both = isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    return torch.equal(first, second) if both else first is second


def check_own_tokens(pictures: Sequence[Captioned], conditionings: Any, concepts: Sequence[tuple[str, str]]) -> None:
    """ConesError unless every prompt has the own tokens it should, and no token is two concepts'."""
    for k, group in enumerate(pictures):
        for number, caption in enumerate(group.captions, 1):
            name = prompt_name(group.latents, number, len(group.captions))
            for concept in [concepts[k]] if group.latents != TOGETHER else concepts:
                token_positions_of(conditionings[caption], concept, name, "")
            for _, extra in conditionings[caption]:
                places: TokenPositions | None = extra.get(KEY)
                own = torch.cat([places.of(concept) for concept in concepts]) if places else torch.zeros(0)
                if len(own.unique()) < len(own):
                    raise ConesError(
                        "a token belongs to two concepts at once; masks that are tuned together need identifiers of "
                        "their own"
                    )


def prior_of(subjects: Sequence[Examples], classes: Sequence[str]) -> Examples:
    """Everywhere: the subjects' pictures under class captions in turn, the untouched model being the example."""
    latents = batch_or_list([picture[None] for subject in subjects for picture in subject.latents])
    return Examples(latents, list(islice(cycle(classes), len(latents))))
