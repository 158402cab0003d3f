"""All steps with a diffusers pipeline: read pictures, find, tune, sample (docs/tutorials/python.md).

A `Concept` is what the user knows of one: its two words, its pictures, how they are captioned. `find` and `tune` make
of it what the search needs; `cones find`, `tune` and `apply` are these functions with files around them. The pipeline
is given back unchanged, also after an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ...errors import ConesError
from ...images.collages import ZOOM, collages
from ...masks.concept_mask import ConceptMask, Where
from ...models.phrases import PHRASE, OwnWords
from ...models.targets import TargetChoice
from ...search.estimate import OnEstimate
from ...search.find import SearchResult, find_concept_neurons
from ...search.joint import TuneResult, UnionModel, tune_concept_masks, tuning
from ...search.ranks import ALONE, Ranks, SharedModel
from ...search.resume import Resume
from ...search.settings import OnStep, SearchSettings, recommended
from .loading import load
from .pictures import PICTURES, read_pictures
from .pipeline import Words, examples, host_model, own_words_in, sample

__all__ = ["PICTURES", "Concept", "find", "load", "read_pictures", "sample", "tune"]


@dataclass(frozen=True)
class Concept:
    """A subject to find: the rare word that is to name it, what it is, pictures (n, 3, H, W) in [0, 1] of it."""

    identifier: str
    class_word: str
    pictures: Tensor
    # for all pictures, or one each; {}: "<identifier> <class word>", or the class word alone where it is the prior's
    caption: str | tuple[str, ...] = "a photo of a {}"

    def __post_init__(self) -> None:
        for caption in self.texts("{}"):
            if caption.count("{}") != 1:
                raise ConesError(f"caption {caption!r}: write {{}} once, where the concept's words belong")

    @property
    def words(self) -> Words:
        """Identifier and class word."""
        return self.identifier, self.class_word

    @property
    def phrase(self) -> str:
        """What names the concept in a prompt."""
        return " ".join(self.words)

    def texts(self, words: str) -> list[str]:
        """The captions with `words` in them: one for all pictures, or one for each."""
        captions = (self.caption,) if isinstance(self.caption, str) else self.caption
        return [caption.replace("{}", words) for caption in captions]


def find(
    pipeline: Any,
    concept: Concept,
    where: Where = "own tokens",
    *,
    targets: TargetChoice = "text K+V",
    settings: SearchSettings | None = None,
    density: float | None = None,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
    resume: Resume | None = None,
    ranks: Ranks = ALONE,
) -> SearchResult:
    """Find the concept's neurons: `.mask` is its ConceptMask, empty if nothing helps (`.found`).

    settings: default `recommended(where)`. density: share to shut, default chosen on held-out noise. ranks: the
    processes that share the search, all of which call this alike.
    """
    texts = concept.texts(concept.phrase)
    subject = examples(pipeline, concept.pictures, texts, [concept.words])
    prior = None
    if where == "everywhere":  # the frozen model's own answer to the class prompt; needs no class pictures
        prior = examples(pipeline, concept.pictures, concept.texts(concept.class_word))
    model = host_model(pipeline, where, targets)
    return find_concept_neurons(
        SharedModel(model, ranks) if ranks.size > 1 else model,
        subject,
        prior,
        identifier=concept.identifier,
        class_word=concept.class_word,
        settings=settings or recommended(where),
        density=density,
        distill=prior is not None,
        own_words=PHRASE,
        provenance={"own_tokens": own_words_in(texts, concept.words)} if where == "own tokens" else None,
        on_step=on_step,
        on_estimate=on_estimate,
        resume=resume,
    )


def tune(
    pipeline: Any,
    masks: Sequence[ConceptMask],
    concepts: Sequence[Concept],
    *,
    targets: TargetChoice = "text K+V",
    zoom: float = ZOOM,
    settings: SearchSettings | None = None,
    on_step: OnStep | None = None,
    on_estimate: OnEstimate | None = None,
    resume: Resume | None = None,
) -> TuneResult:
    """Joint steps on the masks of 2 to 4 concepts, so that they share a picture: `.masks`, one per concept, in order.

    Each is tuned on its own pictures and on collages of all (zoom: a picture's scale in them). If the joint loss does
    not fall, `.masks` are those given (`.tuned`). settings: default `tuning()`.
    """
    words = [concept.words for concept in concepts]
    if len(masks) < 2 or words != [(mask.identifier, mask.class_word) for mask in masks]:
        named = ", ".join(f"{mask.identifier} {mask.class_word}" for mask in masks)
        raise ConesError(
            f"masks of {named or 'nothing'} but concepts {', '.join(c.phrase for c in concepts) or 'none'}; "
            "give two or more of each, in the same order"
        )
    rules: list[OwnWords] = [mask.own_words for mask in masks]
    laid, captions = collages([c.pictures for c in concepts], [f"a {c.phrase}" for c in concepts], zoom)
    prior = None
    if all(mask.where == "everywhere" for mask in masks):
        model: Any = UnionModel(host_model(pipeline, "everywhere", targets), len(masks))
        texts = [text for c in concepts for text, _ in zip(cycle(c.texts(c.class_word)), c.pictures, strict=False)]
        prior = examples(pipeline, torch.cat([c.pictures for c in concepts]), texts)
        words, rules = [], []  # everywhere no token is a concept's own
    else:
        model = host_model(pipeline, "own tokens", targets, len(masks))
    return tune_concept_masks(
        model,
        masks,
        [examples(pipeline, c.pictures, c.texts(c.phrase), words, rules) for c in concepts],
        examples(pipeline, laid, captions, words, rules),
        prior,
        settings=settings or tuning(),
        on_step=on_step,
        on_estimate=on_estimate,
        resume=resume,
    )
