"""The whole search on the toy host: pictures in, mask out, model unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cones_ops import ConesError, Examples, SearchSettings, Step, find_concept_neurons, load_mask, save_mask
from cones_ops.masks.concept_mask import same_neurons
from cones_ops.masks.fingerprint import fingerprint
from cones_ops.reports.figures import density_figure
from cones_ops.reports.text import layer_table, summary_text
from cones_ops.search.objective import Term, held_out_loss

QUICK = SearchSettings(steps=60, batch=12, held_out=24)


def problem(toy_host: type, names: tuple[str, str], where: str = "own tokens"):
    """Subject pictures are what K with 10 of its 96 entries shut makes; class pictures are what the model makes."""
    generator = torch.Generator().manual_seed(2)
    k = torch.randn(8, 12, generator=generator)
    k += 0.3 * k.sign()
    shut = torch.zeros(96, dtype=torch.bool)
    shut[torch.randperm(96, generator=generator)[:10]] = True
    model = toy_host(k, torch.eye(8), where=where, skip=0.1)
    ours, theirs = torch.randn(2, 24, 12, generator=generator)
    pictures = (ours @ k.masked_fill(shut.reshape(8, 12), 0).T).reshape(24, 8, 1, 1)
    subject = Examples(pictures, [(c, True) for c in ours])
    prior = Examples((theirs @ k.T).reshape(24, 8, 1, 1), [(c, False) for c in theirs])
    return model, subject, prior, shut


def find(model, subject, prior=None, **more):
    return find_concept_neurons(model, subject, prior, identifier="sks", class_word="star", **more)


def test_own_tokens_without_prior(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, _, shut = problem(toy_host, names)
    before = {n: w.clone() for (_, n), w in model.weights.items()}
    result = find(model, subject, settings=SearchSettings(steps=200, batch=12, held_out=24, sparsity=0.0))
    assert result.found and result.mask.names == [names[0]]
    chosen, planted = ({*index.tolist()} for index in (result.mask.index[names[0]], shut.nonzero().flatten()))
    assert chosen <= planted and len(chosen) >= 0.8 * len(planted)  # the sparsest within 5 % of the best gain
    assert result.curve.losses[result.curve.chosen_at] < 0.1 * result.curve.losses[0]
    assert result.mask.where == "own tokens" and result.mask.fingerprint == fingerprint(before)
    assert all(torch.equal(model.weights[0, n], before[n]) for n in names) and model.multiplied_by is None
    assert len(result.history) == 200 and set(result.scores) == set(names)
    told = result.mask.provenance
    assert (told["method"], told["steps"], told["prior"], told["found"]) == ("learned", "200", "none", "yes")
    assert float(told["held_out_after"]) < float(told["held_out_before"])


def test_the_same_seed_gives_the_same_mask_and_another_another_noise(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, _, _ = problem(toy_host, names)
    first, again = (find(model, subject, settings=QUICK) for _ in range(2))
    assert same_neurons(first.mask, again.mask) and first.history == again.history and first.curve == again.curve
    assert first.mask.provenance == again.mask.provenance
    other = find(model, subject, settings=SearchSettings(steps=60, batch=12, held_out=24, seed=2**64 - 1))
    assert other.history != first.history


def test_the_prior_holds_back_what_changes_other_prompts(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, prior, _ = problem(toy_host, names, "everywhere")
    lax = find(model, subject, prior, settings=QUICK, prior_weight=0.0)
    strict = find(model, subject, prior, settings=QUICK, prior_weight=10.0)
    assert lax.found and not strict.found and strict.mask.count == 0
    assert strict.mask.provenance["found"] == "no density helps" and strict.mask.size == lax.mask.size == 160
    assert summary_text(strict).startswith("NOT FOUND. Use more steps or other pictures\nno density helps: ")
    assert "NOT FOUND" not in summary_text(lax)


def test_distilling_equals_class_pictures_the_model_makes_itself(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, prior, _ = problem(toy_host, names, "everywhere")
    model.skip = 0.0  # then denoised = the class pictures, whatever is noised
    elsewhere = Examples(torch.zeros_like(prior.latents), prior.conditioning)
    pictures = find(model, subject, prior, settings=QUICK)
    distilled = find(model, subject, elsewhere, settings=QUICK, distill=True)
    assert distilled.history == pytest.approx(pictures.history, rel=1e-4)
    assert distilled.curve.losses == pytest.approx(pictures.curve.losses, rel=1e-4)
    assert distilled.mask.provenance["prior"] == "distilled"


def test_a_fixed_density_is_obeyed_and_judged(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, _, _ = problem(toy_host, names)
    result = find(model, subject, settings=QUICK, density=0.05)
    assert result.mask.count == 8 and result.found and result.mask.provenance["density_chosen"] == "by the user"
    harmful = find(model, subject, settings=QUICK, density=0.9)
    assert harmful.mask.count == 144 and not harmful.found
    assert harmful.mask.provenance["found"] == "no gain at this density"


def test_no_noise_of_the_search_is_held_out(toy_host: type, names: tuple[str, str], monkeypatch) -> None:
    model, subject, _, _ = problem(toy_host, names)
    seen: list[torch.Tensor] = []
    noised = model.noised
    monkeypatch.setattr(model, "noised", lambda x, noise, sigma: seen.append(noise) or noised(x, noise, sigma))
    settings = SearchSettings(steps=4, batch=12, held_out=24)
    steps = len(find(model, subject, settings=settings).history)
    rows = {row.numpy().tobytes() for noise in seen for row in noise}
    assert len(rows) == steps * 12 + 24 == 72  # search and choosing: all different


def test_held_out_loss_is_in_mini_batches_and_restores(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, prior, shut = problem(toy_host, names)
    terms = [Term(subject), Term(prior, 2.0)]
    small, large = (held_out_loss(model, terms, 2, SearchSettings(batch=b, held_out=10)) for b in (4, 10))
    mask = {(0, names[0]): (~shut).float().reshape(8, 12)}
    assert small(mask).shape == (10,) and torch.allclose(small(mask), large(mask))
    assert (small(mask) < small(None)).all() and model.multiplied_by is None and not small(None).requires_grad


@pytest.mark.parametrize("phase", ["search", "choose"])
def test_cancelling_gives_the_model_back(phase: str, toy_host: type, names: tuple[str, str]) -> None:
    model, subject, _, _ = problem(toy_host, names)

    def on_step(step: Step) -> None:
        if step.phase == phase:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(model, subject, settings=QUICK, on_step=on_step)
    assert model.multiplied_by is None and model.effective is model.weights


def test_inside_inference_mode_as_comfyui_runs_nodes(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, _, _ = problem(toy_host, names)
    with torch.inference_mode():
        inside = find(model, Examples(subject.latents.clone(), subject.conditioning), settings=QUICK)
    assert same_neurons(inside.mask, find(model, subject, settings=QUICK).mask)


def test_everywhere_needs_a_prior(toy_host: type, names: tuple[str, str]) -> None:
    model, subject, _, _ = problem(toy_host, names, "everywhere")
    with pytest.raises(ConesError, match="everywhere without a prior"):
        find(model, subject)
    model.where = "own tokens"
    with pytest.raises(ConesError, match="distill=True"):
        find(model, subject, distill=True)
    with pytest.raises(ConesError, match="prior weight -1"):
        find(model, subject, prior_weight=-1)


def test_report_and_file_of_a_result(toy_host: type, names: tuple[str, str], tmp_path) -> None:
    model, subject, _, _ = problem(toy_host, names)
    result = find(model, subject, settings=QUICK)
    picture = density_figure(result)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 and picture.std() > 5
    assert np.array_equal(picture, density_figure(result.curve))
    count = result.mask.count
    text = summary_text(result)
    assert f"{count} of 160 neurons" in text and "at its own tokens" in text and "60 steps" in text
    assert text.startswith("FOUND. Type: a sks star\nActing at its own tokens")
    rows = layer_table(result.mask).splitlines()
    assert rows[0].startswith(f"{names[0]}: ") and rows[-1] == f"all: {count} of 160 ({count / 160:.2%})"
    again = load_mask(save_mask(result.mask, tmp_path / "sks.safetensors"))
    assert same_neurons(again, result.mask) and again.provenance == result.mask.provenance
