"""The example workflow that looks at concept masks."""

from __future__ import annotations

import workflow_notes
from workflow_graph import Graph
from workflow_pieces import MASKS, TOY, encoded, enlarged, prompt, samples


def inspect_and_compare() -> Graph:
    """Two saved masks side by side, and what each part of the first does."""
    graph = Graph("inspect-and-compare")
    graph.note((0, 0), (340, 480), "Inspect and compare", workflow_notes.INSPECT)
    graph.note((900, 0), (340, 480), "What each part does", workflow_notes.SPLIT)
    world = graph.add("ConesToyWorld", (0, 580), (340, 90))
    first, second = (
        graph.add("ConesLoadConceptMask", (0, 740 + 190 * k), (340, 110), mask_name=f"{name}.safetensors")
        for k, name in enumerate(MASKS[:2])
    )
    looks = [
        graph.add("ConesInspectConceptMask", (420, 580 + 580 * k), (400, 500), concept_mask=one[0])
        for k, one in enumerate((first, second))
    ]
    looks.append(graph.add("ConesCompareConceptMasks", (420, 0), (400, 480), mask_1=first[0], mask_2=second[0]))
    parts = graph.add("ConesSplitConceptMask", (900, 580), (340, 180), concept_mask=first[0], group_by="block")
    applied = graph.add(
        "ConesApplyConceptMasks", (900, 840), (340, 780), "Once per part", model=world[0], mask_1=parts[0]
    )
    text = "a sks star on a white background"
    inputs = {
        "positive": encoded(graph, (1320, 0), "What to draw", world[1], text, mask_1=first[0]),
        "negative": prompt(graph, (1320, 420), "Negative (empty)", world[1], ""),
        "latent_image": graph.add("EmptyLatentImage", (1320, 600), (340, 110), width=64, height=64, batch_size=2)[0],
    }
    without = samples(graph, (1320, 800), world[0], inputs, world[2], title="Without a mask", **TOY)
    graph.add("PreviewImage", (1320, 1260), (340, 320), "Without a mask", images=enlarged(graph, (1700, 800), without))
    each = samples(graph, (1740, 0), applied[0], inputs, world[2], title="With each part", **TOY)
    grid = graph.add("ConesLabelPictures", (1740, 440), (340, 140), images=each, labels=parts[1], side=288)
    title = "What each part does"
    graph.add("SaveImage", (2120, 0), (760, 780), title, images=grid[0], filename_prefix=f"cones/{graph.name}")
    graph.group("1. A model, two concepts", [world, first, second])
    graph.group("3. One mask in parts", [parts, applied])
    return graph
