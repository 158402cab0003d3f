"""What a search has done so far, kept in a file, so that a search that was stopped resumes and ends bit for bit alike.

The noise of a step depends on the seed and the step alone, so the state is the steps done, some tensors and some
numbers, which JSON keeps to the last bit. A state's name is a digest of everything that the result depends on, so it is
only ever taken up by the same search. A state that cannot be written or read costs nothing but the chance to resume.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ConesError
from ..masks.whole_files import write_whole
from .host_model import HostModel, Key

log = logging.getLogger("cones")

VERSION = 1  # of the states; others are left alone
SECONDS = 30.0
SHARE = 20  # writing takes at most one part in so many of the time
SUFFIX = ".cones-state"
Tensors = Mapping[str, Mapping[Key, Tensor]]


@dataclass(frozen=True)
class Resume:
    """Where searches keep their states; made by `resuming`."""

    folder: Path
    inputs: Any = None
    seconds: float = SECONDS
    files: set[Path] = field(default_factory=set)


@contextmanager
def resuming(folder: str | Path, inputs: Any = None, seconds: float = SECONDS) -> Iterator[Resume]:
    """Inside, searches that are given the result resume where they were stopped; afterwards their states are removed.

        with resuming("states", inputs=digest(unet_weights)) as resume:
            result = find_concept_neurons(model, subject, identifier="sks", class_word="dog", resume=resume)
            save_mask(result.mask, "sks-dog.safetensors")

    The states stay if the block ends with an exception (also a cancel, Ctrl-C, or a crash): save the result inside.
    folder: made when the first state is written. inputs: what the result depends on and the library cannot see,
    anything that `digest` takes: where conditionings are mere labels, the texts behind them; the model's other weights
    and its patches. The library itself adds settings, latents, conditionings, density, prior, masks, targets, the
    model's fingerprint and the device. seconds: between two writes, more where writing is slow; 0 writes after each
    step, and a step that is cancelled by `on_step` is always written.
    """
    resume = Resume(Path(folder), inputs, seconds)
    yield resume
    for file in resume.files:
        with suppress(OSError):
            file.unlink(missing_ok=True)
    with suppress(OSError):  # it may hold other files
        resume.folder.rmdir()


def digest(*values: Any) -> str:
    """32 hex digits of the contents of tensors, arrays, strings, numbers, mappings, sequences and dataclasses of them.

    ConesError for anything else, because nobody could say whether it changed.
    """
    sha = hashlib.sha256()
    for value in values:
        _update(sha, value)
    return sha.hexdigest()[:32]


@dataclass(frozen=True)
class State:
    """One search's file. `phase` is "search" or "choose"; `step` of it are done."""

    path: Path
    seconds: float

    def read(self) -> dict[str, Any] | None:
        """phase, step, numbers and history of the kept state, or None."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["state"])
            kinds = {"phase": str, "step": int, "numbers": dict, "history": list}
            if all(isinstance(facts[name], kind) for name, kind in kinds.items()):
                return facts
            error: Exception = ValueError("its facts are of other kinds")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as refused:
            error = refused
        log.warning("%s: not a readable state of a search (%s), so it begins anew", self.path, error)
        return None

    def fill(self, tensors: Tensors) -> bool:
        """Copy the kept tensors into these; False, with nothing changed, unless all are there in their shapes."""
        by_name = dict(_named(tensors))
        with safe_open(self.path, "pt") as file:
            kept = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            if kept != {name: tuple(tensor.shape) for name, tensor in by_name.items()}:
                return False
            for name, tensor in by_name.items():
                tensor.copy_(file.get_tensor(name))
        return True

    def write(self, facts: Mapping[str, Any], tensors: Tensors) -> float:
        """Replace the kept state; the seconds until the next time. fp32 tensors, one at a time in memory."""
        began = time.monotonic()
        by_name = sorted(_named(tensors))
        try:
            write_whole(self.path, lambda file: _write(file, json.dumps(facts), by_name))
        except ConesError as error:
            log.warning("the search cannot be resumed if it stops now: %s", error)
        return max(self.seconds, SHARE * (time.monotonic() - began)) if self.seconds else 0.0


def state_of(resume: Resume, *inputs: Any) -> State:
    """The state of the search with these inputs."""
    path = resume.folder / f"{digest(VERSION, torch.__version__, resume.inputs, *inputs)}{SUFFIX}"
    resume.files.add(path)
    return State(path, resume.seconds)


def model_inputs(model: HostModel) -> tuple[Any, ...]:
    """What a result depends on in the model, as far as the library can see it."""
    shapes = {key: tuple(weight.shape) for key, weight in model.weights.items()}
    devices = sorted({weight.device.type for weight in model.weights.values()})
    return model.where, model.fingerprint(), shapes, devices


def _named(tensors: Tensors) -> Iterator[tuple[str, Tensor]]:
    for part, by_key in tensors.items():
        for (concept, name), tensor in by_key.items():
            yield f"{part}/{concept}/{name}", tensor


def _write(file: BinaryIO, state: str, tensors: Sequence[tuple[str, Tensor]]) -> None:
    """A .safetensors file of fp32 tensors."""
    header: dict[str, Any] = {"__metadata__": {"state": state}}
    end = 0
    for name, tensor in tensors:
        begin, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in tensors:
        file.write(np.ascontiguousarray(tensor.detach().cpu().float().numpy().astype("<f4", copy=False)).data)


def _update(sha: Any, value: Any) -> None:
    """Add a value to a hash, its type first, so that no two values are alike by accident."""
    sha.update(f"{type(value).__name__}:".encode())
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        sha.update(f"{value.dtype}{tuple(value.shape)}".encode() + flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        sha.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif value is None or isinstance(value, (str, bytes, bool, int, float, Path)):
        text = repr(value).encode()
        sha.update(f"{len(text)}:".encode() + text)
    elif is_dataclass(value) and not isinstance(value, type):
        _update(sha, {entry.name: getattr(value, entry.name) for entry in fields(value)})
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _update(sha, key)
            _update(sha, value[key])
    elif isinstance(value, (Sequence, set, frozenset)):
        sha.update(f"{len(value)}:".encode())
        for entry in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _update(sha, entry)
    else:
        raise ConesError(
            f"a search that depends on a {type(value).__name__} cannot be resumed, because nobody can say whether that "
            "has changed; leave `resume` out, or give a digest of it as `inputs`"
        )
