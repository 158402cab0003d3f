"""What a search will need: bytes counted by hand, on a loss whose saved tensors are known."""

from __future__ import annotations

import weakref

import pytest
import torch

from cones_ops import Examples, SearchSettings, find_concept_neurons
from cones_ops.reports.text import summary_text
from cones_ops.search.estimate import Estimate, estimate, saved_bytes

FLOAT = 4


def test_saved_bytes_are_those_autograd_holds() -> None:
    x = torch.ones(10, requires_grad=True)
    scale = torch.nn.Parameter(torch.ones(10))
    with saved_bytes() as saved:
        y = x.exp()  # keeps y
        z = (y * scale).square()  # keeps y again, which counts once; scale, a parameter, which does not; and y * scale
        assert saved.now == saved.most == 2 * 10 * FLOAT
        z.sum().backward()
        del y, z
    assert saved.now == 0 and saved.most == 2 * 10 * FLOAT


def test_it_grows_with_the_batch_from_two_small_passes(toy_host: type, keys: tuple) -> None:
    model = toy_host(torch.ones(8, 12), torch.eye(8))
    rows = []

    def sample_loss(settings: SearchSettings):
        def loss() -> torch.Tensor:
            rows.append(settings.batch)
            k, v = (model.effective[key] for key in keys)
            x = torch.ones(settings.batch, 12)
            return (x @ k.T).square().mean() + v.sum() * 0  # keeps x (12 a row), k (96) and x k^T (8 a row)

        return lambda step: loss

    forecast = estimate(model, sample_loss, SearchSettings(steps=30, batch=5))
    assert rows == [1, 1, 2] and forecast.seconds_choosing == 0
    assert forecast.kept == (5 * (12 + 8)) * FLOAT + constant_of(model, keys)
    assert forecast.statistics == 24 * (8 * 12 + 8 * 8) and forecast.steps == 30 and forecast.seconds_per_step > 0


def test_choosing_the_density_is_told_too(toy_host: type, keys: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of two rows takes 4 s by this clock, so 3 densities of 10 rows take 60 s."""
    model = toy_host(torch.ones(8, 12), torch.eye(8))
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr("cones_ops.search.estimate.time.perf_counter", lambda: float(next(clock)))
    loss = lambda: sum(model.effective[key].sum() for key in keys)  # noqa: E731
    forecast = estimate(model, lambda settings: lambda step: loss, SearchSettings(steps=30, batch=2, held_out=10), 3)
    assert forecast.seconds_choosing == 60
    assert "4 s a step, 2 min for 30 steps and 60 s to choose the density; memory" in str(forecast)


def constant_of(model, keys) -> int:
    """What the toy host's loss keeps for any batch."""
    with saved_bytes() as saved:
        model.gradients(lambda: (torch.ones(0, 12) @ model.effective[keys[0]].T).square().sum())
    return saved.most


def test_the_search_tells_it_before_its_first_step_and_in_the_report(toy_host: type, names: tuple[str, str]) -> None:
    model = toy_host(torch.randn(8, 12), torch.eye(8), where="own tokens")
    subject = Examples(torch.randn(4, 8, 1, 1), [(torch.randn(12), True)])
    told: list[object] = []
    settings = SearchSettings(steps=3, batch=4, held_out=4)
    words = {"identifier": "sks", "class_word": "star", "settings": settings}
    result = find_concept_neurons(model, subject, **words, on_step=told.append, on_estimate=told.append)
    assert isinstance(told[0], Estimate) and result.estimate == told[0]
    assert sum(isinstance(one, Estimate) for one in told) == 1
    assert f"expected before it: {result.estimate}" in summary_text(result)
    silent = find_concept_neurons(model, subject, **words)
    assert silent.estimate is None and silent.history == result.history
    assert silent.mask.provenance == result.mask.provenance


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.5 s a step, 50 s for 100 steps"), (6, "6 s a step, 10 min for 100 steps")]
)
def test_in_words(seconds: float, words: str) -> None:
    text = str(Estimate(12_000_000, 3_400_000_000, seconds, 100))
    assert f"{words}; memory" in text and "12 MB for the backward pass, 3,400 MB for the statistics" in text


def test_a_graph_that_is_dropped_before_its_backward_pass_is_freed() -> None:
    """As when a search is cancelled while it is estimated. exp saves its own output."""
    with saved_bytes() as saved:
        y = (torch.ones(1000, requires_grad=True) * 2).exp()
    output = weakref.ref(y)
    assert saved.now == 4000
    del y
    assert output() is None and saved.now == 0
