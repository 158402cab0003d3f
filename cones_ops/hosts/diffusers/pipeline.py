"""A diffusers `StableDiffusionPipeline` (SD 1.x, SD 2.x) or `StableDiffusionXLPipeline`: examples, model, samples.

Pictures become latents by its VAE (times scaling_factor), captions become tokens by its tokenizer and text encoder;
own tokens are found in the tokenised caption. Nothing is downloaded, and the pipeline is given back unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ...errors import ConesError
from ...guidance.regions import PROBE
from ...masks.concept_mask import Where
from ...models.own_tokens import own_positions
from ...models.phrases import OWN_WORDS, PHRASE, OwnWords, PromptText, own_spans, own_text, read_brackets
from ...models.targets import TargetChoice
from ...search.objective import Examples
from .apply_masks import Strengths, applied
from .host_model import DiffusersModel, TextTokens
from .regions import kept_apart

Words = tuple[str, str]  # identifier, class word


def host_model(
    pipeline: Any, where: Where = "own tokens", targets: TargetChoice = "text K+V", concepts: int = 1
) -> DiffusersModel:
    """The pipeline's UNet behind the library's boundary."""
    scheduler = pipeline.scheduler
    prediction = scheduler.config.prediction_type
    return DiffusersModel(pipeline.unet, scheduler.alphas_cumprod, prediction, targets, where, concepts)


def token_ids(pipeline: Any, text: str) -> list[int]:
    """Ids of a prompt as the text encoder gets it: start, words, end, padding."""
    length = pipeline.tokenizer.model_max_length
    return list(pipeline.tokenizer(text, padding="max_length", truncation=True, max_length=length).input_ids)


def own_row(pipeline: Any, text: str | PromptText, concept: Words, words: OwnWords = OWN_WORDS[0]) -> Tensor:
    """Boolean (L,): the concept's own tokens, by the rule `words`, among the L that the text encoder gets."""
    length = pipeline.tokenizer.model_max_length

    def tokenize(prompt: str) -> list[int | None]:
        words = pipeline.tokenizer(prompt, add_special_tokens=False).input_ids
        return [None, *words, *[None] * max(length - 1 - len(words), 1)]

    own = own_positions(tokenize, text, *concept, words)[:length]
    own[-1] = False  # the end token, also of a prompt that is too long
    return own


def conditioning(
    pipeline: Any,
    texts: Sequence[str],
    concepts: Sequence[Words] = (),
    rules: Sequence[OwnWords] = (),
    size: tuple[int, int] | None = None,
) -> list[TextTokens]:
    """One TextTokens per text, with the own tokens of each of `concepts`, or of one that has none.

    rules: which words are own, one per concept; default the phrase of each. size: of pictures, as for `encoded`.
    """
    rows, rules = [], rules or [PHRASE] * len(concepts)
    for text in texts:
        prompt = bracketed(text, concepts, rules)
        hidden, added = encoded(pipeline, prompt.text, size)
        own = [own_row(pipeline, prompt, *named) for named in zip(concepts, rules, strict=True)]
        if concepts and not any(bool(row.any()) for row in own):
            raise ConesError(f"caption {text!r} does not contain {named(concepts)}; put the words there")
        positions = torch.stack(own) if own else torch.zeros(1, len(hidden), dtype=torch.bool)
        rows.append(TextTokens(hidden, positions, added))
    return rows


def bracketed(text: str, concepts: Sequence[Words], rules: Sequence[OwnWords]) -> PromptText:
    """The prompt without the brackets around concepts, if any of them owns its phrase; otherwise as it is."""
    return read_brackets(text, [name for name, _ in concepts]) if PHRASE in rules else PromptText(text)


def own_words_in(texts: Sequence[str], concept: Words) -> str:
    """The rule of new searches, and a concept's own words by it in the first few different captions."""
    prompts = [bracketed(text, [concept], [PHRASE]) for text in texts]
    phrases = dict.fromkeys(own_text(prompt, own_spans(prompt, *concept, PHRASE)) for prompt in prompts)
    return f"{PHRASE}: {', '.join(list(phrases)[:5])}"


def named(concepts: Sequence[Words]) -> str:
    """The identifiers of concepts, for a message."""
    return " or ".join(f"the identifier {identifier!r}" for identifier, _ in concepts)


@torch.no_grad()
def encoded(pipeline: Any, text: str, size: tuple[int, int] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """A prompt's hidden states (L, D), and what SDXL gets beside them.

    size: height and width of the pictures in pixels, which SDXL gets too; default the model's own.
    """
    if not hasattr(pipeline, "text_encoder_2"):
        ids = torch.tensor([token_ids(pipeline, text)], device=pipeline.text_encoder.device)
        return pipeline.text_encoder(ids)[0][0], {}
    hidden, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
    side = pipeline.default_sample_size * pipeline.vae_scale_factor
    height, width = size or (side, side)
    times = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)  # nothing is cropped
    return hidden[0], {"text_embeds": pooled[0], "time_ids": times.to(hidden.device)}


def examples(
    pipeline: Any,
    pictures: Tensor,
    texts: Sequence[str],
    concepts: Sequence[Words] = (),
    rules: Sequence[OwnWords] = (),
) -> Examples:
    """Pictures (n, 3, H, W) in [0, 1] and their captions (n, or one for all) as latents and conditioning."""
    height, width = pictures.shape[-2:]
    return Examples(latents(pipeline, pictures), conditioning(pipeline, texts, concepts, rules, (height, width)))


@torch.no_grad()
def latents(pipeline: Any, pictures: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [0, 1] -> the UNet's latents (n, C, h, w), fp32."""
    vae = pipeline.vae
    means = [vae.encode((image[None] * 2 - 1).to(vae.device, vae.dtype)).latent_dist.mean for image in pictures]
    return torch.cat(means).float() * vae.config.scaling_factor  # type: ignore[no-any-return]


def sample(
    pipeline: Any,
    prompts: Sequence[str],
    masks: Strengths = (),
    *,
    negative: str = "",
    keep_apart: bool = False,
    seed: int = 0,
    any_base: bool = False,
    **options: Any,
) -> list[Any]:
    """One PIL picture per prompt by the pipeline's own scheduler; picture i starts from seed + i.

    keep_apart: where a prompt names two of the concepts or more, each stays in a region of its own.
    options go to the pipeline, e.g. num_inference_steps, guidance_scale, height, width.
    """
    guided = options.get("guidance_scale", 7.5) > 1  # then diffusers puts as many negative rows first
    pictures: list[Any] = []
    concepts = [(mask.identifier, mask.class_word) for mask, _ in masks]
    rules = [mask.own_words for mask, _ in masks]
    for i, prompt in enumerate(prompts):
        rows = [bracketed(text, concepts, rules) for text in ([negative, prompt] if guided else [prompt])]
        positions = [
            torch.stack([own_row(pipeline, row, *named) for row in rows]) for named in zip(concepts, rules, strict=True)
        ]  # (rows, L) for each concept
        pairs = zip(masks, positions, strict=True)
        own = [tokens if mask.where == "own tokens" else None for (mask, _), tokens in pairs]
        apart: AbstractContextManager[Any] = nullcontext()
        if keep_apart and positions:
            probe = max(1, round(PROBE * options.get("num_inference_steps", 50)))
            apart = kept_apart(pipeline.unet, torch.stack(positions, 1), probe=probe)
        texts = {"prompt": rows[-1].text, "negative_prompt": (rows[0].text if guided else negative) or None}
        generator = torch.Generator().manual_seed(seed + i)
        with applied(pipeline.unet, masks, own, any_base=any_base), apart:
            pictures += pipeline(**texts, generator=generator, **options).images
    return pictures
