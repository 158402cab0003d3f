"""What several nodes share: the socket of a concept mask, repeated inputs, search words, pictures in and out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import comfy.model_management
import numpy as np
import torch
from comfy_api.latest import io, ui

from ...cones_ops.errors import ConesError
from ...cones_ops.masks.concept_mask import ConceptMask, Where
from .files.folders import FOLDER, wanted_path

log = logging.getLogger("cones")

WHERES: tuple[Where, ...] = get_args(Where)[::-1]  # own tokens first: what users should try first
ConceptMaskSocket = io.Custom("CONES_CONCEPT_MASK")  # a ConceptMask: plain data, CPU tensors and strings
CATEGORY = "Cones"
LOOK = f"{CATEGORY}/look"
ALIASES = ["cones", "concept neurons"]  # of every node
TEACHING = [  # of the two nodes that make a concept from pictures, and of no other
    *("dreambooth", "train", "train lora", "lora", "lora training", "textual inversion", "custom diffusion"),
    *("personalization", "personalisation", "learn subject", "custom subject"),
]
USING = ["subject", "multi concept", "lora alternative"]  # of nodes that put concepts into a picture
SLOTS = 8


def mask_inputs(tooltip: str, first: int = 1) -> list[io.Input]:
    """Optional sockets mask_<first> to mask_8."""
    return [ConceptMaskSocket.Input(f"mask_{i}", optional=True, tooltip=tooltip) for i in range(first, SLOTS + 1)]


def connected_masks(slots: Mapping[str, ConceptMask | None]) -> list[ConceptMask]:
    """The masks that are connected to mask_1 to mask_8, in this order."""
    masks = (slots.get(f"mask_{i}") for i in range(1, SLOTS + 1))
    return [mask for mask in masks if mask is not None]


def strength_input(name: str, tooltip: str, **options: Any) -> io.Input:
    """How far neurons are shut, 0 to 1."""
    return io.Float.Input(name, default=1.0, min=0.0, max=1.0, step=0.05, round=0.001, tooltip=tooltip, **options)


def where_input(options: Sequence[str], tooltip: str, advanced: bool = False) -> io.Input:
    """Where masks act; the first option is the default."""
    return io.Combo.Input(
        "where", options=list(options), default=options[0], optional=True, advanced=advanced, tooltip=tooltip
    )


def apply_anyway_input(tooltip: str) -> io.Input:
    """Whether a mask of other base weights is accepted."""
    return io.Boolean.Input("apply_anyway", default=False, optional=True, advanced=True, tooltip=tooltip)


def seed_input(tooltip: str) -> io.Input:
    """A seed that stays as it is from run to run."""
    fixed = io.ControlAfterGenerate.fixed
    return io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=fixed, tooltip=tooltip)


def training_inputs(steps: int, batch: int, batch_tooltip: str) -> list[io.Input]:
    """steps, batch, prior_weight and seed of a node that trains; the defaults are those of the benchmark."""
    return [
        io.Int.Input(
            "steps",
            default=steps,
            min=1,
            max=10000,
            tooltip=(
                "How many batches of noisy pictures the node uses; the time grows in proportion. The benchmark in "
                f"docs/results/quality.md used {steps}."
            ),
        ),
        io.Int.Input("batch", default=batch, min=1, max=256, advanced=True, tooltip=batch_tooltip),
        io.Float.Input(
            "prior_weight",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            advanced=True,
            tooltip=(
                "Only for everywhere: how important it is to keep pictures of the class as they are, compared to "
                "drawing the subject. 0: not at all; 1: equally; higher: more. Not used for own tokens."
            ),
        ),
        seed_input("Seed of the noise. The same seed and inputs give the same neurons."),
    ]


def sample_input(default: int) -> io.Input:
    """How often a search draws a sample picture."""
    return io.Int.Input(
        "sample_every",
        default=default,
        min=0,
        max=10000,
        optional=True,
        advanced=True,
        tooltip=(
            "While the search runs, show a sample picture every so many steps, such as 50. 0: none. Samples do not "
            "change the result."
        ),
    )


def file_inputs(folder: str) -> list[io.Input]:
    """The name of a file to save in models/<folder>, and what happens to a file of the same name."""
    return [
        io.String.Input(
            "name",
            default="my concept",
            tooltip=f"File name in models/{folder}, without ending. / makes subfolders, as in people/sks.",
        ),
        io.Combo.Input(
            "if_exists",
            options=["keep both", "overwrite"],
            default="keep both",
            tooltip="keep both: the new file gets a number. overwrite: the new file replaces the old one.",
        ),
    ]


def comma_separated(text: str) -> list[str]:
    """The entries of a text box, with commas or new lines between them and single spaces inside."""
    entries = (" ".join(entry.split()) for entry in text.replace("\n", ",").split(","))
    return [entry for entry in entries if entry]


def check_file_name(name: str | None, folder: str = FOLDER) -> bool | str:
    """For validate_inputs: True, or why `name` cannot be a file. A connected name is None here and checked later."""
    try:
        if name is not None:
            wanted_path(name, folder)
    except ConesError as error:
        return str(error)
    return True


def drawn(draw: Callable[[], np.ndarray]) -> tuple[np.ndarray, str]:
    """(a figure (H, W, 3) uint8 of a finished result, ""), or (an empty one, why): the result is never lost with it."""
    try:
        return draw(), ""
    except comfy.model_management.InterruptProcessingException:  # an Exception in old hosts
        raise
    except Exception as error:  # whatever a broken library raises
        log.warning("a figure is empty: %s", error)
        return np.full((400, 640, 3), 255, np.uint8), f"no figure: {error}"


def as_image(figure: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 as an IMAGE (1, H, W, 3)."""
    return torch.from_numpy(figure).float().div(255)[None]


def as_pixels(images: torch.Tensor) -> np.ndarray:
    """An IMAGE (n, H, W, channels) as (n, H, W, 3) uint8: grey where there are fewer than 3 channels."""
    colours = images[..., :3] if images.shape[-1] >= 3 else images[..., :1].expand(*images.shape[:-1], 3)
    pixels: np.ndarray = colours.detach().cpu().float().nan_to_num().clamp(0, 1).mul(255).round().byte().numpy()
    return pixels


def preview(cls: type[io.ComfyNode], image: torch.Tensor, text: str) -> dict[str, Any]:
    """A figure and a text to show on the node itself; the text alone where the figure's file cannot be written."""
    try:
        figure = ui.PreviewImage(image, cls=cls).as_dict()
    except OSError as error:  # a full disk, after a whole search
        log.warning("the figure is not shown: %s", error)
        figure = {}
    return dict(figure | ui.PreviewText(text).as_dict())
