"""Where a search keeps what it has done, so that one that was cancelled or killed resumes when it is queued again.

The states lie in the host's user folder, because the host empties its temp folder when it starts. A state's name is a
digest of everything that the result depends on; where something on the model cannot be told apart, nothing is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch import Tensor

from ....cones_ops.errors import ConesError
from ....cones_ops.search.resume import SUFFIX, Resume, digest, resuming, state_of
from ..text.token_positions import TokenPositions

log = logging.getLogger("cones")

SAMPLE = 256  # entries of each weight that tell checkpoints apart
SECONDS = 30.0  # between two writes; a search that is killed loses no more
DAYS = 7  # states that nobody resumed are removed


@contextmanager
def kept_state(model: Any, *inputs: Any) -> Iterator[Resume | None]:
    """Inside, a search that is given the result resumes; None where it cannot. Afterwards its state is removed."""
    folder = Path(folder_paths.get_user_directory()) / "cones-searches"
    remove_old(folder)
    try:
        facts = digest(plain(inputs), model_digest(model))
    except Exception as error:  # a search runs, whatever a loader or node has put on the MODEL
        log.info("this search cannot be resumed if it is stopped: %s", error)
        yield None
        return
    with resuming(folder, facts, SECONDS) as resume:
        yield resume


def kept_tensor(resume: Resume | None, make: Callable[[], Tensor], like: Tensor, *inputs: Any) -> Tensor:
    """What `make` returns, of the shape and type of `like`; what an earlier attempt kept, if it is there.

    inputs: all that it depends on besides what `resume` is for. None, or inputs that nobody can tell apart: not kept.
    """
    try:
        state = None if resume is None else state_of(resume, plain(inputs))
    except ConesError:
        state = None
    if state is None:
        return make()
    kept = {"kept": {("", "tensor"): torch.empty_like(like)}}
    if state.read() is None or not state.fill(kept):
        kept["kept"]["", "tensor"].copy_(make())
        state.write({"phase": "kept", "step": 1, "numbers": {}, "history": []}, kept)
    return kept["kept"]["", "tensor"]


def model_digest(model: Any) -> str:
    """Of some entries of each weight, and of everything that nodes have put on the MODEL."""
    weights = {}
    for name, weight in model.model.state_dict().items():
        key = model.backup.get(name)
        value = (weight if key is None else key.weight).reshape(-1)
        sample = value[:: max(1, value.numel() // SAMPLE)].float().cpu()
        weights[name] = sample.as_subclass(torch.Tensor)  # GGUF loaders keep packed bytes in a subclass of their own
    return digest(weights, plain(model.patches), plain(model.object_patches), plain(model.model_options))


def plain(value: Any) -> Any:
    """The contents of what the host, its nodes and our encoder keep in objects of their own."""
    if isinstance(value, TokenPositions):
        return plain([value.encoded, value.positions])
    if isinstance(value, torch.nn.Module):
        return type(value).__name__, plain(value.state_dict())
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(entry) for entry in value]
    if hasattr(value, "weights") and hasattr(value, "name"):  # the host's weight adapters (LoRA and the like)
        return value.name, plain(value.weights)
    return value


def remove_old(folder: Path) -> None:
    """Remove states that nobody resumed for a week."""
    for file in folder.glob(f"*{SUFFIX}"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > DAYS * 86400:
                file.unlink()
