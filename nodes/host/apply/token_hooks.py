"""Concept masks that act at their own tokens while sampling: no weight is patched, nothing remains afterwards.

K = W x of an own token becomes (W - S) x, where S holds what the masks shut of W (union where masks share a token):
while the model is called, a hook on each projection subtracts S x from those rows of its output. W is the weight as the
layer uses it just then (cast, dequantised, with LoRA and hooks). A layer that reads the text itself gives the same S x
in every step, so it is computed once per conditioning and run. The masks are kept in transformer_options, so clones and
chains of nodes carry them; all rows of other tokens and prompts are not touched at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....cones_ops.errors import ConesError, listed
from ....cones_ops.masks.concept_mask import ConceptMask
from ....cones_ops.models.phrases import OWN_WORDS
from ..linear_arguments import linear_arguments
from ..parameters import layer_of
from ..text.layout import WHOLE_TEXT, alike, text_in
from ..text.token_positions import (
    NOISY,
    any_encoded,
    phrase,
    positions_by_prompt,
    rows_in,
    rules_in,
    text_and_options,
)
from .lost_masks import merges, warn_where_lost
from .products import outliving, product_of
from .sampling_run import OTHER_TEXT, ModelCall, SamplingRun, Strengths, forget_what_changed
from .token_groups import own_tokens

KEY = "cones_own_tokens"
SECOND_TEXT = (
    "Remove the node that adds a second text: it gives layers a second text in one step, and concept masks have no "
    "effect in it"
)


def add_masks(model: Any, masks: Strengths) -> None:
    """Let a (fresh) clone sample with `masks` at their own tokens, beside those it has already."""
    options = model.model_options.setdefault("transformer_options", {})
    if KEY not in options:
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model)
        options[KEY + "_merges"] = merges(model)
        warn_where_lost(model)
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
    idle = [mask for k, (mask, _) in enumerate(masks) if not any(len(p.positions[k]) for p in run.by_uuid.values())]
    if idle and patches_text(options):
        run.warn_once(f"Write {words_of(idle)} in a prompt: no prompt of this run names it. {OTHER_TEXT}", OTHER_TEXT)
    else:
        for mask in idle:
            run.warn_once(no_effect(mask, any_encoded(guider.conds)))
    for mask in (mask for mask, _ in masks if mask.own_words != OWN_WORDS[0]):
        if other := rules_in(guider.conds, (mask.identifier, mask.class_word)) - {mask.own_words}:
            run.warn_once(
                f"Connect the mask to Encode Prompt with Concepts: {words_of([mask])} was found with own_tokens "
                f'"{mask.own_words}", but a prompt marks "{min(other)}"'
            )
    if appended := max((prompt.appended for prompt in run.by_uuid.values()), default=0):
        run.warn_once(
            f"Write the whole prompt in one node: {appended} tokens were appended to a prompt after Encode Prompt with "
            "Concepts (Conditioning (Concat)), and concepts have no effect in the appended tokens"
        )
    if any(prompt.noisy for prompt in run.by_uuid.values()):
        run.warn_once(NOISY)
    if merges(guider.model_patcher) > options.get(KEY + "_merges", 0):
        run.warn_once(
            "Put Apply Concept Masks behind the merge: another model was merged into this one behind it, and its masks "
            "at own tokens act on the merged weights with their whole strength, whatever the ratio"
        )
    options[KEY + "_run"] = run
    if run.by_uuid:
        options.update(WHOLE_TEXT)
    return executor(*args, **kwargs)


def patches_text(transformer_options: Mapping[str, Any]) -> bool:
    """Whether another node changes what single layers read."""
    return bool(transformer_options.get("patches", {}).get("attn2_patch"))


def words_of(masks: Sequence[ConceptMask]) -> str:
    """The masks' words, for a message."""
    return " or ".join(f'"{phrase((mask.identifier, mask.class_word))}"' for mask in masks)


def no_effect(mask: ConceptMask, encoded: bool) -> str:
    """What a user should know when a mask finds none of its tokens; encoded: prompts come from our encoder."""
    name = words_of([mask])
    effect = f"the concept mask {name} has no effect in this run"
    if encoded:
        return (
            f"Write {name} in the prompt: {effect}, because no prompt contains its words. Connect the mask to Encode "
            "Prompt with Concepts too, and write one text (Conditioning (Concat) drops the concepts of what it appends)"
        )
    return (
        f"Use Encode Prompt with Concepts, not CLIP Text Encode: {effect}, because its prompts come from CLIP Text "
        "Encode, which does not record where words are"
    )


def refuse_compiled(
    diffusion_model: torch.nn.Module,
    transformer_options: Mapping[str, Any],
    remedy: str = "remove the compile node, or choose where = everywhere in Apply Concept Masks",
) -> None:
    """ConesError for a model that was compiled, as a whole or in parts."""
    wrapped = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get("torch.compile")
    if wrapped or any(isinstance(module, torch._dynamo.OptimizedModule) for module in diffusion_model.modules()):
        raise ConesError(
            "this model is compiled (torch.compile), and a compiled model cannot treat single tokens differently; "
            f"{remedy}"
        )


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's APPLY_MODEL: with hooks on the masked layers if the batch has own tokens, else as it is."""
    text, options = text_and_options(args, kwargs)
    run: SamplingRun | None = options.get(KEY + "_run")
    rows = list(rows_in(options.get("uuids", ()), text, run.by_uuid)) if run else []
    if run is None or not rows:
        return executor(*args, **kwargs)
    inner = executor.class_obj
    computed = run.computed_on(text.device)
    if not computed.texts:  # the run's first
        refuse_compiled(inner.diffusion_model, options)
    own = tuple(own_tokens(prompt_rows, text.device) for prompt_rows in rows)
    lasting = getattr(inner.current_patcher, "current_hooks", None) is None
    call = ModelCall(run, computed, text, own, patches_text(options), lasting)
    forget_what_changed(call)
    with hooked(inner.diffusion_model, call):
        output = executor(*args, **kwargs)
    check_called(call, options.get("patches_replace", {}).get("dit", {}))
    return output


@contextmanager
def hooked(diffusion_model: torch.nn.Module, call: ModelCall) -> Iterator[None]:
    """Hooks on every masked projection, removed on every path."""
    handles = [diffusion_model.register_forward_pre_hook(lambda *_: call.first.clear())]
    try:
        for name in call.names():
            module, rows = layer_of(diffusion_model, name)
            handles.append(module.register_forward_hook(partial(corrected, name, rows, call), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def corrected(
    name: str, rows: slice, call: ModelCall, module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any], y: Tensor
) -> Tensor:
    """A layer's output y (B, L, out) with S x subtracted from the target's columns of the own tokens' rows."""
    call.called.add(name)
    arguments = linear_arguments(name, inputs[1:], keywords)
    if arguments.residual is not None:
        raise ConesError(
            f"{name}: this version of ComfyUI adds a residual inside the layer, so concept masks cannot act at their "
            "own tokens there; choose where = everywhere in Apply Concept Masks"
        )
    with outliving():
        text = own_vectors(name, call, inputs[0])
        output = text_in(name, y, *call.text.shape[:2], longer=True)
        if text is None or output is None:
            return y
        for own, vectors in zip(call.own, text, strict=True):
            product = product_of(name, call, own, module, vectors, arguments)
            for first, size, k in own.spans if product is not None else ():
                start = output[1] + first
                output[0][own.start : own.stop, start : start + size, rows] -= product[:, k : k + size]  # in fp32
    return y


def own_vectors(name: str, call: ModelCall, x: Tensor) -> list[Tensor] | None:
    """x, a layer's input, at each of the call's own tokens (rows, n, in); None where x is not the prompts' text."""
    text = text_in(name, x, *call.text.shape[:2], longer=call.patched)
    if text is None:
        call.run.warn_once(OTHER_TEXT)
        return None
    vectors = [own.of(*text) for own in call.own]
    first = call.first.setdefault(name, vectors)
    if first is not vectors and not all(map(alike, vectors, first)):
        call.run.warn_once(SECOND_TEXT)
        return None
    return vectors


def check_called(call: ModelCall, replaced_blocks: Iterable[Any]) -> None:
    """Warn of masked layers that were not called; ConesError where none was.

    A whole step may be skipped on purpose (nodes that cache), and so may blocks that another node has replaced.
    """
    missing = [name for name in call.names() if name not in call.called]
    if not call.called:
        if call.computed.acted:
            return
        raise ConesError(
            f"this model calls none of the {len(missing)} layers with concept neurons ({listed(missing, 3)}), so masks "
            "at own tokens have no effect: this version of ComfyUI, or another node, computes them in another way; "
            "choose where = everywhere in Apply Concept Masks"
        )
    call.computed.acted = True
    numbers = {str(key[-1]) for key in replaced_blocks if isinstance(key, tuple)}
    if unexpected := [name for name in missing if not numbers & set(name.split("."))]:
        call.run.warn_once(
            f"Remove the node that skips layers: {listed(unexpected)} were not called in a step, and concept masks had "
            "no effect there"
        )
