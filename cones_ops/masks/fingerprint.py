"""The fingerprint of the searched base weights: tells whether a mask is put on the model it was found on.

sha256 over the sorted names, shapes and an evenly strided sample of each weight in fp16, so that an fp16 and an fp32
load of one checkpoint, in any host, agree. Other storage formats (bf16, fp8, quantised) round further, so beside it
there is a sketch: a few of these entries themselves, which tell whether two bases differ by more than rounding.
Everything here reads the weights and touches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SAMPLE = 4096  # entries per weight: enough to tell fine-tunes apart, cheap on billions of weights

SKETCHED = 1024  # entries in a sketch, or one for each weight
TOLERANCE = {11: 0.001, 8: 0.004, 4: 0.15}  # significant bits of a base's entries -> relative RMS of their rounding
QUANTISED = 4  # no more bits than fp8 has, whatever the entries look like


class Base(NamedTuple):
    """What identifies base weights; either may be empty, where it is unknown."""

    fingerprint: str
    sketch: str


def base_of(weights: Mapping[str, Tensor], quantised: bool = False) -> Base:
    """Fingerprint and sketch of `weights`. quantised: they are stored in fewer bits than they seem to have."""
    return Base(fingerprint(weights), sketch(weights, quantised))


def sketch(weights: Mapping[str, Tensor], quantised: bool = False) -> str:
    """Evenly strided entries of each weight in fp16, and the significant bits that they need, as text of about 3 kB."""
    share = max(1, SKETCHED // max(1, len(weights)))
    entries = torch.cat([_strided(weights[name], share).float() for name in sorted(weights)] or [torch.zeros(0)])
    bits = QUANTISED if quantised else _significant_bits(entries)
    return f"{bits}:" + base64.b64encode(entries.half().numpy().astype("<f2").tobytes()).decode()


def stored_otherwise(first: str, second: str) -> bool:
    """Whether two sketches are of one base in two storage formats: apart by no more than the coarser one rounds."""
    (bits, entries), (other_bits, others) = _parsed(first), _parsed(second)
    scale = max(float(np.linalg.norm(entries)), float(np.linalg.norm(others)))
    if not scale or len(entries) != len(others) or not np.isfinite(scale):
        return False
    return float(np.linalg.norm(entries - others)) / scale <= TOLERANCE[min(bits, other_bits)]


def _parsed(sketch: str) -> tuple[int, np.ndarray]:
    """Significant bits and entries of a sketch; none for one that cannot be read."""
    bits, _, text = sketch.partition(":")
    try:
        raw = base64.b64decode(text, validate=True)
        return min(TOLERANCE, key=lambda known: abs(known - int(bits))), np.frombuffer(raw, "<f2").astype(np.float64)
    except ValueError:
        return max(TOLERANCE), np.zeros(0)


def _strided(weight: Tensor, count: int) -> Tensor:
    """At most `count` entries, evenly apart, in fp16 on the CPU."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, -(-flat.numel() // count))].to(device="cpu", dtype=torch.float16)


def _significant_bits(entries: Tensor) -> int:
    """Of the coarsest format that holds all these entries exactly: 4 (fp8), 8 (bf16) or 11 (fp16)."""
    for bits, formats in ((4, (torch.float8_e4m3fn, torch.float8_e5m2)), (8, (torch.bfloat16,))):
        if any(torch.equal(entries.to(kind).float(), entries) for kind in formats):
            return bits
    return 11


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """64 hex digits identifying `weights` (canonical name -> weight)."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        sample = _strided(weights[name], SAMPLE)
        digest.update(f"{name} {tuple(weights[name].shape)}\n".encode())
        digest.update(sample.numpy().astype("<f2").tobytes())
    return digest.hexdigest()
