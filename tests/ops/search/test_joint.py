"""Joint steps on several masks: the union's gradients by hand, masks that learn to agree, and what is given back."""

from __future__ import annotations

import pytest
import torch

from cones_ops.errors import ConesError
from cones_ops.masks.concept_mask import ConceptMask, same_neurons
from cones_ops.reports.text import tuning_text
from cones_ops.search.joint import UnionModel, tune_concept_masks, tuning
from cones_ops.search.objective import Examples
from cones_ops.search.settings import SearchSettings

QUICK = SearchSettings(steps=200, batch=12, held_out=24, rate=0.03)


def test_a_weight_is_shut_where_any_concept_shuts_it_and_gradients_follow_the_chain_rule(toy_host, names):
    k = names[0]
    host = toy_host(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.eye(2))
    union = UnionModel(host, 2)
    assert sorted(union.weights) == sorted((i, n) for i in (0, 1) for n in names)
    ours = {(0, k): torch.tensor([[0.0, 1.0], [1.0, 1.0]]), (1, k): torch.tensor([[1.0, 1.0], [0.0, 1.0]])}
    c = torch.tensor([1.0, 1.0])
    with union.multiplied(ours):
        assert host.effective[0, k].tolist() == [[0, 2], [0, 4]]
        _, gradients = union.gradients(lambda: union.denoise(torch.zeros(1, 2, 1, 1), c[:1], [(c, True)]).sum())
    # d sum / d K_eff = 1 everywhere; a concept's multiplier reaches only what the other leaves on
    assert gradients[0, k].tolist() == [[1, 1], [0, 1]]
    assert gradients[1, k].tolist() == [[0, 1], [1, 1]]
    assert host.effective[0, k].tolist() == [[1, 2], [3, 4]]


def problem(toy_host, names):
    """Two subjects that need the same 10 entries of K shut, and masks that have 5 of them each and 5 wrong ones."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(8, 12, generator=generator)
    weight += 0.3 * weight.sign()
    order = torch.randperm(96, generator=generator)
    right, wrong = order[:10], order[10:20]
    shut = torch.zeros(96, dtype=torch.bool)
    shut[right] = True
    host = toy_host(weight, torch.eye(8), skip=0.1)
    ours, theirs = torch.randn(2, 24, 12, generator=generator)
    subjects = []
    for texts in (ours, theirs):
        pictures = (texts @ weight.masked_fill(shut.reshape(8, 12), 0).T).reshape(24, 8, 1, 1)
        subjects.append(Examples(pictures, [(c, True) for c in texts]))
    shapes = {name: tuple(w.shape) for (_, name), w in host.weights.items()}
    masks = [
        ConceptMask({names[0]: torch.cat([right[i : i + 5], wrong[i : i + 5]]).sort().values}, shapes, word, "star")
        for i, word in ((0, "sks"), (5, "zwx"))
    ]
    prior = Examples(torch.zeros(4, 8, 1, 1), [(torch.zeros(12), True)])  # nothing to preserve: K 0 = 0
    return host, masks, subjects, prior, set(right.tolist())


def test_joint_steps_make_masks_that_were_found_apart_agree(toy_host, names):
    host, masks, subjects, prior, right = problem(toy_host, names)
    before = {n: w.clone() for (_, n), w in host.weights.items()}
    heard = []
    result = tune_concept_masks(
        UnionModel(host, 2), masks, subjects, prior=prior, settings=QUICK, on_step=lambda step: heard.append(step.step)
    )
    assert result.tuned and result.after < 0.2 * result.before
    assert result.gain == pytest.approx(result.before - result.after)
    assert heard == list(range(1, 201)) and len(result.history) == 200
    union = {i for mask in result.masks for i in mask.index.get(names[0], torch.empty(0)).tolist()}
    assert union == right
    assert [mask.identifier for mask in result.masks] == ["sks", "zwx"]
    assert result.masks[0].provenance["tuned_with"] == "1"
    assert all(mask.index[names[0]].numel() == 10 for mask in masks), "the given masks are not changed"
    assert all(torch.equal(host.weights[0, n], before[n]) for n in names) and host.multiplied_by is None
    text = tuning_text(result, masks)
    assert text.startswith("TUNED. Type: a sks star and a zwx star\n200 joint steps on 2 masks")


@pytest.mark.slow
def test_masks_come_back_as_they_were_when_the_joint_loss_does_not_fall(toy_host, names):
    host, masks, subjects, prior, _ = problem(toy_host, names)
    done = tune_concept_masks(UnionModel(host, 2), masks, subjects, prior=prior, settings=QUICK).masks
    again = tune_concept_masks(UnionModel(host, 2), done, subjects, prior=prior, settings=QUICK)
    assert not again.tuned
    assert all(same_neurons(a, b) for a, b in zip(again.masks, done, strict=True))
    assert tuning_text(again, done).startswith("NOT TUNED. Use more steps, or pictures of the subjects together\n")


def test_cancel_gives_the_model_back(toy_host, names):
    host, masks, subjects, prior, _ = problem(toy_host, names)

    def stop(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_concept_masks(UnionModel(host, 2), masks, subjects, prior=prior, settings=QUICK, on_step=stop)
    assert host.multiplied_by is None


def test_what_does_not_belong_together_is_refused(toy_host, names):
    host, masks, subjects, prior, _ = problem(toy_host, names)
    union = UnionModel(host, 2)

    def refused(match, *given, **more):
        with pytest.raises(ConesError, match=match):
            tune_concept_masks(*given, settings=tuning(), **more)

    refused("two masks or more", union, masks[:1], subjects[:1], prior=prior)
    refused("pictures for each", union, masks, subjects[:1], prior=prior)
    refused("without a prior", union, masks, subjects)
    own = [ConceptMask(mask.index, mask.shapes, mask.identifier, "star", "own tokens") for mask in masks]
    refused("not found everywhere", union, own, subjects, prior=prior)
    refused("disagree", UnionModel(host, 3), masks, subjects, prior=prior)
