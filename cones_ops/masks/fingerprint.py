"""The fingerprint of the searched base weights: tells whether a mask is put on the model it was found on.

sha256 over the sorted names, shapes and an evenly strided sample of each weight in fp16, so that an fp16 and an fp32
load of one checkpoint, in any host, agree. It reads the weights and touches nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

SAMPLE = 4096  # entries per weight: enough to tell fine-tunes apart, cheap on billions of weights


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """64 hex digits identifying `weights` (canonical name -> weight)."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        flat = weights[name].detach().reshape(-1)
        sample = flat[:: max(1, -(-flat.numel() // SAMPLE))].to(device="cpu", dtype=torch.float16)
        digest.update(f"{name} {tuple(weights[name].shape)}\n".encode())
        digest.update(sample.numpy().astype("<f2").tobytes())
    return digest.hexdigest()
