"""The coding of an index: round trips, bytes against the entropy bound, and damaged bytes refused."""

from __future__ import annotations

import random
import tracemalloc
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cones_ops import ConceptMask, ConesError, load_mask, save_mask
from cones_ops.masks.concept_mask import same_neurons
from cones_ops.masks.rice_coding import decode_index, encode_index, entropy_bytes

SIZE = 320 * 768
seeds = st.integers(0, 2**32 - 1)
# the text K and V of Stable Diffusion 1.5: the width of each block's output, 768 wide texts
WIDTHS = {
    320: ("input_blocks.1", "input_blocks.2", "output_blocks.9", "output_blocks.10", "output_blocks.11"),
    640: ("input_blocks.4", "input_blocks.5", "output_blocks.6", "output_blocks.7", "output_blocks.8"),
    1280: ("input_blocks.7", "input_blocks.8", "middle_block", *(f"output_blocks.{n}" for n in (3, 4, 5))),
}
SD15_KV = {
    f"{block}.1.transformer_blocks.0.attn2.to_{kind}.weight": (width, 768)
    for width, blocks in WIDTHS.items()
    for block in blocks
    for kind in "kv"
}


def where(chosen: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(chosen))


def evenly(density: float, seed: int, size: int = SIZE) -> torch.Tensor:
    return where(np.random.default_rng(seed).random(size) < density)


def clustered(density: float, inside: float, by_row: bool, seed: int) -> torch.Tensor:
    """Neurons in some rows or columns of a [320, 768] weight only, where the share `inside` is chosen."""
    rng = np.random.default_rng(seed)
    lines = rng.random((320, 1) if by_row else (1, 768)) < density / inside
    return where(lines & (rng.random((320, 768)) < inside))


def same(index: torch.Tensor, size: int) -> int:
    """The number of bytes of an index, after the round trip."""
    coded = encode_index(index, size)
    assert torch.equal(decode_index(coded, size), index) and torch.equal(encode_index(index, size), coded)
    return coded.numel()


def stream(*bits: str) -> list[int]:
    """Bytes of bits written in the order they are read."""
    return np.packbits([int(bit) for bit in "".join(bits)], bitorder="little").tolist()


def coded(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def test_by_hand() -> None:
    # gaps 3, 0, 9: width 0 costs 3 * 1 + 12 = 15 bits, width 1 costs 3 * 2 + 5 = 11, width 2 costs 3 * 3 + 2 = 11
    expected = stream("10000", "101", "01", "1", "00001")  # width 1; low bits 1, 0, 1; 3 // 2, 0 // 2, 9 // 2 in unary
    assert encode_index(torch.tensor([3, 4, 14]), 15).tolist() == [31, 3, *expected]
    assert decode_index(coded(31, 3, *expected), 15).tolist() == [3, 4, 14]
    other = stream("01000", "101", "100", "1", "1", "001")  # width 2: another coding of the same index
    assert decode_index(coded(31, 3, *other), 15).tolist() == [3, 4, 14]
    # blocks of one: widths 1, 0, 3
    blocks = stream("101", "001", "000", "000", "000", "11", "0", "0", "01", "1", "01")
    assert decode_index(coded(0, 3, *blocks), 15).tolist() == [3, 4, 14]


def test_ends_of_the_range() -> None:
    top = 2**31 - 1
    assert encode_index(torch.tensor([], dtype=torch.int64), 4).tolist() == [31, 0] and same(torch.arange(0), 0) == 2
    assert same(torch.tensor([top - 1]), top) <= 7
    assert same(torch.tensor([0, top - 1]), top) <= 11
    with pytest.raises(ConesError, match="does not fit this file format"):
        encode_index(torch.tensor([0]), top + 1)


@given(st.sets(st.integers(0, 2**31 - 2)))
def test_any_index(positions: set[int]) -> None:
    same(torch.tensor(sorted(positions), dtype=torch.int64), 2**31 - 1)


@given(st.lists(st.booleans()), st.integers(0, 5))
def test_any_small_weight(chosen: list[bool], more: int) -> None:
    same(where(np.array(chosen, dtype=bool)), len(chosen) + more)


@given(st.floats(0.001, 0.6), seeds)
def test_near_the_bound_when_spread_evenly(density: float, seed: int) -> None:
    index = evenly(density, seed)
    limit = 1.05 if index.numel() >= 1000 else 1.1
    assert same(index, SIZE) <= limit * entropy_bytes(SIZE, index.numel())


@given(st.floats(0.001, 0.2), st.floats(0.2, 1.0), st.booleans(), seeds)
def test_near_the_bound_when_clustered(density: float, inside: float, by_row: bool, seed: int) -> None:
    index = clustered(density, inside, by_row, seed)
    limit = 1.05 if index.numel() >= 1000 else 1.1
    assert same(index, SIZE) <= limit * entropy_bytes(SIZE, index.numel()) + 2


@pytest.mark.parametrize(("density", "bytes_at_most"), [(0.01, 210_000), (0.05, 740_000)])
def test_size_of_a_stable_diffusion_mask(tmp_path: Path, density: float, bytes_at_most: int) -> None:
    mask = ConceptMask(
        {name: evenly(density, k, prod(shape)) for k, (name, shape) in enumerate(SD15_KV.items())},
        SD15_KV,
        *("sks", "star", "own tokens", "0" * 64),
        {"method": "learned", "seed": "7"},
    )
    path = save_mask(mask, tmp_path / "m.safetensors")
    assert path.stat().st_size <= bytes_at_most
    assert sum(t.numel() for t in load_file(path).values()) <= 1.05 * entropy_bytes(mask.size, mask.count)
    assert same_neurons(load_mask(path), mask)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_take_fewer_bytes(seed: int) -> None:
    index = clustered(0.1, 0.5, by_row=True, seed=seed)
    assert same(index, SIZE) < 0.8 * entropy_bytes(SIZE, index.numel())


@pytest.mark.parametrize("density", [0.6, 0.8, 0.95, 1.0])
def test_never_more_than_a_bitmap(density: float) -> None:
    assert same(evenly(density, 0), SIZE) <= SIZE / 8 + 5


@given(st.integers(1, 40))
def test_few_neurons_take_few_bytes(count: int) -> None:
    index = torch.from_numpy(np.sort(np.random.default_rng(count).choice(SIZE, count, replace=False)))
    assert same(index, SIZE) <= 1.1 * entropy_bytes(SIZE, count) + 4


@pytest.mark.parametrize(
    ("values", "size", "message"),
    [
        ([], 4, "0 bytes that are no index"),
        ([31], 4, "1 bytes that are no index"),
        ([31 | 3 << 6, 0, 0, 0], 4, "4 bytes that are no index"),
        ([31 | 32, 0], 4, "2 bytes that are no index"),
        ([31, 5, 0, 0], 4, "5 neurons but the weight has 4 entries"),
        ([31 | 3 << 6, 255, 255, 255, 127, 0], 2**31 - 1, "8 bits cannot hold 2147483647 neurons"),
        ([0, 9, 0, 0], 9, "16 bits cannot hold 9 neurons"),
        ([31, 2, 0b10000001], 4, "do not end with the last of 2"),
        ([31, 7, 0b10011111], 2**31 - 1, "the bytes end before the last of 7"),
        ([31, 2, 0b10000001, 0b10, 0], 4, "do not end with the last of 2"),
        ([31, 2, 0b10000001, 0b10000010], 4, "do not end with the last of 2"),
        ([31, 2, 0b10000001, 0b10, 0, 0, 0, 0, 0], 4, "9 bytes for a weight with 4 entries, which is too many"),
        ([31, 2, 0b10000001, 0b100], 4, "goes past the 4 entries"),
        ([31, 1, 0b11111, 0, 0, 0, 0b100000], 4, "goes past the 4 entries"),
    ],
)
def test_damage_is_named(values: list[int], size: int, message: str) -> None:
    with pytest.raises(ConesError, match=message):
        decode_index(coded(*values), size)


def test_other_tensors_are_refused() -> None:
    for tensor in (torch.tensor([1, 2]), torch.ones(2), torch.ones(2, 2, dtype=torch.uint8)):
        with pytest.raises(ConesError, match="expected bytes in a row"):
            decode_index(tensor, 9)


def damaged(seed: int, size: int) -> bytes:
    """The coding of a random index with a few bytes changed, cut off or appended."""
    chosen = random.Random(seed)
    index = evenly(chosen.choice([0.003, 0.05, 0.3, 0.9]), seed, size)
    index = index[(index % 1000 < 300) | (index % 97 == 0)] if seed % 2 else index
    raw = bytearray(encode_index(index, size).numpy().tobytes())
    for _ in range(chosen.choice([1, 1, 3])):
        raw[chosen.randrange(len(raw))] ^= chosen.randrange(1, 256)
    length = chosen.choice([len(raw), len(raw), chosen.randrange(len(raw) + 1)])
    return bytes(raw[:length]) + bytes(chosen.choice([0, 0, 1, 9]))


def test_damaged_bytes_are_refused_or_an_index() -> None:
    refused = sum(is_refused(damaged(seed, 3000), 3000) for seed in range(100))
    assert 50 < refused < 100  # a changed position inside the weight goes unnoticed here: files have a checksum


@given(st.binary(max_size=40), st.sampled_from([0, 1, 7, 300, 2**31 - 1]))
def test_any_bytes_are_refused_or_an_index(raw: bytes, size: int) -> None:
    assert is_refused(raw, size) or raw


def is_refused(raw: bytes, size: int) -> bool:
    """Whether decode_index refuses bytes; else they are an index. Either way within memory that their number bounds."""
    tracemalloc.start()
    try:
        index = decode_index(torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else coded(), size)
    except ConesError:
        return True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100_000 + 1000 * len(raw)
    assert bool((index[1:] > index[:-1]).all())
    assert not index.numel() or 0 <= int(index[0]) <= int(index[-1]) < size
    return False
