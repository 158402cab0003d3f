"""The extension ComfyUI loads: the hand-written list of node classes. Inputs, widgets and outputs
of a node are only appended."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .apply import ConesApplyConceptMasks, ConesConceptMaskHook
from .encode import ConesEncodePrompt
from .export import ConesExportAsLora
from .find import ConesFindConceptNeurons
from .host.files.folders import mask_names
from .inspect import ConesCompareConceptMasks, ConesInspectConceptMask, ConesSplitConceptMask
from .masks import ConesCombineConceptMasks, ConesLoadConceptMask, ConesSaveConceptMask
from .pictures import ConesLabelPictures, ConesLayPictures
from .prompt import ConesPromptWithConcepts
from .regions import ConesKeepApart, ConesSeeConcepts
from .teach import ConesTeachConcept
from .toy import ConesToySubject, ConesToyWorld
from .tune import ConesTuneConceptMasks

NODES: list[type[io.ComfyNode]] = [
    ConesFindConceptNeurons,
    ConesSaveConceptMask,
    ConesLoadConceptMask,
    ConesCombineConceptMasks,
    ConesApplyConceptMasks,
    ConesToyWorld,
    ConesToySubject,
    ConesEncodePrompt,
    ConesTuneConceptMasks,
    ConesLayPictures,
    ConesInspectConceptMask,
    ConesCompareConceptMasks,
    ConesSplitConceptMask,
    ConesLabelPictures,
    ConesExportAsLora,
    ConesConceptMaskHook,
    ConesPromptWithConcepts,
    ConesKeepApart,
    ConesSeeConcepts,
    ConesTeachConcept,
]


class ConesExtension(ComfyExtension):  # type: ignore[misc]
    """Cones: Concept Neurons."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes. The host knows and has listed concept_masks by then, so that the first page need not wait."""
        mask_names()
        return NODES
