"""Blocks that are run again: which ones, when, and the same gradients to the last bit."""

from __future__ import annotations

import comfy.model_management
import comfy.ops
import pytest
import torch
from cones_concept_neurons.cones_ops.models.targets import select_targets
from cones_concept_neurons.nodes.host.parameters import parameter_shapes
from cones_concept_neurons.nodes.host.search.borrow import borrow
from cones_concept_neurons.nodes.host.search.checkpointing import blocks_in
from cones_concept_neurons.nodes.host.search.taps import tapped
from support import small_models as small


class Block(torch.nn.Module):
    """As transformers have them: two streams, adds to its input in place, counts itself in the options."""

    def __init__(self):
        super().__init__()
        self.to_k = comfy.ops.disable_weight_init.Linear(8, 8)
        self.out = comfy.ops.disable_weight_init.Linear(8, 8)

    def forward(self, x, text, options):
        keys = torch.nn.functional.silu(self.to_k(text)).exp()
        options["seen"] = options.get("seen", 0) + 1
        x += self.out(torch.tanh(0.02 * x @ keys.transpose(1, 2) @ keys)) * options["seen"]
        return x, text + keys.mean()


class Repeated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        with small.all_weights():
            self.make()
        small.fill(self, 0)
        self.requires_grad_(False)

    def make(self):
        self.blocks = torch.nn.ModuleList([Block(), Block(), Block()])
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(8)])  # no blocks, these
        self.head = torch.nn.Sequential(comfy.ops.disable_weight_init.Linear(8, 8), torch.nn.SiLU())

    def forward(self, x, text):
        for block in self.blocks:
            x, text = block(x, text, options={})
        return self.head(self.norms[0](x)).square().mean()


NAMES = [f"blocks.{k}.to_k.weight" for k in range(3)]


def inputs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, n, 8, generator=generator) for n in (6, 5)]


def saved_entries(run):
    """What run() makes autograd keep, in entries of tensors, and its result."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        result = run()
    return sum(kept), result


def gradients(checkpoint):
    """Entries kept by a pass, and dL/dW of every to_k."""
    model = Repeated()
    with tapped(model, NAMES, checkpoint=lambda: checkpoint) as taps, taps.recording() as anchor:
        kept, loss = saved_entries(lambda: model(*inputs()))
        torch.autograd.grad(loss, [anchor])
        return kept, {name: gradient for (_, name), gradient in taps.sink.items()}


def test_members_of_module_lists_are_run_again():
    model = Repeated()
    assert list(blocks_in(model)) == list(model.blocks)
    kept, plain = gradients(False)
    kept_again, again = gradients(True)
    assert kept_again < 0.6 * kept
    assert sorted(plain) == sorted(again) == NAMES
    weights = [model.get_parameter(name).requires_grad_() for name in NAMES]
    for name, dense in zip(NAMES, torch.autograd.grad(model(*inputs()), weights), strict=True):
        assert dense.abs().max() > 0
        assert torch.equal(plain[name], again[name])
        assert (again[name] - dense).abs().max() <= 1e-5 * dense.abs().max()


def test_blocks_of_a_unet_are_the_outermost_ones():
    unet = small.small_unet().model.diffusion_model
    found = list(blocks_in(unet))
    kinds = [type(one).__name__ for one in found]
    assert set(kinds) == {"ResBlock", "SpatialTransformer"}
    assert kinds.count("SpatialTransformer") == sum(type(m).__name__ == "SpatialTransformer" for m in unet.modules())
    layers = [layer for one in found for layer in one.modules()]
    assert len(layers) == len(set(layers))  # none lies inside another


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [None, False, True])
@pytest.mark.parametrize("free", [0, 2**60])
def test_by_itself_only_where_memory_is_short(monkeypatch, checkpoint, free):
    model = small.small_unet()
    comfy.model_management.load_models_gpu([model])
    text = small.encode({})

    def body(host):
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: free)
        with host.taps.recording():
            sigma = host.sigma_at(torch.tensor([0.5]))
            kept, _ = saved_entries(lambda: host.denoise(host.latents["subject"], sigma, ["subject"]))
        monkeypatch.undo()
        return kept

    latents = {"subject": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    names = select_targets(parameter_shapes(model))
    kept = borrow(model, {"subject": text}, latents, names, body, checkpoint=checkpoint)
    without = borrow(model, {"subject": text}, latents, names, body, checkpoint=False)
    few = checkpoint or (checkpoint is None and free == 0)
    assert kept < 0.5 * without if few else kept == without
