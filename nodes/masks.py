"""Save, load and combine concept masks."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..cones_ops.errors import ConesError
from ..cones_ops.masks.concept_mask import ConceptMask, difference, intersection, union, why_empty
from ..cones_ops.masks.mask_file import load_mask, read_mask_metadata
from .host.files.folders import FOLDER, mask_names, path_of
from .host.files.save_mask import keep_mask
from .host.inputs import (
    ALIASES,
    CATEGORY,
    ConceptMaskSocket,
    check_file_name,
    connected_masks,
    file_inputs,
    mask_inputs,
)
from .host.notices import warn
from .pictures import safe_covers

OPERATIONS = {"union": union, "intersection": intersection, "difference": difference}


class ConesSaveConceptMask(io.ComfyNode):  # type: ignore[misc]
    """One concept, one small .safetensors file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesSaveConceptMask",
            display_name="Save Concept Mask",
            category=CATEGORY,
            description=(
                "Saves a concept mask as a small .safetensors file in models/concept_masks, for Load Concept Mask."
            ),
            search_aliases=[*ALIASES, "save mask", "export"],
            is_output_node=True,
            inputs=[
                ConceptMaskSocket.Input(
                    "concept_mask", tooltip="The concept mask (neurons, not an image mask) to save."
                ),
                *file_inputs(FOLDER),
                io.Image.Input(
                    "cover",
                    optional=True,
                    tooltip=(
                        "Optional: a picture for the model library (the first of a batch), saved as .png beside the "
                        "file and as a small picture inside it."
                    ),
                ),
            ],
            outputs=[
                ConceptMaskSocket.Output(display_name="concept_mask", tooltip="The same concept mask, for more nodes."),
                io.String.Output(display_name="name", tooltip="The name under which Load Concept Mask lists the file."),
            ],
        )

    @classmethod
    def execute(cls, concept_mask: ConceptMask, name: str, if_exists: str, cover: Any = None) -> io.NodeOutput:
        if concept_mask.count == 0:
            raise ConesError(f"the concept mask is empty, so there is nothing to save: {why_empty(concept_mask)}")
        pictures, no_cover = (None, "") if cover is None else safe_covers(cover)
        saved, trouble = keep_mask(concept_mask, name, if_exists == "overwrite", pictures)
        report = "\n".join(filter(None, (f"{saved}: {concept_mask.count} neurons", trouble, no_cover)))
        if trouble or no_cover:
            warn(report)
        return io.NodeOutput(concept_mask, saved, ui=ui.PreviewText(report))

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """Before minutes of search are spent: the name can be a file's."""
        return check_file_name(name)


class ConesLoadConceptMask(io.ComfyNode):  # type: ignore[misc]
    """A saved concept, by its name in models/concept_masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesLoadConceptMask",
            display_name="Load Concept Mask",
            category=CATEGORY,
            description=(
                "Loads a concept mask from models/concept_masks or your own concept_masks folders. Press R to refresh "
                "the list."
            ),
            search_aliases=[*ALIASES, "load mask", "open"],
            inputs=[
                io.Combo.Input(
                    "mask_name",
                    options=mask_names(),
                    tooltip="A file in models/concept_masks, made by Save Concept Mask or shared by another user.",
                ),
            ],
            outputs=[
                ConceptMaskSocket.Output(
                    display_name="concept_mask", tooltip="The concept's neurons (not an image mask)."
                ),
                io.String.Output(
                    display_name="identifier", tooltip="The rare word that names the subject in a prompt."
                ),
                io.String.Output(display_name="class_word", tooltip="What kind of thing the subject is."),
            ],
        )

    @classmethod
    def execute(cls, mask_name: str) -> io.NodeOutput:
        mask = load_mask(path_of(mask_name))
        return io.NodeOutput(mask, mask.identifier, mask.class_word)

    @classmethod
    def validate_inputs(cls, mask_name: str) -> bool | str:
        """Before the queue starts: the file exists and is a concept mask."""
        try:
            read_mask_metadata(path_of(mask_name))
        except ConesError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, mask_name: str) -> Any:
        """Load again when the file has changed."""
        facts = path_of(mask_name).stat()
        return f"{facts.st_mtime_ns} {facts.st_size}"


class ConesCombineConceptMasks(io.ComfyNode):  # type: ignore[misc]
    """Set algebra on masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConesCombineConceptMasks",
            display_name="Combine Concept Masks",
            category=CATEGORY,
            description=(
                "Makes one concept mask out of several: all of their neurons, the neurons that they share, or the "
                "neurons that only the first mask has."
            ),
            search_aliases=[*ALIASES, "union", "intersection", "difference", "merge masks"],
            inputs=[
                io.Combo.Input(
                    "operation",
                    options=list(OPERATIONS),
                    default="union",
                    tooltip=(
                        "union: neurons in any mask. intersection: neurons in all masks. difference: neurons in mask_1 "
                        "and in no other mask."
                    ),
                ),
                ConceptMaskSocket.Input(
                    "mask_1", tooltip="The first concept mask; difference subtracts the others from it."
                ),
                ConceptMaskSocket.Input("mask_2", tooltip="The second concept mask, found on the same weights."),
                *mask_inputs("Optional: another concept mask, found on the same weights.", first=3),
            ],
            outputs=[ConceptMaskSocket.Output(display_name="concept_mask", tooltip="The combined concept mask.")],
        )

    @classmethod
    def execute(cls, operation: str, **masks: ConceptMask | None) -> io.NodeOutput:
        return io.NodeOutput(OPERATIONS[operation](*connected_masks(masks)))
