"""Base weights straight from files, by canonical name: a checkpoint, or the UNet in a diffusers folder.

Only what is asked for is read; no model is built, and neither diffusers nor transformers is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...errors import ConesError, listed
from .names import canonical_names

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")


def weight_reader(base: Path) -> Callable[[str], Tensor]:
    """A function from canonical names to weights; ConesError for a base that is neither kind, or lacks a weight."""
    where = _in_folder(base) if base.is_dir() else _in_checkpoint(base)

    def read(name: str) -> Tensor:
        if name not in where:
            raise ConesError(
                f"{base} has no {name} among its {len(where)} weights such as {listed(where)}; "
                "was the mask made for another model?"
            )
        file, stored = where[name]
        with safe_open(file, "pt") as opened:
            tensor: Tensor = opened.get_tensor(stored)
        return tensor

    return read


def _in_checkpoint(path: Path) -> dict[str, tuple[Path, str]]:
    """Canonical name -> (file, name in it)."""
    names = stored_names(path)
    prefix = next(p for p in PREFIXES if any(name.startswith(p) for name in names) or not p)
    return {name.removeprefix(prefix): (path, name) for name in names if name.startswith(prefix)}


def _in_folder(folder: Path) -> dict[str, tuple[Path, str]]:
    config, files = folder / "unet" / "config.json", sorted((folder / "unet").glob("*.safetensors"))
    if not config.is_file() or not files:
        raise ConesError(
            f"{folder}: no unet/config.json with .safetensors beside it; give a model folder saved by diffusers, or a "
            "checkpoint file"
        )
    by_file = {file: stored_names(file) for file in reversed(files)}  # the plain file last, so that it wins
    stored = {name: file for file, names in by_file.items() for name in names}
    try:
        names = canonical_names(json.loads(config.read_text(encoding="utf-8")), stored)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, ConesError):
            raise
        raise ConesError(f"{config}: not a UNet's configuration ({error!r}); is the folder whole?") from None
    return {name: (stored[in_file], in_file) for name, in_file in names.items()}


def stored_names(path: Path) -> list[str]:
    if path.suffix != ".safetensors" or not path.is_file():
        raise ConesError(f"{path}: no such .safetensors file; give a checkpoint, or a model folder saved by diffusers")
    try:
        with safe_open(path, "pt") as opened:
            return list(opened.keys())
    except SafetensorError as error:
        raise ConesError(f"{path}: not a readable safetensors file ({error}); is it whole?") from None
