"""A diffusers `StableDiffusionPipeline` (SD 1.x, SD 2.x) from a local folder: examples, host model, samples.

Pictures become latents by its VAE (times scaling_factor), captions become tokens by its tokenizer and text encoder;
own tokens are found in the tokenised caption. Nothing is downloaded, and the pipeline is given back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ConesError
from ...masks.concept_mask import Where
from ...models.own_tokens import own_positions
from ...models.phrases import OWN_WORDS, PHRASE, OwnWords, PromptText, own_spans, own_text, read_brackets
from ...models.targets import TargetChoice
from ...search.objective import Examples
from .apply_masks import Strengths, applied
from .host_model import DiffusersModel, TextTokens

Words = tuple[str, str]  # identifier, class word
INSTALL = "pip install cones-concept-neurons[diffusers]"


def load(folder: str | Path, device: str = "cpu") -> Any:
    """The pipeline saved in `folder` (a diffusers directory with model_index.json), in fp32."""
    folder = Path(folder)
    check_model(folder)
    try:
        from diffusers import StableDiffusionPipeline
    except ImportError as error:
        raise ConesError(f"{error}; models on disk need diffusers and transformers: {INSTALL}") from error
    options = {"safety_checker": None, "requires_safety_checker": False, "local_files_only": True}
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, **options)
        return pipeline.to(device, torch.float32)
    except Exception as error:  # a damaged folder brings out any kind
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConesError(f"{folder}: the model cannot be loaded ({lines[0][:200]}); is the folder whole?") from error


def check_model(folder: Path) -> None:
    """ConesError unless a folder says that it holds a model of a supported kind; reads its small index alone."""
    index = folder / "model_index.json"
    try:
        kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except OSError:
        raise ConesError(f"{folder}: no model_index.json; give the folder of a model saved by diffusers") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConesError(f"{index}: not the index of a model; is the folder whole?") from None
    if kind != "StableDiffusionPipeline":
        raise ConesError(f"{folder}: a {kind}; SD 1.x and SD 2.x pipelines are supported")


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
    pipeline: Any, texts: Sequence[str], concepts: Sequence[Words] = (), rules: Sequence[OwnWords] = ()
) -> list[TextTokens]:
    """One TextTokens per text, with the own tokens of each of `concepts`, or of one that has none.

    rules: which words are own, one per concept; default the phrase of each.
    """
    rows, rules = [], rules or [PHRASE] * len(concepts)
    for text in texts:
        prompt = bracketed(text, concepts, rules)
        hidden = encoded(pipeline, prompt.text)
        own = [own_row(pipeline, prompt, *named) for named in zip(concepts, rules, strict=True)]
        if concepts and not any(bool(row.any()) for row in own):
            raise ConesError(f"caption {text!r} does not contain {named(concepts)}; put the words there")
        rows.append(TextTokens(hidden, torch.stack(own) if own else torch.zeros(1, len(hidden), dtype=torch.bool)))
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
def encoded(pipeline: Any, text: str) -> Tensor:
    """A prompt's hidden states (L, D)."""
    ids = torch.tensor([token_ids(pipeline, text)], device=pipeline.text_encoder.device)
    hidden: Tensor = pipeline.text_encoder(ids)[0][0]
    return hidden


def examples(
    pipeline: Any,
    pictures: Tensor,
    texts: Sequence[str],
    concepts: Sequence[Words] = (),
    rules: Sequence[OwnWords] = (),
) -> Examples:
    """Pictures (n, 3, H, W) in [0, 1] and their captions (n, or one for all) as latents and conditioning."""
    return Examples(latents(pipeline, pictures), conditioning(pipeline, texts, concepts, rules))


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
    seed: int = 0,
    any_base: bool = False,
    **options: Any,
) -> list[Any]:
    """One PIL picture per prompt by the pipeline's own scheduler; picture i starts from seed + i.

    options go to the pipeline, e.g. num_inference_steps, guidance_scale, height, width.
    """
    guided = options.get("guidance_scale", 7.5) > 1  # then diffusers puts as many negative rows first
    pictures: list[Any] = []
    concepts = [(mask.identifier, mask.class_word) for mask, _ in masks]
    for i, text in enumerate(prompts):
        prompt = bracketed(text, concepts, [mask.own_words for mask, _ in masks])
        own: list[Tensor | None] = []
        for (mask, _), concept in zip(masks, concepts, strict=True):
            row = own_row(pipeline, prompt, concept, mask.own_words)[None]
            rows = torch.cat([torch.zeros_like(row), row]) if guided else row
            own.append(rows if mask.where == "own tokens" else None)
        generator = torch.Generator().manual_seed(seed + i)
        with applied(pipeline.unet, masks, own, any_base=any_base):
            pictures += pipeline(prompt.text, generator=generator, **options).images
    return pictures
