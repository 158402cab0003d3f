"""Masks at own tokens on layers as newer hosts call them: as dense algebra has it, or the run says so."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask
from cones_concept_neurons.nodes.host.apply import products, token_hooks
from cones_concept_neurons.nodes.host.apply.sampling_run import SamplingRun
from cones_concept_neurons.nodes.host.text.encode import encode_prompt
from cones_concept_neurons.nodes.host.text.token_positions import (
    KEY,
    PromptTokens,
    TokenPositions,
    positions_by_prompt,
    token_positions_of,
)
from support.newer_layers import TOKENS, WIDTH, K, Network, V, inputs, make_dense
from support.small_models import warnings_in

pytestmark = pytest.mark.newer_hosts
SKS = ("sks", "star")
INDEX = torch.arange(0, WIDTH * WIDTH, 3)
OWN = (torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2]))


def mask_of(names=(K, V)):
    shapes = dict.fromkeys(names, (WIDTH, WIDTH))
    return ConceptMask(dict.fromkeys(names, INDEX), shapes, *SKS, where="own tokens")


def run_of(names=(K, V)):
    """A run whose only prompt has own tokens at 1 and 2."""
    return SamplingRun(((mask_of(names), 1.0),), {"prompt": PromptTokens(inputs()[1][0], 0, (torch.tensor([1, 2]),))})


def called(network, run, **options):
    """One call of the model as the host makes it, two rows of one prompt."""
    x, text = inputs()
    text = text[:1].expand_as(text)

    class Executor:
        class_obj = SimpleNamespace(diffusion_model=network, current_patcher=None)

        def __call__(self, x, t, c_crossattn, transformer_options):
            return network(x, c_crossattn)

    transformer_options = {token_hooks.KEY + "_run": run, "uuids": ["prompt"], **options}
    with torch.inference_mode():
        return token_hooks.apply_model(
            Executor(), x, torch.ones(2), c_crossattn=text, transformer_options=transformer_options
        )


def dense(network):
    """The same by plain algebra."""
    x, text = inputs()
    weights = {}
    for name in (K, V):
        weight = network.get_parameter(name).clone()
        weight.view(-1)[INDEX] = 0.0
        weights[name] = weight
    make_dense(network, weights, OWN)
    text = text[:1].expand_as(text)
    forwards = {}
    for name in (K, V):  # the text of this prompt, instead of that of `inputs`
        layer = network.get_submodule(name.removesuffix(".weight"))
        forwards[layer] = layer.__dict__["forward"]
    y = network(x, text)
    for layer in forwards:
        del layer.__dict__["forward"]
    return y


@pytest.mark.parametrize("case", ["", "gelu_tanh", "swiglu", "rms_norm", "rms_norm module"])
def test_a_masked_layer_with_an_activation(case, monkeypatch):
    one_prompt(monkeypatch)
    network = Network(case)
    vanilla = network(*inputs())
    y = called(network, run_of())
    expected = dense(network)
    assert (y - vanilla).abs().max() > 0.01
    assert torch.allclose(y, expected, atol=1e-5)


def one_prompt(monkeypatch):
    """From now on both rows of `inputs` have one text."""
    x, text = inputs()
    alike = x, text[:1].expand_as(text).clone()
    for module in ("support.newer_layers", __name__):
        monkeypatch.setattr(f"{module}.inputs", lambda: alike)


@pytest.mark.parametrize("case", ["residual", "residual_scale"])
def test_a_masked_layer_with_a_residual_is_refused(case):
    with pytest.raises(ConesError, match="adds a residual inside the layer"):
        called(Network(case), run_of())


def test_a_masked_layer_with_an_unknown_argument_is_refused():
    with pytest.raises(ConesError, match="calls the layer with segments"):
        called(Network("unknown"), run_of())


@pytest.mark.parametrize("same", [False, True])
def test_a_second_text_in_one_call_is_left_alone(same, monkeypatch, caplog):
    one_prompt(monkeypatch)
    second = inputs()[1][:1] if same else torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(5))
    network, run = Network(second=second), run_of()
    for _ in range(2):  # what the first step has computed holds for the second
        y = called(network, run)
        assert torch.allclose(y, dense(network), atol=1e-5)
    assert len(warnings_in(caplog)) == (0 if same else 1)
    assert all("second text" in line for line in warnings_in(caplog))


def test_masked_layers_that_are_never_called_are_refused():
    network = Network()
    network.skip = {"k", "v"}
    with pytest.raises(ConesError, match="calls none of the 2 layers with concept neurons"):
        called(network, run_of())


def test_a_later_step_may_be_skipped_as_a_whole(caplog):
    network, run = Network(), run_of()
    called(network, run)
    network.skip = {"k", "v"}
    assert torch.equal(called(network, run), network(inputs()[0], inputs()[1][:1].expand(2, -1, -1)))
    assert not warnings_in(caplog)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_layer_that_is_not_called_is_reported_once(replaced, caplog):
    network, run = Network(), run_of()
    network.skip = {"v"}
    blocks = {("double_block", 0): None} if replaced else {}
    for _ in range(2):
        called(network, run, patches_replace={"dit": blocks})
    expected = [] if replaced else [
        f"Remove the node that skips layers: {V} were not called in a step, and concept masks had no effect there"
    ]
    assert warnings_in(caplog) == expected


def test_a_text_that_the_model_makes_anew_is_refused():
    text = inputs()[1][:1]
    places = TokenPositions(text, {SKS: torch.tensor([1, 2])})
    extra = {KEY: places, "t5xxl_ids": torch.tensor([3, 4])}
    with pytest.raises(ConesError, match="makes another text of the prompt"):
        token_positions_of([[text, extra]], SKS)
    with pytest.raises(ConesError, match="makes another text of the prompt"):
        positions_by_prompt({"positive": [{"cross_attn": text, "uuid": 1, **extra}]}, [SKS])


@pytest.mark.parametrize("named", [False, True])
def test_the_prefix_cache_is_off_in_runs_with_own_tokens_only(named):
    text = inputs()[1][:1]
    places = TokenPositions(text, {SKS: torch.tensor([1, 2])} if named else {})
    options = {token_hooks.KEY: ((mask_of(), 1.0),), "qwen_image21_cache": {"device": "auto"}}
    conds = {"positive": [{"cross_attn": text, "uuid": 1, KEY: places}]}

    class Executor:
        model_patcher = SimpleNamespace(patches={})
        class_obj = SimpleNamespace(
            model_options={"transformer_options": options}, conds=conds, model_patcher=model_patcher
        )

        def __call__(self):
            return options["qwen_image21_cache"]

    assert token_hooks.sample(Executor()) == {"device": "off" if named else "auto"}


def test_what_outlives_a_block_is_made_beside_the_allocation_graph(monkeypatch):
    inside, seen = [], []

    @contextmanager
    def pause_malloc_graph():
        inside.append(1)
        yield
        inside.pop()

    original = products.shut_parts
    monkeypatch.setattr(products, "prefetch", SimpleNamespace(pause_malloc_graph=pause_malloc_graph))
    monkeypatch.setattr(products, "shut_parts", lambda *args: seen.append(len(inside)) or original(*args))
    called(Network(), run_of())
    assert seen == [1, 1] and not inside


def test_threads_and_devices_do_not_share_what_they_compute():
    """As native multi-GPU runs: one SamplingRun, a model of its own per thread."""
    run, results = run_of(), {}
    networks = [Network(), Network()]
    for parameter in networks[1].parameters():
        parameter.data = 2 * parameter.data
    expected = [called(network, run_of()) for network in networks]
    barrier = threading.Barrier(2)

    def work(k):
        barrier.wait()
        results[k] = [called(networks[k], run) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected[k]) for k in range(2) for y in results[k])
    assert len(run.computed) == 2 and not torch.equal(*expected)


def test_a_tokenizer_that_leaves_settings_beside_its_tokens():
    """As Qwen-Image 2.1's does."""
    words = ["<start>"]

    def tokenize(text, return_word_ids=False):
        for word in text.split():
            if word not in words:
                words.append(word)
        tokens = [(0, 1.0, 0), *((words.index(word), 1.0, k + 1) for k, word in enumerate(text.split()))]
        return {"qwen3vl": [tokens if return_word_ids else [token[:2] for token in tokens]], "keep_vision": False}

    def encode_from_tokens_scheduled(tokens):
        return [[torch.ones(1, len(tokens["qwen3vl"][0]), 4), {"pooled_output": None}]]

    clip = SimpleNamespace(
        tokenize=tokenize, encode_from_tokens_scheduled=encode_from_tokens_scheduled, cond_stage_model=SimpleNamespace()
    )
    prompt = encode_prompt(clip, "a sks star there", [SKS])
    assert prompt.positions[SKS].tolist() == [2, 3] and prompt.length == 5
