"""The example workflows, described once; tools/build_examples.py writes the files.

Tests check that the files in workflows/ are what is described here, and run them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_graph import Graph
from workflow_hooks import compose_with_hooks
from workflow_pictures import image_to_image, swap_a_thing
from workflow_pieces import (
    MASKS,
    SD15,
    empty_latents,
    encoded,
    enlarged,
    load_masks,
    rows_to_compare,
    sampler_inputs,
    samples,
)

FOLDER = Path(__file__).absolute().parent.parent / "workflows"


def prompt_with_concepts() -> Graph:
    """The pack in one node: saved concepts named in the prompt."""
    graph = Graph("prompt-with-concepts")
    graph.note((0, 0), (420, 460), "Prompt with concepts")
    world = graph.add("ConesToyWorld", (0, 560))
    text = f"a <concept:{MASKS[0]}> on a white background"
    prompts = graph.add("ConesPromptWithConcepts", (460, 0), model=world[0], clip=world[1], text=text)
    inputs = {"model": prompts[0], "positive": prompts[1], "negative": prompts[2]}
    inputs["latent_image"] = empty_latents(graph, (460, 480), 4)
    pictures = enlarged(graph, (880, 440), samples(graph, (880, 0), "", inputs, world[2]))
    graph.add("SaveImage", (1240, 0), size=(500, 560), images=pictures, filename_prefix=f"cones/{graph.name}")
    return graph


def teach_a_concept() -> Graph:
    """Pictures -> a saved concept, and what it draws, in one node."""
    graph = Graph("teach-a-concept")
    graph.note((0, 0), (340, 340), "Teach a concept")
    world = graph.add("ConesToyWorld", (0, 440))
    subject = graph.add("ConesToySubject", (0, 600), subject="hta", pictures=5, seed=0, beside=0)
    graph.add(
        "ConesTeachConcept", (400, 0), size=(640, 890), model=world[0], clip=world[1], vae=world[2],
        images=subject[0], class_word=subject[4], name="my-first-concept", if_exists="overwrite",
    )  # fmt: skip
    return graph


def find_a_concept() -> Graph:
    """Toy world -> find -> save -> apply -> pictures without and with the concept."""
    graph = Graph("find-a-concept")
    graph.note((0, 0), (340, 440), "Find a concept")
    world = graph.add("ConesToyWorld", (0, 540))
    subject = graph.add("ConesToySubject", (0, 700), subject="sks", pictures=28, seed=0, beside=24)
    shown = enlarged(graph, (0, 1060), subject[0])
    pictures = graph.add("PreviewImage", (0, 1210), "Pictures of the subject", (340, 330), images=shown)
    latents = graph.add("VAEEncode", (420, 540), pixels=subject[0], vae=world[2])
    captions = encoded(
        graph, (420, 660), "A caption per picture", world[1], subject[5], concepts=subject[6], prompt_per_line=True
    )
    search = graph.add(
        "ConesFindConceptNeurons", (840, 0), model=world[0], subject_latents=latents[0],
        subject_conditioning=captions, identifier=subject[3], class_word=subject[4],
    )  # fmt: skip
    curve = graph.add("PreviewImage", (840, 660), "Curve", (420, 340), images=search[1])
    report = graph.add("PreviewAny", (840, 1070), "Report", (420, 470), source=search[2])
    saved = graph.add("ConesSaveConceptMask", (1340, 540), concept_mask=search[0], name=MASKS[0], if_exists="overwrite")
    applied = graph.add("ConesApplyConceptMasks", (1340, 760), model=world[0], mask_1=saved[0])
    graph.note((1340, 0), (340, 440), "Sample with it")
    text = "a sks star on a white background"
    positive = encoded(graph, (1760, 0), "What to draw", world[1], text, mask_1=saved[0])
    inputs = sampler_inputs(graph, (1760, 420), positive, world[1])
    rows = {"Without the concept": {"model": world[0]}, "With the concept": {"model": applied[0]}}
    rows_to_compare(graph, 2180, rows, inputs, world[2])
    graph.group("1. A model, and a subject it does not know", [world, subject, pictures, latents])
    graph.group("2. Find, and read the report", [search, curve, report])
    graph.group("3. Keep it, use it", [saved, applied])
    return graph


def compose_two_concepts() -> Graph:
    """Two saved concepts in one picture, each at its own tokens."""
    graph = Graph("compose-two-concepts")
    graph.note((0, 0), (340, 420), "Compose two concepts")
    world = graph.add("ConesToyWorld", (0, 520))
    first, second = load_masks(graph, (0, 680), *MASKS[:2])
    both = graph.add("ConesApplyConceptMasks", (420, 600), model=world[0], mask_1=first[0], mask_2=second[0])
    text = "a sks star on the left and a zwx heart on the right on a white background"
    positive = encoded(graph, (420, 0), "What to draw", world[1], text, mask_1=first[0], mask_2=second[0])
    inputs = sampler_inputs(graph, (840, 0), positive, world[1])
    rows = {"Without the concepts": {"model": world[0]}, "With the concepts": {"model": both[0]}}
    rows_to_compare(graph, 1260, rows, inputs, world[2])
    graph.group("A model, two concepts", [world, first, second, both])
    return graph


def compare_where_masks_act() -> Graph:
    """One prompt with a second thing, one seed: without a mask, at own tokens, everywhere."""
    graph = Graph("compare-where-masks-act")
    graph.note((0, 0), (340, 480), "Own tokens or everywhere")
    world = graph.add("ConesToyWorld", (0, 580))
    at_tokens, everywhere = load_masks(graph, (0, 740), MASKS[0], MASKS[2])
    rows = {"Without a mask": {"model": world[0]}}
    for k, (title, mask) in enumerate({"At own tokens": at_tokens, "Everywhere": everywhere}.items()):
        applied = graph.add("ConesApplyConceptMasks", (420, 600 + 860 * k), title, model=world[0], mask_1=mask[0])
        rows[title] = {"model": applied[0]}
    text = "a sks star on the left and a blue plain circle on the right on a white background"
    positive = encoded(graph, (420, 0), "What to draw", world[1], text, mask_1=at_tokens[0])
    inputs = sampler_inputs(graph, (840, 0), positive, world[1])
    rows_to_compare(graph, 1260, rows, inputs, world[2])
    graph.group("One concept, found twice", [world, at_tokens, everywhere])
    return graph


def tune_two_concepts() -> Graph:
    """Two saved masks, some joint steps on them, and both in one picture before and after."""
    graph = Graph("tune-two-concepts")
    graph.note((0, 0), (340, 580), "Tune two concepts together")
    graph.note((420, 0), (760, 580), "With your own pictures")
    world = graph.add("ConesToyWorld", (0, 740))
    subjects = [
        graph.add("ConesToySubject", (0, 900 + 360 * k), subject=name, pictures=5, seed=0, beside=0)
        for k, name in enumerate(("sks", "zwx"))
    ]
    masks = load_masks(graph, (0, 1620), *MASKS[:2], gap=180)
    latents, prompts = [], []
    for k, (subject, mask) in enumerate(zip(subjects, masks, strict=True)):
        top = 740 + 550 * k
        latents.append(graph.add("VAEEncode", (420, top), pixels=subject[0], vae=world[2]))
        words = {"text": subject[5], "mask_1": mask[0], "prompt_per_line": True}
        prompts.append(encoded(graph, (420, top + 120), f"What pictures {k + 1} show", world[1], **words))
    laid = graph.add(
        "ConesLayPictures", (840, 740), images_1=subjects[0][0], phrase_1=subjects[0][1],
        images_2=subjects[1][0], phrase_2=subjects[1][1],
    )  # fmt: skip
    beside = graph.add("VAEEncode", (840, 1110), pixels=laid[0], vae=world[2])
    both = {"mask_1": masks[0][0], "mask_2": masks[1][0]}
    captions = encoded(graph, (840, 1230), "A caption per picture", world[1], laid[1], prompt_per_line=True, **both)
    shown = enlarged(graph, (840, 1660), laid[0])
    pictures = graph.add("PreviewImage", (840, 1810), "Pictures of both", (340, 330), images=shown)
    inputs = {f"latents_{k + 1}": node[0] for k, node in enumerate(latents)}
    inputs |= {f"conditioning_{k + 1}": output for k, output in enumerate(prompts)}
    tuned = graph.add(
        "ConesTuneConceptMasks", (1280, 740), model=world[0], **both, **inputs,
        together_latents=beside[0], together_conditioning=captions,
    )  # fmt: skip
    report = graph.add("PreviewAny", (1280, 1610), "Report", (420, 330), source=tuned[4])
    masks_to_apply = {"Masks as loaded": both, "Masks after tuning": {"mask_1": tuned[0], "mask_2": tuned[1]}}
    applied = [
        graph.add("ConesApplyConceptMasks", (1780 + 420 * k, 740), title, model=world[0], **inputs)
        for k, (title, inputs) in enumerate(masks_to_apply.items())
    ]
    text = "a sks star on the left and a zwx heart on the right on a white background"
    positive = encoded(graph, (1780, 0), "What to draw", world[1], text, **both)
    inputs = sampler_inputs(graph, (2200, 0), positive, world[1])
    rows = {"Without tuning": {"model": applied[0][0]}, "With tuning": {"model": applied[1][0]}}
    rows_to_compare(graph, 2620, rows, inputs, world[2])
    graph.group("1. A model, two subjects, their masks", [world, *subjects, *masks])
    graph.group("2. Pictures of each, and of both side by side", [*latents, laid, pictures])
    graph.group("3. Tune, and read the report", [tuned, report])
    graph.group("4. Use the masks", applied)
    return graph


def find_a_concept_sd15() -> Graph:
    """The same as find_a_concept for a Stable Diffusion 1.5 checkpoint and the user's own pictures."""
    graph = Graph("find-a-concept-sd15")
    graph.note((0, 0), (340, 520), "Your own subject")
    model = graph.add("CheckpointLoaderSimple", (0, 620), ckpt_name="v1-5-pruned-emaonly-fp16.safetensors")
    names = [f"my-subject-{k}.png" for k in range(1, 5)]
    positions = [(0, 790), (0, 1180), (380, 790), (380, 1180)]
    loaded = [graph.add("LoadImage", xy, image=name) for xy, name in zip(positions, names, strict=True)]
    batch = graph.add("BatchImagesNode", (380, 180), **{f"images.image{k}": node[0] for k, node in enumerate(loaded)})
    size = {"upscale_method": "lanczos", "width": 512, "height": 512, "crop": "center"}
    pictures = graph.add("ImageScale", (380, 390), image=batch[0], **size)
    latents = graph.add("VAEEncode", (800, 390), pixels=pictures[0], vae=model[2])
    words = {"text": "a photo of a sks dog", "concepts": "sks dog"}
    captions = encoded(graph, (800, 0), "What your pictures show", model[1], **words)
    search = graph.add(
        "ConesFindConceptNeurons", (800, 560), model=model[0], subject_latents=latents[0],
        subject_conditioning=captions, identifier="sks", class_word="dog", batch=4,
    )  # fmt: skip
    curve = graph.add("PreviewImage", (800, 1220), "Curve", (420, 320), images=search[1])
    graph.add("PreviewAny", (1300, 0), "Report", (340, 440), source=search[2])
    saved = graph.add("ConesSaveConceptMask", (1300, 560), concept_mask=search[0], name="sks dog", cover=pictures[0])
    applied = graph.add("ConesApplyConceptMasks", (1300, 780), model=model[0], mask_1=saved[0])
    text = "a photo of a sks dog on a beach"
    positive = encoded(graph, (1720, 0), "What to draw", model[1], text, mask_1=saved[0])
    inputs = sampler_inputs(graph, (1720, 420), positive, model[1], "blurry, deformed", 512, 1)
    rows = {"Without the concept": {"model": model[0]}, "With the concept": {"model": applied[0]}}
    rows_to_compare(graph, 2140, rows, inputs, model[2], SD15)
    graph.group("1. A checkpoint, and 4 or 5 pictures of one subject", [model, *loaded])
    graph.group("2. Find", [search, curve])
    graph.group("3. Keep it, use it", [saved, applied])
    return graph


def inspect_and_compare() -> Graph:
    """Two saved masks side by side, and what each part of the first does."""
    graph = Graph("inspect-and-compare")
    graph.note((0, 0), (340, 480), "Inspect and compare")
    graph.note((900, 0), (340, 480), "What each part does")
    world = graph.add("ConesToyWorld", (0, 580))
    first, second = load_masks(graph, (0, 740), *MASKS[:2])
    graph.add("ConesInspectConceptMask", (420, 580), concept_mask=first[0])
    graph.add("ConesInspectConceptMask", (420, 1160), concept_mask=second[0])
    graph.add("ConesCompareConceptMasks", (420, 0), mask_1=first[0], mask_2=second[0])
    parts = graph.add("ConesSplitConceptMask", (900, 580), concept_mask=first[0], group_by="block")
    applied = graph.add("ConesApplyConceptMasks", (900, 840), "Once per part", model=world[0], mask_1=parts[0])
    text = "a sks star on a white background"
    positive = encoded(graph, (1320, 0), "What to draw", world[1], text, mask_1=first[0])
    inputs = sampler_inputs(graph, (1320, 420), positive, world[1], count=2)
    without = samples(graph, (1320, 800), "Without a mask", {"model": world[0], **inputs}, world[2])
    without = enlarged(graph, (1700, 800), without)
    graph.add("PreviewImage", (1320, 1260), "Without a mask", (340, 320), images=without)
    each = samples(graph, (1740, 0), "With each part", {"model": applied[0], **inputs}, world[2])
    grid = graph.add("ConesLabelPictures", (1740, 440), images=each, labels=parts[1], side=288)
    prefix = f"cones/{graph.name}"
    graph.add("SaveImage", (2120, 0), "What each part does", (760, 780), images=grid[0], filename_prefix=prefix)
    graph.group("1. A model, two concepts", [world, first, second])
    graph.group("3. One mask in parts", [parts, applied])
    return graph


WITH_MASKS: tuple[Callable[[], Graph], ...] = (
    *(prompt_with_concepts, compose_two_concepts, compare_where_masks_act, tune_two_concepts, teach_a_concept),
    *(inspect_and_compare, compose_with_hooks, image_to_image, swap_a_thing),
)
WORKFLOWS: tuple[Callable[[], Graph], ...] = (find_a_concept, *WITH_MASKS, find_a_concept_sd15)


def files(object_info: dict[str, Any]) -> dict[Path, str]:
    """Path -> text of every workflow file."""
    graphs = [make() for make in WORKFLOWS]
    texts = {graph.name: json.dumps(graph.workflow(object_info), indent=1, ensure_ascii=False) for graph in graphs}
    return {FOLDER / f"{name}.json": text + "\n" for name, text in texts.items()}
