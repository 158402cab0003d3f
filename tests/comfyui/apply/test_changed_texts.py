"""Masks at own tokens where other nodes change a conditioning: places that stay, a little noise, and mixed texts."""

from __future__ import annotations

import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from support.small_models import POSITIVE, SKS, encode, mask_of, recording, sampled, warnings_in

import nodes

pytestmark = pytest.mark.slow
NOBODY = {}


@pytest.fixture(scope="module")
def masks(model):
    return [(mask_of(model, SKS, 1), 1.0)]


@pytest.mark.parametrize("what", ["mask", "area", "range", "combine", "concat", "strength"])
def test_conditioning_nodes_keep_the_places(model, masks, what, caplog):
    other = encode(NOBODY, seed=5)
    change = {
        "mask": lambda c: nodes.ConditioningSetMask().append(c, torch.ones(8, 8), "default", 1.0)[0],
        "area": lambda c: nodes.ConditioningSetArea().append(c, 32, 64, 0, 0, 1.0)[0],
        "range": lambda c: nodes.ConditioningSetTimestepRange().set_range(c, 0.0, 0.6)[0],
        "combine": lambda c: nodes.ConditioningCombine().combine(c, other)[0],
        "concat": lambda c: nodes.ConditioningConcat().concat(c, other)[0],
        "strength": lambda c: nodes.ConditioningSetAreaStrength().append(c, 0.7)[0],
    }[what]
    text = change(encode()), encode(NOBODY, seed=1)
    clone, before = recording(model)
    sampled(clone, *text, cfg=1.0)
    clone, after = recording(apply_masks(model, masks))
    sampled(clone, *text, cfg=1.0)
    name = masks[0][0].names[0]
    rows = [r for r in range(len(after[name][0])) if torch.equal(after[name][0][r, :8], text[0][0][0][0, :8])]
    changed = (before[name][1] != after[name][1]).any(-1)
    assert len(rows) == 2 and changed.nonzero().tolist() == [
        [row, p + k] for row in rows for k in range(0, changed.shape[1], text[0][0][0].shape[1]) for p in POSITIVE[SKS]
    ]
    assert [warning.split(" after ")[0] for warning in warnings_in(caplog)] == [
        "Write the whole prompt in one node: 8 tokens were appended to a prompt"
    ] * (what == "concat")


def test_a_text_that_was_changed_is_refused(model, masks):
    applied = apply_masks(model, masks)
    (mixed,) = nodes.ConditioningAverage().addWeighted(encode(), encode(NOBODY, seed=5), 0.5)
    with pytest.raises(ConesError, match="Average"):
        sampled(applied, mixed, encode(NOBODY, seed=1))
    (inert,) = nodes.ConditioningAverage().addWeighted(encode(NOBODY), encode(NOBODY, seed=5), 0.5)
    assert torch.equal(sampled(applied, inert, inert), sampled(model, inert, inert))  # no own tokens, no complaint
    (zero,) = nodes.ConditioningZeroOut().zero_out(encode())
    assert torch.equal(sampled(applied, zero, zero), sampled(model, zero, zero))
    doubled = [[2.0 * encode()[0][0], encode()[0][1]]]
    assert not torch.equal(sampled(applied, doubled, zero), sampled(model, doubled, zero))


@pytest.mark.parametrize("share", [0.01, 0.2])
def test_a_text_with_noise_keeps_its_tokens_and_warns_once(model, masks, share, caplog):
    """As nodes that vary the seed do it: the same length, a little noise on every number."""
    ((text, extra),) = encode()
    noise = torch.randn(text.shape, generator=torch.Generator().manual_seed(9))
    noisy, negative = [[text + share * noise, extra]], encode(NOBODY, seed=1)
    clone, before = recording(model)
    sampled(clone, noisy, negative, cfg=1.0, steps=2)
    clone, after = recording(apply_masks(model, masks))
    sampled(clone, noisy, negative, cfg=1.0, steps=2)
    name = masks[0][0].names[0]
    changed = (before[name][1] != after[name][1]).any(-1).nonzero().tolist()
    assert changed == [[row, position] for row in range(2) for position in POSITIVE[SKS]]
    (warning,) = warnings_in(caplog)
    assert "has changed the text of a conditioning a little" in warning
