"""Concept masks that act at their own tokens while sampling: nothing is patched, nothing stays.

K = W x of an own token becomes (W - S) x, where S holds what the masks shut of W (union where masks share a token):
while the model is called, a hook on each projection takes S x off those rows of its output. W is the weight as the
layer uses it just then (cast, dequantised, with LoRA and hooks). A layer that reads the text itself gives the same S x
in every step, so it is computed once per conditioning and run. The masks ride in transformer_options, so clones and
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
from ..text.token_positions import Placed, Rows, carrying, phrase, placed, rows_in, text_and_options
from .sparse_entries import merged

KEY = "cones_own_tokens"
Strengths = tuple[tuple[ConceptMask, float], ...]


@dataclass
class Run:
    """One sampling run: its masks, its conditionings, and what has been computed for them so far."""

    masks: Strengths
    by_uuid: Mapping[Any, Placed]
    texts: dict[Any, Tensor] = field(default_factory=dict)  # own tokens' text, by rows
    products: dict[Any, Tensor] = field(default_factory=dict)  # S x (n, out) in fp32, by rows and layer
    said: set[str] = field(default_factory=set)

    def warn_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            warn(text)


@dataclass(frozen=True)
class Own:
    """Own tokens of some rows of a batch: rows [start, stop), positions (n,), how many of them which masks own."""

    uuid: Any
    start: int
    stop: int
    positions: Tensor
    owners: tuple[tuple[int, tuple[int, ...]], ...]  # (how many of the positions in turn, numbers of masks)
    runs: tuple[tuple[int, int, int], ...]  # consecutive positions: (first, how many, where among all positions)

    def of(self, tensor: Tensor, before: int = 0) -> Tensor:
        """The own tokens' entries of a (B, before + L, anything): (stop - start, n, anything)."""
        return tensor[self.start : self.stop, self.positions + before]


@dataclass(frozen=True)
class Batch:
    """One call of the model: where own tokens are, and whether what is computed now holds for later calls."""

    run: Run
    text: Tensor  # (B, L, D)
    own: tuple[Own, ...]
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
    """The host's OUTER_SAMPLE: look where the masks have tokens in this run's conditionings, and say where none has."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]  # this run's own copy
    masks: Strengths = options.get(KEY, ())
    run = Run(masks, placed(guider.conds, [(mask.identifier, mask.class_word) for mask, _ in masks]))
    for k, (mask, _) in enumerate(run.masks):
        if not any(len(one.positions[k]) for one in run.by_uuid.values()):
            run.warn_once(acts_nowhere(mask, carrying(guider.conds)))
    if appended := max((one.appended for one in run.by_uuid.values()), default=0):
        run.warn_once(
            f"{appended} tokens were appended to a prompt after Encode Prompt with Concepts (Conditioning (Concat)); "
            "a concept that is named in them does not act there: write all text in one node"
        )
    options[KEY + "_run"] = run
    return executor(*args, **kwargs)


def acts_nowhere(mask: ConceptMask, carrying: bool) -> str:
    """What a user should know when a mask finds none of its tokens."""
    name = phrase((mask.identifier, mask.class_word))
    why = (
        "none of its prompts names it. Connect the mask to Encode Prompt with Concepts too and write its words in the "
        "text (in one text: what Conditioning (Concat) appends loses its concepts)"
        if carrying
        else "its prompts come from CLIP Text Encode, which does not tell where words are; use Encode Prompt with "
        "Concepts"
    )
    return f'the concept mask "{name}" acts at its own tokens and so nowhere in this run: {why}'


def refuse_compiled(diffusion_model: torch.nn.Module, transformer_options: Mapping[str, Any]) -> None:
    """ConesError for a model that was compiled, as a whole or in parts."""
    wrapped = transformer_options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get("torch.compile")
    if wrapped or any(isinstance(one, torch._dynamo.OptimizedModule) for one in diffusion_model.modules()):
        raise ConesError(
            "this model is compiled (torch.compile), and a compiled model cannot treat single tokens apart; remove the "
            "compile node, or choose where = everywhere in Apply Concept Masks"
        )


def apply_model(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """The host's APPLY_MODEL: with hooks on the masked layers if the batch has own tokens, else as it is."""
    text, options = text_and_options(args, kwargs)
    run: Run | None = options.get(KEY + "_run")
    rows = list(rows_in(options.get("uuids", ()), text, run.by_uuid)) if run else []
    if run is None or not rows:
        return executor(*args, **kwargs)
    inner = executor.class_obj
    if not run.texts:  # the run's first
        refuse_compiled(inner.diffusion_model, options)
    batch = Batch(
        run,
        text,
        tuple(own_tokens(one, text.device) for one in rows),
        bool(options.get("patches", {}).get("attn2_patch")),
        getattr(inner.current_patcher, "current_hooks", None) is None,
    )
    forget_what_changed(batch)
    with hooked(inner.diffusion_model, batch):
        return executor(*args, **kwargs)


def own_tokens(rows: Rows, device: torch.device) -> Own:
    """Every own position of the rows once, those that the same masks own together."""
    owners: dict[int, list[int]] = {}
    for k, own in enumerate(rows.positions):
        for position in own.tolist():
            owners.setdefault(position, []).append(k)
    groups: dict[tuple[int, ...], list[int]] = {}
    for position in sorted(owners):
        groups.setdefault(tuple(owners[position]), []).append(position)
    every = [one for some in groups.values() for one in some]
    begins = [at for at, one in enumerate(every) if at == 0 or one != every[at - 1] + 1]
    runs = tuple((every[at], end - at, at) for at, end in zip(begins, [*begins[1:], len(every)], strict=True))
    sizes = tuple((len(some), masks) for masks, some in groups.items())
    return Own(rows.uuid, rows.start, rows.stop, torch.tensor(every, device=device), sizes, runs)


def forget_what_changed(batch: Batch) -> None:
    """Check that all rows of a conditioning have one text, and drop what was computed for it if it is another now."""
    run = batch.run
    for own in batch.own:
        several, before = own.of(batch.text), run.texts.get(own.uuid)
        text = several[0]
        if not torch.equal(several, text.expand_as(several)):
            raise ConesError(
                "another node rearranges the batch, so which rows are which prompt's cannot be told (tiled sampling "
                "does that); remove it, or choose where = everywhere in Apply Concept Masks"
            )
        if before is not None and before.shape == text.shape and torch.equal(before, text):
            continue
        run.texts[own.uuid] = text
        run.products = {key: product for key, product in run.products.items() if key[0] != own.uuid}


@contextmanager
def hooked(diffusion_model: torch.nn.Module, batch: Batch) -> Iterator[None]:
    """Hooks on every masked projection, taken off again on every path."""
    handles = []
    try:
        for name in sorted(set(chain.from_iterable(mask.index for mask, _ in batch.run.masks))):
            module, rows = layer_of(diffusion_model, name)
            handles.append(module.register_forward_hook(partial(corrected, name, rows, batch)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def corrected(name: str, rows: slice, batch: Batch, module: Any, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
    """A layer's output y (B, L, out) with S x taken off the target's columns of the own tokens' rows."""
    count, length = batch.text.shape[:2]
    x, found = (by_prompt(one, count, length) for one in (inputs[0], y))
    if x is None or found is None:
        batch.run.warn_once(
            f"{name} gets text of shape {tuple(inputs[0].shape)} instead of {tuple(batch.text.shape)} from another "
            "node; concept masks do not act there"
        )
        return y
    before = before_the_text(name, x.shape[1], length)
    for own in batch.own:
        product = product_of(name, batch, own, module, x, before)
        for first, some, at in own.runs if product is not None else ():
            start = before + first
            found[own.start : own.stop, start : start + some, rows] -= product[:, at : at + some]  # in fp32
    return y


def product_of(name: str, batch: Batch, own: Own, module: Any, x: Tensor, before: int) -> Tensor | None:
    """S x of some rows' own tokens, (1 or rows, n, out); None where another node has put other text."""
    run = batch.run
    known = run.products.get((own.uuid, name))
    if known is not None and batch.lasting and not batch.patched:
        return known
    vectors, text = own.of(x, before), run.texts[own.uuid]  # (rows, n, in), (n, D)
    reads_text = vectors.shape[-1] == text.shape[-1] and torch.equal(vectors[0], text.to(x))
    if batch.patched and not reads_text:
        run.warn_once(f"another node gives {name} other text than the prompt; concept masks do not act there")
        return None
    vectors = (vectors[:1] if reads_text else vectors).float()
    parts = vectors.split([count for count, _ in own.owners], dim=1)
    shut = shut_parts(name, run.masks, [masks for _, masks in own.owners], module, x)
    product = torch.cat([part @ matrix.T for part, matrix in zip(parts, shut, strict=True)], dim=1)
    if reads_text:
        run.products[own.uuid, name] = product
    return product


def shut_parts(name: str, masks: Strengths, owners: Sequence[Sequence[int]], module: Any, like: Tensor) -> list[Tensor]:
    """S (out, in) in fp32 for each group of masks (their numbers) that own tokens together."""
    if not is_linear(module):
        raise ConesError(
            f"{name} is a {type(module).__name__}, whose weight cannot be read; choose where = everywhere in Apply "
            "Concept Masks, or load the model from a .safetensors file"
        )
    matrices = []
    _, rows = layer_and_rows(name)
    with torch.no_grad(), weight_in_use(module, like.dtype, like.device) as (whole, _):
        weight = whole[rows]
        flat = weight.reshape(-1)
        for group in owners:
            matrix = torch.zeros(flat.numel(), device=flat.device)
            parts = [(masks[k][0].index[name], 1.0 - masks[k][1]) for k in group if name in masks[k][0].index]
            if parts:
                index, factor = (one.to(flat.device) for one in merged(parts))
                matrix[index] = flat[index].float() * (1.0 - factor)
            matrices.append(matrix.reshape(weight.shape))
    return matrices
