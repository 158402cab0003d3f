"""Look at concept masks: where the neurons are, what masks share, what each part of a mask does."""

from __future__ import annotations

from comfy_api.latest import io

from ..cones_ops.masks.concept_mask import ConceptMask
from ..cones_ops.masks.split import GROUPS, LEFT, GroupBy, Left, split
from ..cones_ops.reports.compare import collision_report, names_of
from ..cones_ops.reports.figures import layer_figure, overlap_figure
from ..cones_ops.reports.text import inspection_text, layer_table
from .host.inputs import ALIASES, LOOK, ConceptMaskSocket, as_image, connected_masks, mask_inputs, preview


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
                        "Above: the share of each searched weight that is shut, by depth. Below: neurons per block. K "
                        "and V are shown separately."
                    ),
                ),
                io.String.Output(
                    display_name="summary",
                    tooltip="How many neurons there are, where most of them are, and how they were found.",
                ),
                io.String.Output(display_name="table", tooltip="The neurons of every searched weight, a line each."),
            ],
        )

    @classmethod
    def execute(cls, concept_mask: ConceptMask) -> io.NodeOutput:
        figure, summary = as_image(layer_figure(concept_mask)), inspection_text(concept_mask)
        return io.NodeOutput(figure, summary, layer_table(concept_mask), ui=preview(cls, figure, summary))


class ConesCompareConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """What masks share, and what to expect of them together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesCompareConceptMasks",
            display_name="Compare Concept Masks",
            category=LOOK,
            description=(
                "Reports, before any sampling, what concept masks have in common and what to expect when they are "
                "loaded together. The numbers were measured in an earlier toy world. Needs no model and runs at once."
            ),
            search_aliases=[*ALIASES, "overlap", "collision", "multi subject", "identity bleed", "similarity"],
            is_output_node=True,
            inputs=[
                ConceptMaskSocket.Input("mask_1", tooltip="The first concept mask (neurons, not an image mask)."),
                ConceptMaskSocket.Input("mask_2", tooltip="The second concept mask."),
                *mask_inputs("Optional: another concept mask.", first=3),
            ],
            outputs=[
                io.Image.Output(
                    display_name="figure",
                    tooltip=(
                        "Above: the share of each mask's neurons that each other mask has too. Below: where in the "
                        "model each pair shares neurons."
                    ),
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="For each pair, how much it shares and what looks wrong; then what to expect and to do.",
                ),
            ],
        )

    @classmethod
    def execute(cls, **slots: ConceptMask | None) -> io.NodeOutput:
        masks = connected_masks(slots)
        report = collision_report(masks)
        figure = as_image(overlap_figure(masks, names_of(masks)))
        return io.NodeOutput(figure, report, ui=preview(cls, figure, report))


class ConesSplitConceptMask(io.ComfyNode):  # type: ignore[misc]
    """One mask as a list of its parts: the nodes after it run once for each."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesSplitConceptMask",
            display_name="Split Concept Mask",
            category=LOOK,
            description=(
                "Splits a concept mask into groups by where its neurons are. The outputs are lists: Apply Concept "
                "Masks, the sampler and all nodes after them run once per group, so one press of Run shows what each "
                "group does. Label Pictures in a Grid puts the pictures together."
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
                        "By depth (first, middle, last third of the layers), by block of the model, by K and V, or by "
                        "block and K and V. Groups without neurons are left out. Each group is one more picture to "
                        "sample."
                    ),
                ),
                io.Combo.Input(
                    "left_on",
                    options=list(LEFT),
                    default=LEFT[0],
                    tooltip=(
                        "Which neurons stay in each mask. the group alone: to see whether the group is enough. all but "
                        "the group: to see whether the group is needed. The model's other neurons stay unchanged."
                    ),
                ),
                io.Boolean.Input(
                    "with_whole",
                    default=True,
                    tooltip="On: the list begins with the whole mask, for comparison. Off: the groups only.",
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
                    tooltip="A list of labels, one per group: its name, its neurons and their share of the mask.",
                ),
            ],
        )

    @classmethod
    def execute(cls, concept_mask: ConceptMask, group_by: GroupBy, left_on: Left, with_whole: bool) -> io.NodeOutput:
        parts = split(concept_mask, group_by, left_on, with_whole)
        return io.NodeOutput(list(parts.values()), list(parts))
