"""Which entries masks scale: both ways to say it, in every type, contiguous or not; nothing else changes a bit."""

from __future__ import annotations

from math import prod

import pytest
import torch
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask
from cones_concept_neurons.nodes.host.apply.sparse_entries import (
    BITS,
    DENSE,
    MaskEntries,
    compact,
    merged,
    put,
    scale_entries,
    taken,
)

SHAPE = (24, 50)
TYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def positions(density):
    return (torch.rand(prod(SHAPE), generator=torch.Generator().manual_seed(0)) < density).nonzero().flatten()


def weight_of(dtype, contiguous=True):
    """Random bits, so infinities and NaN too."""
    kind = getattr(torch, dtype)
    bits = torch.randint(-(2**62), 2**62, (SHAPE[0], 2 * SHAPE[1]), generator=torch.Generator().manual_seed(1))
    weight = bits.to(BITS[kind.itemsize]).view(kind)
    weight[0, :3] = torch.tensor([float("nan"), -0.0, 1.0]).to(kind)
    part = weight[:, : SHAPE[1]]
    return part.contiguous() if contiguous else part


def bits_of(weight):
    return weight.contiguous().view(BITS[weight.element_size()]).flatten().clone()


@pytest.mark.parametrize("density", [0.01, 0.5])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_shut_entries_are_plus_zero_and_all_others_keep_their_bits(dtype, contiguous, density):
    weight, index = weight_of(dtype, contiguous), positions(density)
    before = bits_of(weight)
    where, factor = compact([(index, 0.0)], weight.numel())
    assert factor is None and where.dtype == (torch.uint8 if density * DENSE > 1 else torch.int32)
    kept = taken(weight, where)
    assert scale_entries(weight, where, factor) is weight
    after = bits_of(weight)
    assert (after[index] == 0).all()
    rest = torch.ones(len(before), dtype=torch.bool).index_fill_(0, index, False)
    assert torch.equal(after[rest], before[rest])
    put(weight, where, kept)
    assert torch.equal(bits_of(weight), before)


@pytest.mark.parametrize("density", [0.01, 0.5])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
def test_scaled_entries_are_rounded_from_fp32(dtype, contiguous, density):
    weight, index = weight_of(dtype, contiguous).nan_to_num(1.0) if dtype in TYPES[:4] else None, positions(density)
    if weight is None:
        weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)).to(getattr(torch, dtype))
        weight = weight if contiguous else weight.repeat(1, 2)[:, : SHAPE[1]]
    before, expected = bits_of(weight), (weight.float().flatten() * 0.25).to(weight.dtype)
    scale_entries(weight, *compact([(index, 0.25)], weight.numel()))
    assert torch.equal(bits_of(weight)[index], bits_of(expected)[index])
    rest = torch.ones(len(before), dtype=torch.bool).index_fill_(0, index, False)
    assert torch.equal(bits_of(weight)[rest], before[rest])


def test_views_of_fused_weights_are_scaled_in_place():
    whole = torch.ones(4, 6)
    view = whole.narrow(1, 2, 3)  # not contiguous
    scale_entries(view, torch.tensor([0, 4], dtype=torch.int32), torch.tensor([0.0, 0.5]))
    assert view.tolist() == [[0, 1, 1], [1, 0.5, 1], [1, 1, 1], [1, 1, 1]]
    assert float(whole.sum()) == 24 - 1.5


def test_a_share_of_a_part_begins_behind_the_rows_before_it():
    name = "layer.qkv.weight[2:4]"
    mask = ConceptMask({name: torch.tensor([0, 3])}, {name: (2, 5)})
    index, factor = MaskEntries(mask, name, 10, 0.5).scaled_index()
    assert index.tolist() == [10, 13] and factor == 0.5


@pytest.mark.parametrize("values", [(0.0, 0.0, 0.0), (0.5, 0.0, -1.0), (0.3, 0.7, 0.9), (0.5, 0.5, 0.5), (0.25,)])
@pytest.mark.parametrize("size", [300, 300_000])  # by a look at every entry, and by sorting
def test_parts_together_are_their_product_in_any_order(values, size):
    generator = torch.Generator().manual_seed(0)
    indices = [torch.randperm(300, generator=generator)[:100].sort().values * (size // 300) for _ in values]
    dense = torch.ones(size, dtype=torch.float64)
    for value, index in sorted(zip(values, indices, strict=True), key=lambda part: part[0]):
        dense[index] *= value
    parts = list(zip(indices, values, strict=True))
    for some in (parts, parts[::-1]):
        index, factor = merged(some)
        assert sorted(set(index.tolist())) == sorted(set(torch.cat(indices).tolist()))
        assert torch.equal(factor.expand(index.shape), dense[index].float())
        assert not factor.any() or len(set(index.tolist())) == len(index)
        assert torch.equal(scale_entries(torch.ones(size), *compact(some, size)), dense.float())
