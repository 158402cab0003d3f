"""The concept-implanting loss, by hand on the toy host."""

from __future__ import annotations

import pytest
import torch

from cones_ops import ConesError, Examples
from cones_ops.search.objective import Draws, concept_implanting_loss, denoised_draws, draw, per_draw_loss

C = torch.tensor([1.0, 2.0])


def host(toy_host: type, **more: object):
    """V K c = [[1, 0], [0, 3]] [2, 4] = [2, 12] for c = [1, 2]."""
    return toy_host(torch.eye(2) * 2, torch.tensor([[1.0, 0.0], [0.0, 3.0]]), **more)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def test_per_draw_loss_by_hand(toy_host: type) -> None:
    subject = Examples(column(3, 10), [(C, True)])
    draws = Draws(torch.tensor([0, 0]), torch.tensor([0.0, 1.0]), torch.zeros(2, 2, 1, 1))  # sigma 1, 1/2
    # error = [2, 12] - [3, 10] = [-1, 2]; squares 1 + 4, mean 2.5; / sigma^2 = 1, 1/4
    assert per_draw_loss(host(toy_host), subject, draws).tolist() == [2.5, 10.0]
    target = column(2, 11).expand(2, -1, -1, -1)  # error [0, 1]
    assert per_draw_loss(host(toy_host), subject, draws, target).tolist() == [0.5, 2.0]


def test_noise_reaches_the_model(toy_host: type) -> None:
    draws = Draws(torch.tensor([0]), torch.tensor([1.0]), column(2, 4))  # x = [3, 10] + 1/2 [2, 4] = [4, 12]
    denoised = denoised_draws(host(toy_host, skip=0.5), Examples(column(3, 10), [(C, True)]), draws)
    assert denoised.flatten().tolist() == [3.0, 12.0]  # 1/2 [2, 12] + 1/2 [4, 12]


def test_the_two_terms_add(toy_host: type) -> None:
    subject, prior = Examples(column(3, 10), [(C, True)]), Examples(column(2, 12), [(C, False)])
    draws = Draws(torch.tensor([0]), torch.tensor([0.0]), torch.zeros(1, 2, 1, 1))
    model = host(toy_host)
    assert concept_implanting_loss(model, subject, draws).item() == 2.5
    assert concept_implanting_loss(model, subject, draws, prior, draws, 4.0).item() == 2.5  # the prior is met exactly
    target = column(2, 10)  # prior error [0, 2], mean square 2
    assert concept_implanting_loss(model, subject, draws, prior, draws, 4.0, target).item() == 2.5 + 4 * 2
    assert concept_implanting_loss(model, subject, draws, subject, draws, 1.0).item() == 5.0


def test_gradients_by_hand(toy_host: type, names: tuple[str, str]) -> None:
    """L = mean((V K c - x0)^2), e = [-1, 2]: dL/dV = e (K c)^T, dL/dK = V^T e c^T (2/n = 1)."""
    draws = Draws(torch.tensor([0]), torch.tensor([0.0]), torch.zeros(1, 2, 1, 1))
    model, subject = host(toy_host), Examples(column(3, 10), [(C, True)])
    loss, gradient = model.gradients(lambda: per_draw_loss(model, subject, draws).mean())
    assert loss.item() == 2.5
    assert gradient[names[1]].tolist() == [[-2, -4], [4, 8]]
    assert gradient[names[0]].tolist() == [[-1, -2], [6, 12]]


def test_each_row_gets_its_picture_and_conditioning(toy_host: type) -> None:
    latents = torch.cat([column(2, 12), column(0, 0)])
    subject = Examples(latents, [(C, True), (0 * C, True)])  # both are met exactly, unless mixed up
    draws = Draws(torch.tensor([1, 0, 1]), torch.zeros(3), torch.zeros(3, 2, 1, 1))
    assert per_draw_loss(host(toy_host), subject, draws).tolist() == [0, 0, 0]


def test_draws_are_fair_stratified_and_repeatable() -> None:
    examples = Examples(torch.zeros(3, 4, 8, 8), [None])
    draws = draw(examples, 7, torch.Generator().manual_seed(5))
    assert draws.noise.shape == (7, 4, 8, 8) and draws.noise.std().sub(1).abs() < 0.05
    assert sorted(draws.which.bincount().tolist()) == [2, 2, 3]
    strata = ((draws.percent - 0.02) / 0.96 * 7).floor().int()
    assert sorted(strata.tolist()) == list(range(7))
    again = draw(examples, 7, torch.Generator().manual_seed(5))
    assert all(torch.equal(getattr(draws, f), getattr(again, f)) for f in ("which", "percent", "noise"))
    parts = draws.split(3)
    assert [len(p.which) for p in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([p.noise for p in parts]), draws.noise)


def test_refusals() -> None:
    with pytest.raises(ConesError, match="2 conditionings for 3 pictures"):
        Examples(torch.zeros(3, 4, 8, 8), [None, None])
    with pytest.raises(ConesError, match=r"latents of shape \(0, 4, 8, 8\)"):
        Examples(torch.zeros(0, 4, 8, 8), [None])
    with pytest.raises(ConesError, match="0 draws"):
        draw(Examples(torch.zeros(3, 4, 8, 8), [None]), 0, torch.Generator())
