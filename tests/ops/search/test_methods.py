"""The search methods: one step by hand each, a planted problem, and state that is always given back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cones_ops import METHODS, ConesError, SearchSettings, Step, from_ranking, recommended
from cones_ops.search.progress import Progress
from cones_ops.search.settings import share_shut

ALL = sorted(METHODS)


def linear_host(toy_host: type, keys: tuple):
    """A host and the loss L = sum(slope * theta * multiplier): theta * dL/dtheta = theta * slope at every step."""
    model = toy_host(torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0], [1.0]]))
    slopes = {keys[0]: torch.tensor([[3.0, -1.0]]), keys[1]: torch.tensor([[1.0], [0.0]])}  # theta g = 3 -2 -1 0

    def loss() -> Tensor:
        return sum((slopes[n] * model.effective[n]).sum() for n in keys)

    return model, lambda k: loss


def test_taylor_by_hand(toy_host: type, keys: tuple) -> None:
    model, sample = linear_host(toy_host, keys)
    scores = METHODS["taylor"](model, sample, SearchSettings("taylor", steps=4))
    assert scores[keys[0]].tolist() == [[3, -2]] and scores[keys[1]].tolist() == [[-1], [0]]


def test_cones_by_hand(toy_host: type, keys: tuple) -> None:
    """rho = .2 / (2 steps * p99 of {3, 2, 1, 0} = 2.97); M_1 = 1 - rho * theta g; score = theta g (1 + M_1) / 2."""
    model, sample = linear_host(toy_host, keys)
    scores = METHODS["cones"](model, sample, SearchSettings("cones", steps=2, shrink=0.2))
    rho = 0.2 / (2 * 2.97)
    expected = [a * (1 + 1 - rho * a) / 2 for a in (3, -2, -1, 0)]
    assert torch.cat([scores[n].flatten() for n in keys]).tolist() == pytest.approx(expected)


def test_learned_by_hand(toy_host: type, keys: tuple) -> None:
    """One step of Adam from u = 1, g = sigmoid(1): slope = (a / rms - .5) g (1 - g), a = (3, -2, -1, 0)."""
    model, sample = linear_host(toy_host, keys)
    scores = METHODS["learned"](model, sample, SearchSettings(steps=1, rate=0.2, sparsity=0.5))
    slopes = [(a / 3.5**0.5 - 0.5) * 0.7310586 * (1 - 0.7310586) for a in (3, -2, -1, 0)]
    expected = [-(1 - 0.2 * slope / (abs(slope) + 1e-3)) for slope in slopes]
    assert torch.cat([scores[n].flatten() for n in keys]).tolist() == pytest.approx(expected)


def test_learned_pace_falls_to_zero_and_sets_show_in_the_sign(toy_host: type, keys: tuple) -> None:
    model, sample = linear_host(toy_host, keys)
    scores = METHODS["learned"](model, sample, SearchSettings(steps=60))
    assert [(scores[n] >= 0).flatten().tolist() for n in keys] == [[True, False], [False, False]]
    assert share_shut(scores) == 0.25


def planted(toy_host: type, keys: tuple):
    """The answer is K c with 20 of its 192 entries shut: shutting exactly those gives loss 0. V plays no part."""
    generator = torch.Generator().manual_seed(1)
    k = torch.randn(12, 16, generator=generator)
    k += 0.3 * k.sign()
    shut = torch.zeros(k.numel(), dtype=torch.bool)
    shut[torch.randperm(k.numel(), generator=generator)[:20]] = True
    answer = k.masked_fill(shut.reshape(k.shape), 0)
    model = toy_host(k, torch.eye(12))

    def sample(k_: int) -> Callable[[], Tensor]:
        c = torch.randn(32, 16, generator=torch.Generator().manual_seed(k_))
        return lambda: (c @ (model.effective[keys[0]] - answer).T).square().mean()

    return model, sample, shut


def test_learned_finds_the_planted_set(toy_host: type, keys: tuple) -> None:
    model, sample, shut = planted(toy_host, keys)
    losses: list[float] = []
    record = lambda step: losses.append(step.loss)  # noqa: E731
    scores = METHODS["learned"](model, sample, SearchSettings(sparsity=0.0), Progress(record))
    assert torch.equal((scores[keys[0]] >= 0).flatten(), shut)
    assert losses[0] > 1 and losses[-1] < 1e-3  # shutting exactly these removes all of the loss


def test_sparsity_leaves_the_planted_set_on_top(toy_host: type, keys: tuple) -> None:
    """Its pull lets shut weights without a gradient come back now and then; the ranking still has them first."""
    model, sample, shut = planted(toy_host, keys)
    scores = METHODS["learned"](model, sample, SearchSettings(sparsity=0.1))
    assert (
        from_ranking({name: score for (_, name), score in scores.items()}, 20 / 336).index[keys[0][1]].tolist()
        == shut.nonzero().flatten().tolist()
    )


@pytest.mark.parametrize("method", ALL)
def test_methods_are_deterministic_and_rank_planted_weights_high(method: str, toy_host: type, keys: tuple) -> None:
    model, sample, shut = planted(toy_host, keys)
    settings = SearchSettings(method, steps=100)
    scores, again = (METHODS[method](model, sample, settings) for _ in range(2))
    assert all(torch.equal(scores[n], again[n]) for n in keys)
    top = scores[keys[0]].flatten().topk(20).indices
    assert int(shut[top].sum()) >= 14  # 20 of 192 by chance: 2


class CancelledError(Exception):
    pass


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("where", ["loss", "on_step"])
def test_the_model_is_given_back_when_something_raises(method: str, where: str, toy_host: type, keys: tuple) -> None:
    model, sample, _ = planted(toy_host, keys)
    before = {n: w.clone() for n, w in model.weights.items()}

    def failing(k: int) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            if where == "loss" and k == 3:
                raise CancelledError
            return sample(k)()

        return loss

    def on_step(step: Step) -> None:
        if where == "on_step" and step.step == 3:
            raise CancelledError

    with pytest.raises(CancelledError):
        METHODS[method](model, failing, SearchSettings(method, steps=9), Progress(on_step))
    assert model.multiplied_by is None and model.effective is model.weights
    assert all(torch.equal(model.weights[n], before[n]) and not model.weights[n].requires_grad for n in keys)


@pytest.mark.parametrize("method", ALL)
def test_every_step_is_reported(method: str, toy_host: type, keys: tuple) -> None:
    model, sample, _ = planted(toy_host, keys)
    steps: list[Step] = []
    METHODS[method](model, sample, SearchSettings(method, steps=7), Progress(steps.append))
    assert [(s.step, s.total, s.phase) for s in steps] == [(k, 7, "search") for k in range(1, 8)]


@pytest.mark.parametrize("method", ALL)
def test_a_broken_loss_is_named(method: str, toy_host: type, keys: tuple) -> None:
    model, _, _ = planted(toy_host, keys)
    total = lambda: sum(w.sum() for w in model.effective.values())  # noqa: E731
    with pytest.raises(ConesError, match="the loss is nan"):
        METHODS[method](model, lambda k: lambda: total() * float("nan"), SearchSettings(method))
    if method != "taylor":
        with pytest.raises(ConesError, match=r"gradient of the searched weights is 0\.0"):
            METHODS[method](model, lambda k: lambda: total() * 0, SearchSettings(method))


def test_settings_are_checked() -> None:
    with pytest.raises(ConesError, match="method 'magic' is not known; choose one of learned, cones"):
        SearchSettings("magic")
    with pytest.raises(ConesError, match="steps=0, batch=-1, held_out=1, seed=-1, rate=0, momentum=1"):
        SearchSettings(steps=0, batch=-1, held_out=1, seed=-1, rate=0, momentum=1)
    own, everywhere = recommended("own tokens"), recommended("everywhere", "cones", seed=3)
    assert (own.steps, own.batch, own.rate, own.sparsity) == (300, 8, 0.1, 0.03)
    assert (everywhere.method, everywhere.batch, everywhere.rate, everywhere.sparsity) == ("cones", 16, 0.1, 0.03)
    assert (own.batch, everywhere.steps, everywhere.seed) == (8, 300, 3)
