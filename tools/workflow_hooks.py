"""The example workflow that lets a concept mask act in one region, and in a stretch of the sampling."""

from __future__ import annotations

from workflow_graph import Graph, Node, Output
from workflow_pieces import MASKS, empty_latents, load_masks, prompt, rows_to_compare


def left_half(graph: Graph, left: int, top: int) -> list[Node]:
    """The last node gives an image mask of the left half: a white strip laid on black."""
    whole = graph.add("SolidMask", (left, top), "Nothing", value=0.0, width=64, height=64)
    half = graph.add("SolidMask", (left, top + 180), "Half", value=1.0, width=32, height=64)
    sources = {"destination": whole[0], "source": half[0]}
    both = graph.add("MaskComposite", (left, top + 360), "Left half", **sources, operation="add")
    return [whole, half, both]


def keyframes(graph: Graph, left: int, top: int, hooks: Output) -> list[Node]:
    """The last node gives the hooks at full strength for the first part of the sampling, then at none."""
    first = graph.add("CreateHookKeyframe", (left, top), "From the start", strength_mult=1.0)
    then = {"strength_mult": 0.0, "start_percent": 0.6, "prev_hook_kf": first[0]}
    last = graph.add("CreateHookKeyframe", (left, top + 180), "From 60 % on", **then)
    return [first, last, graph.add("SetHookKeyframes", (left, top + 360), hooks=hooks, hook_kf=last[0])]


def compose_with_hooks() -> Graph:
    """One prompt, one noise: a mask applied everywhere, as a hook in one region, and there for part of the sampling."""
    graph = Graph("compose-with-hooks")
    graph.note((0, 0), (340, 560), "A region, a stretch of the sampling")
    graph.note((840, 0), (340, 560), "Other uses")
    world = graph.add("ConesToyWorld", (0, 680))
    (mask,) = load_masks(graph, (0, 840), MASKS[3])
    hook = graph.add("ConesConceptMaskHook", (0, 1030), mask=mask[0])
    applied = graph.add("ConesApplyConceptMasks", (0, 1260), "Everywhere", model=world[0], mask_1=mask[0])
    text = "a mfj circle on the left and a blue plain square on the right on a white background"
    words = prompt(graph, (420, 0), "What to draw", world[1], text)
    negative = prompt(graph, (420, 190), "Negative (empty)", world[1], "")
    inputs = {"negative": negative, "latent_image": empty_latents(graph, (420, 380), 4)}
    region = left_half(graph, 420, 680)
    scheduled = keyframes(graph, 840, 680, hook[0])
    rows = {"Everywhere": {"model": applied[0], "positive": words}}
    for k, (title, hooks) in enumerate((("In the left half", hook[0]), ("Until 60 %", scheduled[-1][0]))):
        top = 700 + 660 * k
        properties = {"cond_NEW": words, "set_cond_area": "default", "mask": region[-1][0], "hooks": hooks}
        hooked = graph.add("ConditioningSetProperties", (1260, top), title, **properties)
        both = {"cond": hooked[0], "cond_DEFAULT": words}
        combined = graph.add("ConditioningSetDefaultCombine", (1260, top + 210), "Elsewhere: no hook", **both)
        rows[title] = {"model": world[0], "positive": combined[0]}
    rows_to_compare(graph, 1680, rows, inputs, world[2])
    graph.group("1. A mask as a hook", [world, mask, hook])
    graph.group("2. Where", region)
    graph.group("3. When", scheduled)
    return graph
