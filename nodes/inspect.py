"""Look at concept masks: where the neurons are, what masks share, what each part of a mask does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.masks.split import GROUPS, LEFT, GroupBy, Left, split
from ..cones_ops.reports.compare import collision_report, names_of
from ..cones_ops.reports.figures import labelled_grid, layer_figure, overlap_figure
from ..cones_ops.reports.text import inspection_text, layer_table
from .inputs import ALIASES, CATEGORY, ConceptMaskSocket

LOOK = f"{CATEGORY}/look"
SLOTS = 8


def as_image(figure: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 as an IMAGE (1, H, W, 3)."""
    return torch.from_numpy(figure).float().div(255)[None]


def as_pixels(images: torch.Tensor) -> np.ndarray:
    """An IMAGE (n, H, W, 3) as one uint8 picture, its n pictures side by side."""
    pictures = images[..., :3].detach().cpu().float().clamp(0, 1).mul(255).round().byte().numpy()
    gap = np.full((pictures.shape[1], max(1, pictures.shape[2] // 32), 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)


def shown(cls: Any, image: torch.Tensor, text: str) -> dict[str, Any]:
    """A figure and a text on the node itself."""
    return dict(ui.PreviewImage(image, cls=cls).as_dict() | ui.PreviewText(text).as_dict())


class ConesInspectConceptMask(io.ComfyNode):  # type: ignore[misc]
    """Where a mask's neurons are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesInspectConceptMask",
            display_name="Inspect Concept Mask",
            category=LOOK,
            description=(
                "Shows where a concept's neurons are: how many in each layer and block of the model, in K and in V, "
                "with a summary in words. Needs no model and runs at once."
            ),
            search_aliases=[*ALIASES, "heat map", "layers", "blocks", "info", "interpretability", "visualize"],
            is_output_node=True,
            inputs=[
                ConceptMaskSocket.Input(
                    "concept_mask", tooltip="The concept mask (neurons, not an image mask) to show."
                )
            ],
            outputs=[
                io.Image.Output(
                    display_name="figure",
                    tooltip=(
                        "Above: the share of each searched weight that is shut, by depth. Below: neurons per block. "
                        "K and V apart."
                    ),
                ),
                io.String.Output(
                    display_name="summary", tooltip="How many neurons, where most of them are, how they were found."
                ),
                io.String.Output(
                    display_name="table", tooltip="Neurons of every searched weight, as a Markdown table."
                ),
            ],
        )

    @classmethod
    def execute(cls, concept_mask: ConceptMask) -> io.NodeOutput:
        figure, summary = as_image(layer_figure(concept_mask)), inspection_text(concept_mask)
        return io.NodeOutput(figure, summary, layer_table(concept_mask), ui=shown(cls, figure, summary))


class ConesCompareConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """What masks share, and what to expect of them together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            ConceptMaskSocket.Input(f"mask_{i}", optional=True, tooltip="A further concept mask (optional).")
            for i in range(3, SLOTS + 1)
        ]
        return io.Schema(
            node_id="ConesCompareConceptMasks",
            display_name="Compare Concept Masks",
            category=LOOK,
            description=(
                "Tells before any sampling what concept masks have in common, and what to expect when they are "
                "loaded together. What it says was measured in the toy world. Needs no model and runs at once."
            ),
            search_aliases=[*ALIASES, "overlap", "collision", "multi subject", "identity bleed", "similarity"],
            is_output_node=True,
            inputs=[
                ConceptMaskSocket.Input("mask_1", tooltip="The first concept mask (neurons, not an image mask)."),
                ConceptMaskSocket.Input("mask_2", tooltip="The second concept mask."),
                *more,
            ],
            outputs=[
                io.Image.Output(
                    display_name="figure",
                    tooltip="Above: what share of each mask's neurons every other has. Below: where pairs share them.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="For each pair how much is shared and what looks wrong, then what to expect and to do.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **masks: ConceptMask | None) -> io.NodeOutput:
        given = [mask for i in range(1, SLOTS + 1) if (mask := masks.get(f"mask_{i}")) is not None]
        report = collision_report(given)
        figure = as_image(overlap_figure(given, names_of(given)))
        return io.NodeOutput(figure, report, ui=shown(cls, figure, report))


class ConesSplitConceptMask(io.ComfyNode):  # type: ignore[misc]
    """One mask as a list of its parts: what follows runs once for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesSplitConceptMask",
            display_name="Split Concept Mask",
            category=LOOK,
            description=(
                "Takes a concept mask apart by where its neurons are. Its outputs are lists: Apply Concept Masks, "
                "the sampler and all that follows run once per group, so one press of Run shows what each group "
                "does. Label Pictures in a Grid puts the pictures together."
            ),
            search_aliases=[*ALIASES, "ablation", "ablate", "groups", "block weights", "causal", "xy plot"],
            inputs=[
                ConceptMaskSocket.Input(
                    "concept_mask", tooltip="The concept mask (neurons, not an image mask) to split."
                ),
                io.Combo.Input(
                    "group_by",
                    options=list(GROUPS),
                    default="block",
                    tooltip=(
                        "By depth (first, middle, last third of the layers), by block of the model, by K and V, or "
                        "by both. Groups without neurons are left out; each further group is one more picture to "
                        "sample."
                    ),
                ),
                io.Combo.Input(
                    "left_on",
                    options=list(LEFT),
                    default=LEFT[0],
                    tooltip=(
                        "the group alone: does this group suffice? all but the group: is it needed? The neurons that "
                        "are left on are shut in the model, the others stay as they were."
                    ),
                ),
                io.Boolean.Input(
                    "with_whole",
                    default=True,
                    tooltip="On: begin the list with the whole mask, to compare with. Off: the groups only.",
                ),
            ],
            outputs=[
                ConceptMaskSocket.Output(
                    display_name="concept_masks",
                    is_output_list=True,
                    tooltip="A list of masks, one per group, for Apply Concept Masks.",
                ),
                io.String.Output(
                    display_name="labels",
                    is_output_list=True,
                    tooltip="A list with a name for each: the group, its neurons and their share of the mask.",
                ),
            ],
        )

    @classmethod
    def execute(cls, concept_mask: ConceptMask, group_by: GroupBy, left_on: Left, with_whole: bool) -> io.NodeOutput:
        parts = split(concept_mask, group_by, left_on, with_whole)
        return io.NodeOutput(list(parts.values()), list(parts))


class ConesLabelPictures(io.ComfyNode):  # type: ignore[misc]
    """A list of pictures and a list of labels -> one picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesLabelPictures",
            display_name="Label Pictures in a Grid",
            category=LOOK,
            description=(
                "Lays a list of pictures out as one, each below its label: what Split Concept Mask and a sampler "
                "made, group by group. The pictures of one batch share a label."
            ),
            search_aliases=[*ALIASES, "image grid", "contact sheet", "xy plot", "annotate"],
            is_input_list=True,
            inputs=[
                io.Image.Input(
                    "images", tooltip="A list of pictures, such as VAE Decode gives after Split Concept Mask."
                ),
                io.String.Input(
                    "labels", force_input=True, tooltip="A list of labels, one per entry of images, in the same order."
                ),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="Pictures per row, 1 to 64; more make a wider grid. 0 = as square as it gets.",
                ),
                io.Int.Input(
                    "side",
                    default=224,
                    min=64,
                    max=1024,
                    step=8,
                    tooltip="Width of each picture (or batch) in pixels, 64 to 1024; higher makes a larger grid.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The labelled pictures as one picture.")],
        )

    @classmethod
    def execute(cls, images: list[Any], labels: list[str], columns: list[int], side: list[int]) -> io.NodeOutput:
        return io.NodeOutput(as_image(labelled_grid([as_pixels(one) for one in images], labels, columns[0], side[0])))
