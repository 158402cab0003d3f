"""Concept masks that act at their own tokens while sampling: no weight is patched, nothing remains afterwards.

K = W x of an own token becomes (W - S) x, where S holds what the masks shut of W (union where masks share a token):
while the model is called, a hook on each projection subtracts S x from those rows of its output. W is the weight as the
layer uses it just then (cast, dequantised, with LoRA and hooks). A layer that reads the text itself gives the same S x
in every step, so it is computed once per conditioning and run. The masks are kept in transformer_options, so clones and
chains of nodes carry them; all rows of other tokens and prompts are not touched at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.masks.concept_mask import ConceptMask
from ....cones_ops.models.weight_names import layer_and_rows
from ..notices import warn
from ..parameters import is_linear, layer_of, weight_in_use
from ..text.layout import before_the_text, by_prompt
from ..text.token_positions import PromptTokens, any_encoded, phrase, positions_by_prompt, rows_in, text_and_options
from .sparse_entries import merged
from .token_groups import OwnTokens, own_tokens

KEY = "cones_own_tokens"
Strengths = tuple[tuple[ConceptMask, float], ...]


@dataclass
class SamplingRun:
    """One sampling run: its masks, its conditionings, and what has been computed for them so far."""

    masks: Strengths
    by_uuid: Mapping[Any, PromptTokens]
    texts: dict[Any, Tensor] = field(default_factory=dict)  # own tokens' text, by rows
    products: dict[Any, Tensor] = field(default_factory=dict)  # S x (n, out) in fp32, by rows and layer
    warnings: set[str] = field(default_factory=set)

    def warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.add(text)
            warn(text)


@dataclass(frozen=True)
class ModelCall:
    """One call of the model: where own tokens are, and whether what is computed now holds for later calls."""

    run: SamplingRun
    text: Tensor  # (B, L, D)
    own: tuple[OwnTokens, ...]
    patched: bool  # another node changes what single layers read
    lasting: bool  # weights are the same in every step


def add_masks(model: Any, masks: Strengths) -> None:
    """Let a (fresh) clone sample with `masks` at their own tokens, beside those it has already."""
    options = model.model_options.setdefault("transformer_options", {})
    if KEY not in options:
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)
    options[KEY] = (*options.get(KEY, ()), *masks)


def has_masks(model: Any) -> bool:
    """Whether a model samples with masks at own tokens."""
    return KEY in model.model_options.get("transformer_options", {})


def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's OUTER_SAMPLE: find the masks' tokens in this run's conditionings; warn for a mask that has none."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]  # this run's own copy
    masks: Strengths = options.get(KEY, ())
    run = SamplingRun(masks, positions_by_prompt(guider.conds, [(m.identifier, m.class_word) for m, _ in masks]))
    for k, (mask, _) in enumerate(masks):
        if not any(len(prompt.positions[k]) for prompt in run.by_uuid.values()):
            run.warn_once(no_effect(mask, any_encoded(guider.conds)))
    if appended := max((prompt.appended for prompt in run.by_uuid.values()), default=0):
        run.warn_once(
            f"{appended} tokens were appended to a prompt after Encode Prompt with Concepts (Conditioning (Concat)); "
            "concepts have no effect in the appended tokens: write the whole prompt in one node"
        )
    options[KEY + "_run"] = run
    return executor(*args, **kwargs)


def no_effect(mask: ConceptMask, encoded: bool) -> str:
    """What a user should know when a mask finds none of its tokens; encoded: prompts come from our encoder."""
    why = (
        "no prompt contains its words. Connect the mask to Encode Prompt with Concepts too, and write its words in the "
        "text (in one text: Conditioning (Concat) drops the concepts of what it appends)"
        if encoded
        else "its prompts come from CLIP Text Encode, which does not record where words are; use Encode Prompt with "
        "Concepts"
    )
    return f'the concept mask "{phrase((mask.identifier, mask.class_word))}" has no effect in this run: {why}'


def refuse_compiled(diffusion_model: torch.nn.Module, transformer_options: Mapping[str, Any]) -> None:
    """ConesError for a model that was compiled, as a whole or in parts."""
    wrapped = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get("torch.compile")
    if wrapped or any(isinstance(module, torch._dynamo.OptimizedModule) for module in diffusion_model.modules()):
        raise ConesError(
            "this model is compiled (torch.compile), and a compiled model cannot treat single tokens differently; "
            "remove the compile node, or choose where = everywhere in Apply Concept Masks"
        )


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's APPLY_MODEL: with hooks on the masked layers if the batch has own tokens, else as it is."""
    text, options = text_and_options(args, kwargs)
    run: SamplingRun | None = options.get(KEY + "_run")
    rows = list(rows_in(options.get("uuids", ()), text, run.by_uuid)) if run else []
    if run is None or not rows:
        return executor(*args, **kwargs)
    inner = executor.class_obj
    if not run.texts:  # the run's first
        refuse_compiled(inner.diffusion_model, options)
    own = tuple(own_tokens(prompt_rows, text.device) for prompt_rows in rows)
    patched = bool(options.get("patches", {}).get("attn2_patch"))
    lasting = getattr(inner.current_patcher, "current_hooks", None) is None
    call = ModelCall(run, text, own, patched, lasting)
    forget_what_changed(call)
    with hooked(inner.diffusion_model, call):
        return executor(*args, **kwargs)


def forget_what_changed(call: ModelCall) -> None:
    """Check that all rows of a conditioning have one text; if it is another text now, drop what was computed for it."""
    run = call.run
    for own in call.own:
        texts, before = own.of(call.text), run.texts.get(own.uuid)
        text = texts[0]
        if not torch.equal(texts, text.expand_as(texts)):
            raise ConesError(
                "another node rearranges the batch (tiled sampling does that), so the rows of each prompt are not "
                "known; remove that node, or choose where = everywhere in Apply Concept Masks"
            )
        if before is not None and before.shape == text.shape and torch.equal(before, text):
            continue
        run.texts[own.uuid] = text
        run.products = {key: product for key, product in run.products.items() if key[0] != own.uuid}


@contextmanager
def hooked(diffusion_model: torch.nn.Module, call: ModelCall) -> Iterator[None]:
    """Hooks on every masked projection, removed on every path."""
    handles = []
    try:
        for name in sorted(set(chain.from_iterable(mask.index for mask, _ in call.run.masks))):
            module, rows = layer_of(diffusion_model, name)
            handles.append(module.register_forward_hook(partial(corrected, name, rows, call)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def corrected(name: str, rows: slice, call: ModelCall, module: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """A layer's output y (B, L, out), with S x subtracted from the target's columns of the own tokens' rows."""
    count, length = call.text.shape[:2]
    x, output = by_prompt(inputs[0], count, length), by_prompt(y, count, length)
    if x is None or output is None:
        call.run.warn_once(
            f"another node gives {name} text of shape {tuple(inputs[0].shape)} instead of {tuple(call.text.shape)}; "
            "concept masks have no effect there"
        )
        return y
    before = before_the_text(name, x.shape[1], length)
    for own in call.own:
        product = product_of(name, call, own, module, x, before)
        for first, size, k in own.spans if product is not None else ():
            start = before + first
            output[own.start : own.stop, start : start + size, rows] -= product[:, k : k + size]  # in fp32
    return y


def product_of(name: str, call: ModelCall, own: OwnTokens, module: Any, x: Tensor, before: int) -> Tensor | None:
    """S x of some rows' own tokens, (1 or rows, n, out); None where another node has put other text."""
    run = call.run
    known = run.products.get((own.uuid, name))
    if known is not None and call.lasting and not call.patched:
        return known
    vectors, text = own.of(x, before), run.texts[own.uuid]  # (rows, n, in), (n, D)
    reads_text = vectors.shape[-1] == text.shape[-1] and torch.equal(vectors[0], text.to(x))
    if call.patched and not reads_text:
        run.warn_once(f"another node gives {name} other text than the prompt; concept masks have no effect there")
        return None
    vectors = (vectors[:1] if reads_text else vectors).float()
    parts = vectors.split([count for count, _ in own.owners], dim=1)
    matrices = shut_parts(name, run.masks, [masks for _, masks in own.owners], module, x)
    product = torch.cat([part @ matrix.T for part, matrix in zip(parts, matrices, strict=True)], dim=1)
    if reads_text:
        run.products[own.uuid, name] = product
    return product


def shut_parts(name: str, masks: Strengths, owners: Sequence[Sequence[int]], module: Any, like: Tensor) -> list[Tensor]:
    """S (out, in) in fp32 for each group of masks (their numbers) that own tokens together."""
    if not is_linear(module):
        raise ConesError(
            f"{name} is a {type(module).__name__}, and its weight cannot be read; choose where = everywhere in Apply "
            "Concept Masks, or load the model from a .safetensors file"
        )
    matrices = []
    _, rows = layer_and_rows(name)
    with torch.no_grad(), weight_in_use(module, like.dtype, like.device) as (whole, _):
        weight = whole[rows]
        flat = weight.reshape(-1)
        for group in owners:
            matrix = torch.zeros(flat.numel(), device=flat.device)
            scaled = [(masks[k][0].index[name], 1.0 - masks[k][1]) for k in group if name in masks[k][0].index]
            if scaled:
                index, factor = (tensor.to(flat.device) for tensor in merged(scaled))
                matrix[index] = flat[index].float() * (1.0 - factor)
            matrices.append(matrix.reshape(weight.shape))
    return matrices
