"""How one index (sorted unique positions in a weight) is written: gaps, Rice-coded, near log2 C(size, count) bits.

A gap is the number of entries between two neurons. Its low w bits are stored as they are and the rest in unary; every
block of 2**s neurons has its own w, the cheapest. Bytes, the lowest bit first: s (5 bits), 0, bytes of the count - 1
(2 bits); the count; then one stream of bits: the widths w, bit 0 of each, bit 1 of each, ... (5 bits); the low parts of
the gaps in the same order, where bit j is only there for those with w > j; the rest of each gap as so many 0s and a 1;
0s up to a whole byte. Planes instead of codes one after the other let numpy read all neurons at once.

Source: S. W. Golomb, "Run-length encodings", IEEE Trans. Inf. Theory 12 (1966); R. F. Rice, "Some practical universal
noiseless coding techniques", JPL Publication 79-22 (1979), whose widths per block these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import lgamma, log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ConesError, listed

Array = NDArray[Any]
LARGEST = 2**31 - 1
_WHOLE = 31  # s of one block over all neurons, the best when they lie evenly; smaller blocks pay when they cluster
_BLOCKS = (_WHOLE, 6, 5)
_WIDTH_BITS = 5
_PIECE = 1 << 20  # bits read at a time
_DAMAGED = "the file may be damaged; fetch or save it again"


def encode_index(index: Tensor, size: int) -> Tensor:
    """The bytes (uint8, [length]) of an index: sorted unique int64 positions in a weight of `size` entries."""
    if size > LARGEST:
        raise ConesError(f"a weight with {size} entries does not fit this file format (at most {LARGEST})")
    gaps = np.diff(index.numpy(), prepend=-1) - 1
    count = len(gaps)
    shift, widths = min((_cheapest(gaps, s) for s in _BLOCKS), key=lambda coding: coding[0])[1:]
    wide = _spread(widths, shift, count)
    rest = gaps >> wide
    unary = np.zeros(count + int(rest.sum()), np.uint8)
    unary[np.cumsum(rest + 1) - 1] = 1
    stream = [(widths >> j) & 1 for j in range(_WIDTH_BITS)]
    stream += [(gaps[_with_bit(j, widths, shift, count)] >> j) & 1 for j in range(int(widths.max(initial=0)))]
    bits = np.concatenate([part.astype(np.uint8) for part in [*stream, unary]])
    length = max(1, -(-count.bit_length() // 8))
    head = bytes([shift | (length - 1) << 6]) + count.to_bytes(length, "little")
    return torch.from_numpy(np.concatenate([np.frombuffer(head, np.uint8), np.packbits(bits, bitorder="little")]))


def decode_index(coded: Tensor, size: int) -> Tensor:
    """The inverse of `encode_index`, int64 [count]; ConesError when the bytes are not of this coding and this `size`.

    What it allocates is bounded by the length of `coded`, whatever the bytes say.
    """
    raw, shift, count = _opened(coded, size)
    bits = np.unpackbits(raw, bitorder="little")
    blocks = (count + (1 << shift) - 1) >> shift
    widths = _numbers(bits[: _WIDTH_BITS * blocks].reshape(_WIDTH_BITS, blocks), np.int64)
    low, used = _low_parts(bits, _WIDTH_BITS * blocks, widths, shift, count)
    steps = _unary(bits[used:], count) << _spread(widths, shift, count)
    steps += low
    steps += 1
    if count and int(steps.max()) <= size:  # else the sum below might overflow
        np.cumsum(steps, out=steps)
    if count and int(steps.max()) > size:
        raise ConesError(_past(size))
    steps -= 1
    return torch.from_numpy(steps)


def checked_count(coded: Tensor, size: int) -> int:
    """How many neurons `decode_index` would give; ConesError where it would raise one.

    Reads the bits piece by piece: memory is a small multiple of the bytes, however many neurons they hold.
    """
    raw, shift, count = _opened(coded, size)
    end = 8 * len(raw)
    blocks = (count + (1 << shift) - 1) >> shift
    start, total = _WIDTH_BITS * blocks, count
    widths = np.zeros(blocks, np.uint8)
    for j in range(_WIDTH_BITS):
        widths |= _bits(raw, j * blocks, (j + 1) * blocks) << j
    for j in range(int(widths.max(initial=0))):
        wider = widths > j
        number = (int(np.count_nonzero(wider[:-1])) << shift) + wider[-1] * (count - ((blocks - 1) << shift))
        if start + number > end:
            raise ConesError(f"the bits end before the last of {count} neurons; {_DAMAGED}")
        for first in range(start, start + number, _PIECE):
            total += int(np.count_nonzero(_bits(raw, first, min(first + _PIECE, start + number)))) << j
        start += number
    seen, last = 0, -1
    for first in range(start, end, _PIECE):
        ones = np.flatnonzero(_bits(raw, first, min(first + _PIECE, end))) + (first - start)
        if seen + len(ones) > count:
            break
        rest = np.diff(ones, prepend=last) - 1
        rest <<= widths[np.arange(seen, seen + len(ones)) >> shift]
        total += int(rest.sum()) if int(rest.max(initial=0)) <= size else size
        seen, last = seen + len(ones), int(ones[-1]) if len(ones) else last
    else:
        if seen == count and end - start - last - 1 < 8:
            if total > size and count:
                raise ConesError(_past(size))
            return count
    raise ConesError(f"the bytes do not end with the last of {count} neurons; {_DAMAGED}")


class CodedIndices(Mapping[str, Tensor]):
    """name -> index, kept coded, about a seventh of its size, and decoded anew whenever it is asked for.

    coded: name -> bytes; sizes: name -> entries of the weight. All are read once to see that they are whole: ConesError
    names those that are not.
    """

    def __init__(self, coded: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
        self.coded = {name: coded[name].clone() for name in sorted(coded)}  # not as parts of a file mapped into memory
        self.sizes = {name: sizes[name] for name in self.coded}
        self.counts: dict[str, int] = {}
        wrong = {}
        for name in self.coded:
            try:
                self.counts[name] = checked_count(self.coded[name], self.sizes[name])
            except ConesError as error:
                wrong[name] = str(error)
        if wrong:
            raise ConesError(f"wrong index in {listed(wrong)}. First: {wrong[min(wrong)]}")

    def only(self, names: Iterable[str]) -> CodedIndices:
        """Those of `names`."""
        return CodedIndices({name: self.coded[name] for name in names}, self.sizes)

    def __getitem__(self, name: str) -> Tensor:
        return decode_index(self.coded[name], self.sizes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.coded)

    def __len__(self) -> int:
        return len(self.coded)


def entropy_bytes(size: int, count: int) -> float:
    """log2 C(size, count) / 8: no coding of `count` evenly spread positions in `size` entries takes less on average."""
    return (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2) / 8


def _cheapest(gaps: Array, shift: int) -> tuple[int, int, Array]:
    """Bits that the gaps cost in blocks of 2**shift, the shift, and each block's width; the lesser width when even."""
    starts = np.arange(0, len(gaps), 1 << shift)
    lengths = np.diff(starts, append=len(gaps))
    best, widths = np.full(len(starts), np.iinfo(np.int64).max), np.zeros(len(starts), np.int64)
    rest, width = gaps, 0
    while len(starts):
        cost = lengths * (1 + width) + np.add.reduceat(rest, starts)
        better = cost < best
        if not better.any():  # the cost is convex in the width: it falls and then rises
            break
        best[better], widths[better] = cost[better], width
        rest, width = rest >> 1, width + 1
    return int(best.sum()) + _WIDTH_BITS * len(starts), shift, widths


def _spread(widths: Array, shift: int, count: int) -> Array:
    """The width of every neuron, [count], or [1] when all are alike."""
    return widths if len(widths) == 1 else np.repeat(widths, 1 << shift)[:count]


def _with_bit(j: int, widths: Array, shift: int, count: int) -> slice | Array:
    """Which gaps have a low bit j; a slice, which costs nothing, when all have."""
    return slice(None) if j < int(widths.min(initial=_WHOLE)) else np.repeat(widths > j, 1 << shift)[:count]


def _opened(coded: Tensor, size: int) -> tuple[Array, int, int]:
    """The bytes of the stream of bits, s, and the count, which they can hold."""
    if coded.dtype != torch.uint8 or coded.ndim != 1:
        raise ConesError(f"index of type {coded.dtype} {tuple(coded.shape)}, expected bytes in a row; {_DAMAGED}")
    raw = coded.numpy()
    shift, count, start = _head(raw, size)
    bits = 8 * (len(raw) - start)
    if count > bits or _WIDTH_BITS * ((count + (1 << shift) - 1) >> shift) > bits:
        raise ConesError(f"{bits} bits cannot hold {count} neurons; {_DAMAGED}")
    return raw[start:], shift, count


def _bits(raw: Array, start: int, end: int) -> Array:
    """Bits `start` to `end`, a byte each."""
    return np.unpackbits(raw[start >> 3 : -(-end // 8)], bitorder="little")[start & 7 : (start & 7) + end - start]


def _past(size: int) -> str:
    return f"the index goes past the {size} entries of the weight; was this mask made for another model?"


def _head(raw: Array, size: int) -> tuple[int, int, int]:
    """s, the count, and where the stream of bits begins."""
    length = 1 + (int(raw[0]) >> 6) if len(raw) else 0
    if not 1 <= length < len(raw) or raw[0] & 32:
        raise ConesError(f"{len(raw)} bytes that are no index; {_DAMAGED}")
    count = int.from_bytes(raw[1 : 1 + length].tobytes(), "little")
    if count > size:
        raise ConesError(f"{count} neurons but the weight has {size} entries; was this mask made for another model?")
    if len(raw) > 8 + size // 8:  # a width of 0 in one block never takes more
        raise ConesError(f"{len(raw)} bytes for a weight with {size} entries, which is too many; {_DAMAGED}")
    return int(raw[0]) & 31, count, 1 + length


def _low_parts(bits: Array, start: int, widths: Array, shift: int, count: int) -> tuple[Array, int]:
    """The low bits of every gap, [count], and where they end in `bits`."""
    most = int(widths.max(initial=0))
    kind = np.uint8 if most <= 8 else np.uint16 if most <= 16 else np.uint32
    if len(widths) == 1 and start + most * count <= len(bits):  # all alike, as most are: all planes at once
        end = start + most * count
        return _numbers(bits[start:end].reshape(most, count), kind), end
    low = np.zeros(count, kind)
    for j in range(most):
        chosen = _with_bit(j, widths, shift, count)
        number = count if isinstance(chosen, slice) else int(np.count_nonzero(chosen))
        plane = bits[start : start + number]
        if len(plane) < number:
            raise ConesError(f"the bytes end before the last of {count} neurons; {_DAMAGED}")
        low[chosen] |= plane.astype(kind) << kind(j)
        start += number
    return low, start


def _numbers(planes: Array, kind: type[np.integer[Any]]) -> Array:
    """[n] from their bits [w, n], the lowest first."""
    numbers = np.zeros(planes.shape[1], kind)
    for plane in planes[::-1]:
        numbers += numbers  # sums of small numbers are faster than shifts
        numbers |= plane
    return numbers


def _unary(bits: Array, count: int) -> Array:
    """The numbers of 0s before each of `count` 1s, which must fill `bits` but for less than a byte."""
    ones = np.flatnonzero(bits.view(np.bool_))  # several times faster than of numbers
    if len(ones) != count or len(bits) - (int(ones[-1]) + 1 if count else 0) >= 8:
        raise ConesError(f"the bytes do not end with the last of {count} neurons; {_DAMAGED}")
    rest: Array = ones.copy()
    rest[1:] -= ones[:-1] + 1
    return rest
