"""Export Concept Mask as LoRA: for programs and nodes that know LoRA files only."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.masks.concept_mask import ConceptMask
from .host.files.export_lora import FOLDER, export_lora
from .host.inputs import ALIASES, CATEGORY, ConceptMaskSocket, apply_anyway_input, check_file_name, file_inputs


class ConesExportAsLora(io.ComfyNode):  # type: ignore[misc]
    """A dense .diff file for one base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesExportAsLora",
            display_name="Export Concept Mask as LoRA",
            category=CATEGORY,
            description=(
                "Saves a mask that acts everywhere as a LoRA file in models/loras. Every LoRA loader can load the "
                "file, but it works on this base model only. The file is dense: many megabytes, where a concept mask "
                "needs some kilobytes. Masks at own tokens cannot be exported."
            ),
            search_aliases=[*ALIASES, "save lora", "convert", "export", "extract lora", "diff"],
            is_output_node=True,
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The base model that the mask was found on. It is only read; LoRA and other patches on it are "
                        "ignored."
                    ),
                ),
                ConceptMaskSocket.Input(
                    "concept_mask", tooltip="A concept mask (neurons, not an image mask) that acts everywhere."
                ),
                *file_inputs(FOLDER),
                apply_anyway_input(
                    "Off: stop if the mask was found on other base weights. On: export it anyway, with a warning in "
                    "the log."
                ),
            ],
            outputs=[
                io.String.Output(display_name="lora_name", tooltip="The name under which LoRA loaders list the file."),
                io.String.Output(
                    display_name="report", tooltip="The size of the file in MB, and how the file can be used."
                ),
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
        """Before the queue starts: the name can be a file's."""
        return check_file_name(name, FOLDER)
