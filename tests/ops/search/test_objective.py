"""The concept-implanting loss, by hand on the toy host."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cones_ops import ConesError, Examples
from cones_ops.search.objective import (
    DrawnTerm,
    Draws,
    Term,
    concept_implanting_loss,
    denoised_draws,
    draw,
    draw_terms,
    held_out_loss,
    per_draw_loss,
    sample_loss,
)
from cones_ops.search.settings import SearchSettings

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


def test_weighted_terms_add(toy_host: type) -> None:
    subject, prior = Examples(column(3, 10), [(C, True)]), Examples(column(2, 12), [(C, False)])
    draws = Draws(torch.tensor([0]), torch.tensor([0.0]), torch.zeros(1, 2, 1, 1))
    model, ours = host(toy_host), DrawnTerm(Term(subject), draws)
    assert concept_implanting_loss(model, [ours]).item() == 2.5
    assert concept_implanting_loss(model, [ours, DrawnTerm(Term(prior, 4.0), draws)]).item() == 2.5  # the prior is met
    target = column(2, 10)  # prior error [0, 2], mean square 2
    assert concept_implanting_loss(model, [ours, DrawnTerm(Term(prior, 4.0), draws, target)]).item() == 2.5 + 4 * 2
    assert concept_implanting_loss(model, [ours, ours, ours]).item() == 7.5


def test_a_distilled_term_has_the_untouched_models_answer_as_its_target(toy_host: type) -> None:
    terms = [Term(Examples(column(3, 10), [(C, True)])), Term(Examples(column(9, 9), [(C, True)]), 2.0, distilled=True)]
    plain, distilled = draw_terms(host(toy_host), terms, 2, torch.Generator())
    assert plain.target is None and distilled.target.flatten().tolist() == [2, 12, 2, 12]  # V K c, whatever is noised


def test_batches_and_held_out_rows_are_sums_over_terms_from_separate_noise(toy_host: type, keys: tuple) -> None:
    model = host(toy_host)
    terms = [Term(Examples(column(2, 10), [(C, True)])), Term(Examples(column(9, 9), [(C, True)]), 3.0, distilled=True)]
    settings = SearchSettings(batch=4, held_out=6)
    assert sample_loss(model, terms, 5, settings)(0)().item() > 0
    evaluate = held_out_loss(model, terms, 7, settings)
    losses = evaluate(None)  # subject error [0, 2]: mean square 2, over sigma^2; the distilled term is met
    sigma = model.sigma_at(draw(terms[0].examples, 6, torch.Generator().manual_seed(seed_of(7))).percent)
    assert torch.allclose(losses, (2 / sigma**2).double())
    shut = evaluate({keys[1]: torch.zeros(2, 2)})  # denoised 0: errors [2, 10] and [2, 12], mean squares 52 and 74
    assert losses.dtype == torch.float64 and (shut > 52 + 3 * 74).all()


def seed_of(stream: int) -> int:
    return int(np.random.SeedSequence((0, stream, 0)).generate_state(1)[0])


def test_gradients_by_hand(toy_host: type, keys: tuple) -> None:
    """L = mean((V K c - x0)^2), e = [-1, 2]: dL/dV = e (K c)^T, dL/dK = V^T e c^T (2/n = 1)."""
    draws = Draws(torch.tensor([0]), torch.tensor([0.0]), torch.zeros(1, 2, 1, 1))
    model, subject = host(toy_host), Examples(column(3, 10), [(C, True)])
    loss, gradient = model.gradients(lambda: per_draw_loss(model, subject, draws).mean())
    assert loss.item() == 2.5
    assert gradient[keys[1]].tolist() == [[-2, -4], [4, 8]]
    assert gradient[keys[0]].tolist() == [[-1, -2], [6, 12]]


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
