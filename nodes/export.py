"""Export Concept Mask as LoRA: for programs and nodes that know LoRA files only."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask
from .host.files.export_lora import FOLDER, export_lora
from .host.files.folders import wanted_path
from .inputs import ALIASES, CATEGORY, ConceptMaskSocket


class ConesExportAsLora(io.ComfyNode):  # type: ignore[misc]
    """A dense .diff file for one base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesExportAsLora",
            display_name="Export Concept Mask as LoRA",
            category=CATEGORY,
            description=(
                "Saves a mask that acts everywhere as a LoRA file in models/loras, which every LoRA loader can load, "
                "on this base model only. The file is dense: many megabytes for what a concept mask says in some "
                "kilobytes. Masks at their own tokens cannot be exported."
            ),
            search_aliases=[*ALIASES, "save lora", "convert", "export", "extract lora", "diff"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The base model the mask was found on. Its own weights count, without LoRA or other patches; "
                        "it is only read."
                    ),
                ),
                ConceptMaskSocket.Input(
                    "concept_mask", tooltip="A concept mask that acts everywhere (neurons, not an image mask)."
                ),
                io.String.Input(
                    "name",
                    default="my concept",
                    tooltip="File name in models/loras without ending; / makes subfolders, as in people/sks.",
                ),
                io.Combo.Input(
                    "if_exists",
                    options=["keep both", "overwrite"],
                    default="keep both",
                    tooltip="keep both: add a number to the new file's name. overwrite: replace the old file.",
                ),
                io.Boolean.Input(
                    "apply_anyway",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Off: stop when the mask was found on other base weights. On: export all the same, with a "
                        "warning."
                    ),
                ),
            ],
            outputs=[
                io.String.Output(display_name="lora_name", tooltip="The name under which LoRA loaders list the file."),
                io.String.Output(display_name="report", tooltip="Size of the file in MB, and what to know about it."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, concept_mask: ConceptMask, name: str, if_exists: str, apply_anyway: bool = False
    ) -> io.NodeOutput:
        saved, report = export_lora(model, concept_mask, name, if_exists == "overwrite", apply_anyway)
        return io.NodeOutput(saved, report, ui=ui.PreviewText(report))

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Before the queue starts: the name can be a file's. A name that is wired in is checked later."""
        try:
            if name is not None:
                wanted_path(name, FOLDER)
        except ConesError as error:
            return str(error)
        return True
