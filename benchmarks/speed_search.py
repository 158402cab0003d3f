"""A search step against a forward, a forward with a full backward, and a step of the host's own Train LoRA node.

All on one UNet, latent, text and noise level, fp32, batch 1. Our own steps, the forward and plain autograd take turns,
then the search and the trainer of the host, within its run. The trainer works on a second load
of the model, as it always does, once without gradient checkpointing and once with it, as the node is set by default.
The search step is the whole of one: noise, loss, gradient of the text K and V through taps, running score.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from speed_memory import Kept, keeping
from speed_model import device, finish, on_gpu, pack, random_latent, random_text, ratios, seconds, spread, targets_of

Around = Callable[[torch.nn.Module, int], AbstractContextManager[None]]


@dataclass
class Measured:
    """By kind of step: seconds, pair by pair, and what one of them keeps."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)


def options() -> dict[str, Any]:
    """The attention that a search uses, for all of our own steps."""
    from comfy.ldm.modules.attention import attention_pytorch

    return {"optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(*args, **kwargs)}


def plain_steps(model: Any, side: int) -> dict[str, Callable[[], Any]]:
    """A forward as the host makes it; with the gradients of all weights, and of the text K and V, by plain autograd."""
    import comfy.model_management

    inner = model.model
    x, text, sigma = (
        tensor.to(device()) for tensor in (random_latent(side), random_text(model, 2), torch.tensor([1.0]))
    )

    def forward() -> Any:
        return inner.apply_model(x, sigma, c_crossattn=text, transformer_options=options())

    def backward(parameters: list[torch.nn.Parameter]) -> None:
        try:
            for value in parameters:
                value.requires_grad_(True)
            with torch.enable_grad():
                (forward() - x).square().mean().backward()
        finally:
            for value in parameters:
                value.requires_grad_(False)
                value.grad = None

    def loaded(run: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        def step() -> None:
            with torch.inference_mode(False), torch.no_grad():
                run(*arguments)

        return step

    comfy.model_management.load_models_gpu([model])
    unet = inner.diffusion_model
    for value in unet.parameters():
        if value.is_inference():  # moved to a GPU as the host does when a prompt is run, which autograd does not take
            value.data = torch.empty_like(value).copy_(value)
    return {
        "forward": loaded(forward),
        "full_backward": loaded(backward, list(unet.parameters())),
        "kv_backward": loaded(backward, [unet.get_parameter(name) for name in targets_of(model)]),
    }


def search_step(host: Any) -> Callable[[], None]:
    """One step of the plainest search: what every method does, and nothing of its own."""
    loss, settings = pack("cones_ops.search.objective"), pack("cones_ops.search.settings")
    examples = loss.Examples(host.latents["subject"], ["subject"])
    generator = torch.Generator().manual_seed(0)
    score = {name: torch.zeros_like(weight) for name, weight in host.weights.items()}

    def step() -> None:
        draws = loss.draw(examples, 1, generator)
        _, moved = settings.measured(host, lambda: loss.per_draw_loss(host, examples, draws).mean(), None)
        for name, change in moved.items():
            score[name].add_(change)

    return step


def borrowed(model: Any, side: int, checkpoint: bool, run: Callable[[Callable[[], None]], Any]) -> Any:
    """run(step) while the model is borrowed for a search."""
    conditionings, latents = {"subject": [[random_text(model, 2), {}]]}, {"subject": random_latent(side)}
    borrow, names = pack("nodes.host.search.borrow").borrow, sorted(targets_of(model))
    return borrow(model, conditionings, latents, names, lambda host: run(search_step(host)), checkpoint=checkpoint)


def once(name: str, model: Any, side: int, run: Callable[[Callable[[], None]], Any]) -> Any:
    """run(step) for one of our kinds of step."""
    if name in ("search", "checkpointed_search"):
        return borrowed(model, side, name != "search", run)
    return run(plain_steps(model, side)[name])


def trained(model: Any, side: int, steps: int, checkpointing: bool, around: Around) -> None:
    """Run the host's Train LoRA node; around(its UNet, k) is entered before its step k and left when that is over."""
    import comfy_extras.nodes_train as native

    count, under_way = iter(range(steps)), ExitStack()

    class Watched(native.TrainSampler):  # type: ignore[misc]
        def _train_step_standard_mode(self, model_wrap: Any, *args: Any) -> None:
            under_way.close()  # the step before has ended, its optimizer included
            under_way.enter_context(around(model_wrap.inner_model.diffusion_model, next(count)))
            super()._train_step_standard_mode(model_wrap, *args)

    defaults = {entry.id: getattr(entry, "default", None) for entry in native.TrainLoraNode.define_schema().inputs}
    inputs = defaults | {"learning_rate": 1e-4, "rank": 4, "algorithm": "LoRA", "steps": steps}
    inputs |= dict.fromkeys(("training_dtype", "lora_dtype"), "bf16" if on_gpu() else "fp32")
    inputs |= {"gradient_checkpointing": checkpointing}
    inputs |= {"model": model, "latents": {"samples": random_latent(side)}, "positive": [[random_text(model, 2), {}]]}
    original, native.TrainSampler = native.TrainSampler, Watched
    try:
        native.TrainLoraNode.execute(**{name: [value] for name, value in inputs.items()})
    finally:
        native.TrainSampler = original
        under_way.close()
        gc.collect()


def paired(model: Any, side: int, pairs: int, checkpointing: bool, kinds: tuple[str, ...], result: Measured) -> None:
    """Time each kind of step beside each of the trainer's, and what one of the trainer's keeps."""
    name = "native_checkpointed" if checkpointing else "native"

    @contextmanager
    def around(unet: torch.nn.Module, k: int) -> Iterator[None]:
        for kind in kinds if k % 2 else reversed(kinds):
            taken = once(kind, model, side, seconds)
            if 0 < k <= pairs:  # the first is a warm-up
                result.seconds.setdefault(kind, []).append(taken)
        if k > pairs:
            with keeping(unet) as result.kept[name]:
                yield
            return
        finish()
        began = time.perf_counter()
        yield
        finish()
        if k:
            result.seconds.setdefault(name, []).append(time.perf_counter() - began)

    trained(model, side, pairs + 2, checkpointing, around)


def in_turn(model: Any, side: int, rounds: int, kinds: tuple[str, ...], result: Measured) -> None:
    """Time each kind of step once a round, in alternating order; the first round is a warm-up."""
    for k in range(rounds + 1):
        for kind in kinds if k % 2 else reversed(kinds):
            taken = once(kind, model, side, seconds)
            if k:
                result.seconds.setdefault(kind, []).append(taken)


def kept_by(model: Any, side: int, kind: str) -> Kept:
    """What a step of ours keeps."""

    def run(step: Callable[[], None]) -> Kept:
        with keeping(model.model.diffusion_model) as kept:
            step()
        return kept

    return once(kind, model, side, run)  # type: ignore[no-any-return]


def measured(model: Any, side: int, pairs: int) -> dict[str, Any]:
    """The search's figures, under the names they have in the report."""
    ours = ("forward", "search", "kv_backward", "full_backward", "checkpointed_search")
    alone, first, second = Measured(), Measured(), Measured()
    in_turn(model, side, 3 * pairs, ours, alone)
    paired(model, side, pairs, False, ("search",), first)
    paired(model, side, max(2, pairs // 2), True, ("search", "checkpointed_search"), second)
    kept = first.kept | second.kept | {kind: kept_by(model, side, kind) for kind in ours}
    taken, beside = alone.seconds, first.seconds
    checkpointed, native_checkpointed = second.seconds, second.seconds["native_checkpointed"]
    search, native = kept["search"], kept["native"]
    return {
        "search_step_over_forward": ratios(taken["search"], taken["forward"]),
        "search_step_over_full_backward": ratios(taken["search"], taken["full_backward"]),
        "search_step_over_kv_backward": ratios(taken["search"], taken["kv_backward"]),  # what autograd alone would take
        "kv_backward_over_full_backward": ratios(taken["kv_backward"], taken["full_backward"]),
        "search_step_over_native_lora_step": ratios(beside["search"], beside["native"]),
        "saved_bytes_over_native": spread([search.saved / native.saved]),
        "checkpointed_saved_bytes_over_native": spread([kept["checkpointed_search"].saved / native.saved]),
        "checkpointed_step_over_plain": ratios(taken["checkpointed_search"], taken["search"]),
        "search_step_over_native_checkpointed_step": ratios(checkpointed["search"], native_checkpointed),
        "checkpointed_step_over_native_checkpointed_step": ratios(
            checkpointed["checkpointed_search"], native_checkpointed
        ),
        "step_seconds": {name: spread(values) for name, values in (checkpointed | beside | taken).items()},
        "step_memory": {
            name: {"saved_bytes": memory.saved, "resident_peak_bytes": memory.resident}
            for name, memory in sorted(kept.items())
        },
    }
