"""A search on layers as newer hosts call them: gradients as plain autograd gives them, or a refusal."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.cli_args
import comfy.quant_ops
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.nodes.host.search import taps as taps_module
from cones_concept_neurons.nodes.host.search.borrow import prepared_clone
from cones_concept_neurons.nodes.host.search.taps import tapped, training_kernels
from support.newer_layers import CASES, ROWS, TOKENS, K, Network, V, inputs, make_dense

pytestmark = pytest.mark.newer_hosts
OWN = (torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2]))


def searched(network, where):
    """Loss and gradients by taps, with a fifth of the entries multiplied by zero."""
    multiplier = multiplier_of(network)
    x, text = inputs()
    with tapped(network, [K, V], where) as taps:
        taps.multiplier = {(0, name): factor for name, factor in multiplier.items()}
        own = (OWN,) if where == "own tokens" else ()
        with taps.at(own, (ROWS, TOKENS)), taps.recording() as anchor:
            loss = network(x, text).square().mean()
            torch.autograd.grad(loss, [anchor])
        return loss.detach(), {name: taps.sink[0, name] for name in (K, V)}


def multiplier_of(network):
    generator = torch.Generator().manual_seed(2)
    return {name: (torch.rand(network.get_parameter(name).shape, generator=generator) > 0.2).float() for name in (K, V)}


def check_equals_dense(network, where):
    loss, gradients = searched(network, where)
    leaves = {
        name: (network.get_parameter(name) * factor).requires_grad_() for name, factor in multiplier_of(network).items()
    }
    make_dense(network, leaves, OWN if where == "own tokens" else None)
    expected_loss = network(*inputs()).square().mean()
    expected = torch.autograd.grad(expected_loss, list(leaves.values()))
    assert float(loss) == pytest.approx(float(expected_loss.detach()), rel=1e-5)
    for name, gradient in zip(leaves, expected, strict=True):
        assert gradient.abs().max() > 0
        assert (gradients[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


@pytest.mark.parametrize("where", ["everywhere", "own tokens"])
@pytest.mark.parametrize("layer", ["target", "other layer"])
@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_plain_autograd(case, layer, where):
    check_equals_dense(Network(case) if layer == "target" else Network("", case), where)


@pytest.mark.parametrize("where", ["everywhere", "own tokens"])
def test_gradients_of_layers_that_get_nothing_but_their_input(where):
    check_equals_dense(Network(), where)


@pytest.mark.parametrize("where", ["everywhere", "own tokens"])
@pytest.mark.parametrize("layer", ["target", "other layer"])
def test_an_unknown_argument_is_refused(layer, where):
    network = Network("unknown") if layer == "target" else Network("", "unknown")
    with pytest.raises(ConesError, match="calls the layer with segments, which this pack does not know"):
        searched(network, where)


def test_a_second_text_in_one_call_has_no_own_tokens():
    second = torch.randn(1, TOKENS, inputs()[1].shape[2], generator=torch.Generator().manual_seed(5))
    check_equals_dense(Network(second=second), "own tokens")


def test_a_second_text_of_another_length_has_no_own_tokens():
    class Longer(Network):
        def forward(self, x, text):
            longer = torch.cat([text, text], 1)
            return super().forward(x, text) + self.blocks[0].cross_attn.v(longer).mean()

    check_equals_dense(Longer(), "own tokens")


def test_a_layer_that_reads_another_text_than_the_prompt_is_refused():
    network, (x, text) = Network(), inputs()
    with tapped(network, [K, V], "own tokens") as taps, taps.at((OWN,), (ROWS, TOKENS)), taps.recording():
        refused = pytest.raises(ConesError, match=r"reads something of shape \(2, 10, 8\).* 2 prompts of 5")
        with refused:
            network(x, torch.cat([text, text], 1))


def test_rotary_embeddings_are_replaced_by_every_plain_function_that_there_is(monkeypatch):
    names = ["apply_rope", "apply_rope_split_half1", "rms_rope_of_tomorrow", "rms_rope_", "helper"]
    plain = SimpleNamespace(**{name: f"plain {name}" for name in names})
    kernels = SimpleNamespace(**{name: f"fused {name}" for name in names if name != "apply_rope"})
    monkeypatch.setattr(taps_module, "rope", plain)
    monkeypatch.setattr(comfy.quant_ops, "ck", kernels, raising=False)
    before = dict(vars(kernels))
    with training_kernels():
        assert vars(kernels) == {
            **before,
            "apply_rope_split_half1": "plain apply_rope_split_half1",
            "rms_rope_of_tomorrow": "plain rms_rope_of_tomorrow",
        }
    assert vars(kernels) == before


def test_the_hosts_compiler_rests_during_a_search(monkeypatch):
    monkeypatch.setattr(comfy.cli_args.args, "disable_comfy_compiler", False, raising=False)
    with training_kernels():
        assert comfy.cli_args.args.disable_comfy_compiler is True
    assert comfy.cli_args.args.disable_comfy_compiler is False


def test_a_search_runs_on_one_device_and_without_the_prefix_cache():
    removed = []

    class Patcher:
        def __init__(self):
            self.model_options = {"transformer_options": {"other": 1}}

        def clone(self):
            return self

        def remove_additional_models(self, key):
            removed.append(key)

        def remove_wrappers_with_key(self, *_):
            pass

        def add_wrapper_with_key(self, *_):
            pass

    options = prepared_clone(Patcher(), 4).model_options["transformer_options"]
    assert options["qwen_image21_cache"] == {"device": "off"} and options["other"] == 1
    assert removed == ["multigpu"]
