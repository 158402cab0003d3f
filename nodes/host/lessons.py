"""From a user's pictures to what a search needs: one size, captions, and the subject beside other things.

The other things are drawn by the model itself, once: what a search that was stopped has drawn is kept until it ends.
Everything depends on the inputs and the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from torch import Tensor

from ...cones_ops.errors import ConesError
from ...cones_ops.images.collages import collages, layout_caption
from ...cones_ops.masks.concept_mask import ConceptMask
from ...cones_ops.masks.mask_file import read_mask_metadata
from ...cones_ops.models.phrases import PHRASE, own_spans
from ...cones_ops.models.rare_words import THINGS, check_known, rare_word, told_apart, with_article
from ...cones_ops.reports.figures import labelled_grid
from ...cones_ops.search.resume import Resume
from .apply.apply_masks import apply_masks
from .files.folders import SUFFIX, mask_names, path_of
from .files.model_info import usual_settings
from .inputs import as_pixels, comma_separated
from .search.kept_states import kept_tensor
from .text.encode import encode_prompt, flat_tokens, is_tokens
from .text.token_positions import ConceptWords, phrase

DRAWING_STEPS = 20
MASKS_READ = 500  # of a large folder, for the identifiers that are taken


@dataclass(frozen=True)
class Lesson:
    """IMAGE (n, side, side, 3), and what each picture shows in words."""

    pictures: Tensor
    captions: list[str]


@dataclass(frozen=True)
class Artist:
    """A model with its text encoder and VAE, and how it draws: pixels of a side, guidance, seed.

    zoom: of collages. drew: called after each picture. drawings: of this model, where latents are kept; None: nowhere.
    """

    model: Any
    clip: Any
    vae: Any
    side: int
    cfg: float
    seed: int
    zoom: float
    drew: Callable[[], None] = field(default=lambda: None)
    drawings: Resume | None = None

    @classmethod
    def of(cls, model: Any, clip: Any, vae: Any, side: int, cfg: float, seed: int) -> Artist:
        """0 for side or cfg: what this kind of model usually draws with."""
        usual_side, usual_cfg, zoom = usual_settings(model)
        return cls(model, clip, vae, side or usual_side, cfg or usual_cfg, seed, zoom)

    @cached_property
    def empty(self) -> Tensor:
        """The latents of no picture: zeros in the shape that the VAE gives."""
        return torch.zeros_like(self.vae.encode(torch.zeros(1, self.side, self.side, 3)))

    @cached_property
    def negative(self) -> list[Any]:
        """The CONDITIONING of no text."""
        return encode_prompt(self.clip, "", ()).conditioning

    def tokens_of(self, word: str) -> Hashable:
        """A word's tokens in every text encoder."""
        result = self.clip.tokenize(word, return_word_ids=True)
        return tuple(tuple(flat_tokens(chunks)) for chunks in result.values() if is_tokens(chunks))

    def draw(self, text: str, number: int = 0, concepts: Sequence[ConceptWords] = (), model: Any = None) -> Tensor:
        """One IMAGE (1, side, side, 3), by default of the model as it is; `number` counts other noise."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        model = model or self.model
        positive = encode_prompt(self.clip, text, concepts, PHRASE).conditioning
        seed = self.seed + number
        sampling = (DRAWING_STEPS, self.cfg, "euler", "normal", positive, self.negative, self.empty)

        def sampled() -> Tensor:
            noise = comfy.sample.prepare_noise(self.empty, seed)
            return torch.as_tensor(comfy.sample.sample(model, noise, *sampling, disable_pbar=True, seed=seed))

        samples = kept_tensor(self.drawings, sampled, self.empty, seed, *sampling)
        pictures: Tensor = self.vae.decode(samples)
        self.drew()
        return pictures.reshape(-1, *pictures.shape[-3:])[:1, ..., :3].float().cpu()


def fitted(images: Sequence[Tensor], side: int) -> Tensor:
    """A list of IMAGEs of any sizes as one (n, side, side, 3): the middle of each, scaled."""
    if not images or any(batch.ndim != 4 or not len(batch) for batch in images):
        raise ConesError("there are no pictures; connect Load Image, or a node that loads a folder")
    squares = [
        comfy.utils.common_upscale(batch[..., :3].movedim(-1, 1), side, side, "lanczos", "center") for batch in images
    ]
    return torch.cat(squares).movedim(1, -1).float()


def concept_of(choice: Any, artist: Artist) -> ConceptWords:
    """The words that will name the subject."""
    class_word = " ".join(choice.class_word.split())
    if not class_word:
        raise ConesError('class_word is empty; write what the subject is, such as "dog"')
    check_known(class_word, artist.tokens_of)
    replaced = f"{choice.name.strip()}{SUFFIX}" if choice.if_exists == "overwrite" else ""
    return choice.identifier.strip() or rare_word(artist.tokens_of, taken_identifiers(replaced)), class_word


def taken_identifiers(replaced: str = "") -> set[str]:
    """Identifiers of saved concepts but the one to be replaced; files that cannot be read have none."""
    words: set[str] = set()
    for name in [name for name in mask_names() if name != replaced][:MASKS_READ]:
        try:
            words.update(read_mask_metadata(path_of(name)).get("cones.identifier", "").split("+"))
        except (ConesError, OSError):
            continue
    return words


def own_captions(texts: Sequence[str], pictures: int, concept: ConceptWords) -> list[str]:
    """A caption for each picture that names the concept: the user's with its words in them, else "a sks dog".

    texts: one per picture, as dataset nodes read them from files, where an empty one means that there is no file; or
    one text with a line per picture.
    """
    if len(texts) == pictures > 1:
        captions = [" ".join(text.split()) for text in texts]
    else:
        captions = [line for text in texts for line in text.splitlines() if line.strip()]
    if not any(captions):
        captions = [""] * pictures
    if len(captions) != pictures:
        raise ConesError(f"{len(captions)} captions for {pictures} pictures; write one line per picture, or none")
    alone = with_article(phrase(concept))
    return [named(caption, k + 1, concept) if caption else alone for k, caption in enumerate(captions)]


def named(caption: str, number: int, concept: ConceptWords) -> str:
    """The caption with the identifier before its class word, where it is not there yet."""
    identifier, class_word = concept
    if own_spans(caption, identifier, class_word):
        return caption
    if spans := own_spans(caption, class_word):
        start = spans[0][0]
        return f"{caption[:start]}{identifier} {caption[start:]}"
    raise ConesError(f'caption {number}, "{caption}", does not say "{class_word}"; say what the picture shows')


def beside_others(artist: Artist, subject: Tensor, concept: ConceptWords, things: Sequence[str], count: int) -> Lesson:
    """About `count` pictures of the subject beside other things, which the model draws; none where it has no things."""
    pictures, captions = [], []
    for k in range(-(-count // 2) if things else 0):
        thing = with_article(things[k % len(things)])
        neighbour = artist.draw(thing, number=k).movedim(-1, 1)
        portrait = subject[k % len(subject)].movedim(-1, 0)[None]
        laid, words = collages([portrait, neighbour], [with_article(phrase(concept)), thing], artist.zoom)
        pictures.append(laid.movedim(1, -1))
        captions += words
    return Lesson(torch.cat(pictures) if pictures else subject[:0], captions)


def other_things(artist: Artist, wanted: str, class_word: str) -> list[str]:
    """What may stand beside the subject: the user's list, or common things that the text encoder tells apart."""
    if things := comma_separated(wanted):
        return things
    words = told_apart(THINGS, artist.tokens_of)
    return [word for word in words if word.lower() != class_word.lower()][:8]


def before_after(
    artist: Artist, subject: Tensor, mask: ConceptMask, concept: ConceptWords, things: Sequence[str]
) -> Any:
    """Labelled: a picture of the subject, the model without and with the concept, alone and beside a thing."""
    words, masked = with_article(phrase(concept)), apply_masks(artist.model, [(mask, 1.0)])
    views = {
        "your picture": subject[:1],
        f"before: {words}": artist.draw(words, 1000),
        f"after: {words}": artist.draw(words, 1000, [concept], masked),
    }
    if things:
        together = layout_caption([words, with_article(things[0])])
        views[f"after: {together}"] = artist.draw(together, 1001, [concept], masked)
    return labelled_grid([as_pixels(view)[0] for view in views.values()], list(views))
