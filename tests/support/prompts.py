"""Prompts in API form for a ComfyUI server, and inputs as the host passes them."""

from __future__ import annotations

from typing import Any

from cones_ops.laboratory.comfyui.prompts import node, toy_picture
from cones_ops.laboratory.comfyui.workflow import Prompt

__all__ = ["Prompt", "as_lists", "node", "nodes_with", "shortened", "toy_picture"]


def as_lists(**inputs: Any) -> dict[str, list[Any]]:
    """Inputs as the host passes them to a node that takes lists; those that are None are not connected."""
    return {name: [value] for name, value in inputs.items() if value is not None}


def nodes_with(prompt: Prompt, class_type: str) -> list[str]:
    """The ids of the nodes of a class."""
    return [node_id for node_id, entry in prompt.items() if entry["class_type"] == class_type]


def shortened(prompt: Prompt) -> Prompt:
    """The same graph with the fewest steps that still exercise every node; its concepts are saved as "shortened"."""
    changes: dict[str, dict[str, Any]] = {
        "ConesFindConceptNeurons": {"method": "cones", "steps": 2, "batch": 32, "density": 0.01},
        "ConesTuneConceptMasks": {"steps": 2, "batch": 8},
        "ConesTeachConcept": {"steps": 4, "beside": 4, "name": "shortened"},
        "KSampler": {"steps": 2},
        "ConesSaveConceptMask": {"name": "shortened"},  # must not hide the example masks
    }
    for entry in prompt.values():
        entry["inputs"] |= changes.get(entry["class_type"], {})
    return prompt
