"""The example workflows, described once; tools/build_examples.py writes the files.

Tests check that the files in workflows/ are what is described here, and run them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import workflow_notes
from workflow_graph import Graph
from workflow_hooks import compose_with_hooks
from workflow_inspect import inspect_and_compare
from workflow_pieces import MASKS, SD15, TOY, encoded, enlarged, prompt, samples, without_and_with

FOLDER = Path(__file__).absolute().parent.parent / "workflows"


def find_a_concept() -> Graph:
    """Toy world -> find -> save -> apply -> pictures without and with the concept."""
    graph = Graph("find-a-concept")
    graph.note((0, 0), (340, 440), "Find a concept", workflow_notes.FIND)
    world = graph.add("ConesToyWorld", (0, 540), (340, 90))
    subject = graph.add("ConesToySubject", (0, 700), (340, 290), subject="sks", pictures=28, seed=0, beside=24)
    shown = enlarged(graph, (0, 1060), subject[0])
    pictures = graph.add("PreviewImage", (0, 1210), (340, 330), "Pictures of the subject", images=shown)
    latents = graph.add("VAEEncode", (420, 540), (340, 50), pixels=subject[0], vae=world[2])
    captions = encoded(
        graph, (420, 660), "A caption per picture", world[1], subject[5], concepts=subject[6], prompt_per_line=True
    )
    found = graph.add(
        "ConesFindConceptNeurons", (840, 0), (420, 590), model=world[0], subject_latents=latents[0],
        subject_conditioning=captions, identifier=subject[3], class_word=subject[4],
    )  # fmt: skip
    curve = graph.add("PreviewImage", (840, 660), (420, 340), "Curve", images=found[1])
    report = graph.add("PreviewAny", (840, 1070), (420, 470), "Report", source=found[2])
    name = {"name": MASKS[0], "if_exists": "overwrite"}
    saved = graph.add("ConesSaveConceptMask", (1340, 540), (340, 150), concept_mask=found[0], **name)
    applied = graph.add("ConesApplyConceptMasks", (1340, 760), (340, 780), model=world[0], mask_1=saved[0])
    graph.note((1340, 0), (340, 440), "Sample with it", workflow_notes.FIND_SAMPLE)
    text = "a sks star on a white background"
    inputs = {
        "positive": encoded(graph, (1760, 0), "What to draw", world[1], text, mask_1=saved[0]),
        "negative": prompt(graph, (1760, 420), "Negative (empty)", world[1], ""),
        "latent_image": graph.add("EmptyLatentImage", (1760, 600), (340, 110), width=64, height=64, batch_size=4)[0],
    }
    without_and_with(graph, 2180, (world[0], applied[0]), inputs, world[2], what="the concept", **TOY)
    graph.group("1. A model, and a subject it does not know", [world, subject, pictures, latents])
    graph.group("2. Find, and read the report", [found, curve, report])
    graph.group("3. Keep it, use it", [saved, applied])
    return graph


def compose_two_concepts() -> Graph:
    """Two saved concepts in one picture, each at its own tokens."""
    graph = Graph("compose-two-concepts")
    graph.note((0, 0), (340, 420), "Compose two concepts", workflow_notes.COMPOSE)
    world = graph.add("ConesToyWorld", (0, 520), (340, 90))
    first, second = (
        graph.add("ConesLoadConceptMask", (0, 680 + 190 * k), (340, 110), mask_name=f"{name}.safetensors")
        for k, name in enumerate(MASKS[:2])
    )
    both = graph.add(
        "ConesApplyConceptMasks", (420, 600), (340, 780), model=world[0], mask_1=first[0], mask_2=second[0]
    )
    text = "a sks star on the left and a zwx heart on the right on a white background"
    inputs = {
        "positive": encoded(graph, (420, 0), "What to draw", world[1], text, mask_1=first[0], mask_2=second[0]),
        "negative": prompt(graph, (840, 0), "Negative (empty)", world[1], ""),
        "latent_image": graph.add("EmptyLatentImage", (840, 180), (340, 110), width=64, height=64, batch_size=4)[0],
    }
    without_and_with(graph, 1260, (world[0], both[0]), inputs, world[2], what="the concepts", **TOY)
    graph.group("A model, two concepts", [world, first, second, both])
    return graph


def compare_where_masks_act() -> Graph:
    """One prompt with a second thing, one seed: without a mask, at own tokens, everywhere."""
    graph = Graph("compare-where-masks-act")
    graph.note((0, 0), (340, 480), "Own tokens or everywhere", workflow_notes.COMPARE)
    world = graph.add("ConesToyWorld", (0, 580), (340, 90))
    own, everywhere = (
        graph.add("ConesLoadConceptMask", (0, 740 + 190 * k), (340, 110), mask_name=f"{MASKS[n]}.safetensors")
        for k, n in enumerate((0, 2))
    )
    models = [world[0]] + [
        graph.add("ConesApplyConceptMasks", (420, 600 + 860 * k), (340, 780), word, model=world[0], mask_1=one[0])[0]
        for k, (one, word) in enumerate(((own, "At own tokens"), (everywhere, "Everywhere")))
    ]
    text = "a sks star on the left and a blue plain circle on the right on a white background"
    inputs = {
        "positive": encoded(graph, (420, 0), "What to draw", world[1], text, mask_1=own[0]),
        "negative": prompt(graph, (840, 0), "Negative (empty)", world[1], ""),
        "latent_image": graph.add("EmptyLatentImage", (840, 180), (340, 110), width=64, height=64, batch_size=4)[0],
    }
    for k, (model, title) in enumerate(zip(models, ("Without a mask", "At own tokens", "Everywhere"), strict=True)):
        top = 660 * k
        pictures = samples(graph, (1260, top), model, inputs, world[2], title=title, **TOY)
        pictures = enlarged(graph, (1260, top + 440), pictures)
        kind, show = ("SaveImage", {"filename_prefix": f"cones/{graph.name}"}) if k else ("PreviewImage", {})
        graph.add(kind, (1620, top), (560, 600), title, images=pictures, **show)
    graph.group("One concept, found twice", [world, own, everywhere])
    return graph


def tune_two_concepts() -> Graph:
    """Two saved masks, some joint steps on them, and both in one picture before and after."""
    graph = Graph("tune-two-concepts")
    graph.note((0, 0), (340, 580), "Tune two concepts together", workflow_notes.TUNE)
    graph.note((420, 0), (760, 580), "With your own pictures", workflow_notes.TUNE_OWN)
    world = graph.add("ConesToyWorld", (0, 740), (340, 90))
    subjects = [
        graph.add("ConesToySubject", (0, 900 + 360 * k), (340, 290), subject=name, pictures=5, seed=0, beside=0)
        for k, name in enumerate(("sks", "zwx"))
    ]
    masks = [
        graph.add("ConesLoadConceptMask", (0, 1620 + 180 * k), (340, 110), mask_name=f"{name}.safetensors")
        for k, name in enumerate(MASKS[:2])
    ]
    latents, prompts = [], []
    for k, (subject, mask) in enumerate(zip(subjects, masks, strict=True)):
        top = 740 + 550 * k
        latents.append(graph.add("VAEEncode", (420, top), (340, 50), pixels=subject[0], vae=world[2]))
        words = {"text": subject[5], "mask_1": mask[0], "prompt_per_line": True}
        prompts.append(encoded(graph, (420, top + 120), f"What pictures {k + 1} show", world[1], **words))
    laid = graph.add(
        "ConesLayPictures", (840, 740), (340, 300), images_1=subjects[0][0], phrase_1=subjects[0][1],
        images_2=subjects[1][0], phrase_2=subjects[1][1],
    )  # fmt: skip
    beside = graph.add("VAEEncode", (840, 1110), (340, 50), pixels=laid[0], vae=world[2])
    both = {"mask_1": masks[0][0], "mask_2": masks[1][0]}
    captions = encoded(graph, (840, 1230), "A caption per picture", world[1], laid[1], prompt_per_line=True, **both)
    shown = enlarged(graph, (840, 1660), laid[0])
    pictures = graph.add("PreviewImage", (840, 1810), (340, 330), "Pictures of both", images=shown)
    given = {f"latents_{k + 1}": one[0] for k, one in enumerate(latents)}
    given |= {f"conditioning_{k + 1}": one for k, one in enumerate(prompts)}
    tuned = graph.add(
        "ConesTuneConceptMasks", (1280, 740), (420, 800), model=world[0], **both, **given,
        together_latents=beside[0], together_conditioning=captions,
    )  # fmt: skip
    report = graph.add("PreviewAny", (1280, 1610), (420, 330), "Report", source=tuned[4])
    sets = {"Masks as loaded": both, "Masks after tuning": {"mask_1": tuned[0], "mask_2": tuned[1]}}
    applied = [
        graph.add("ConesApplyConceptMasks", (1780 + 420 * k, 740), (340, 780), title, model=world[0], **two)
        for k, (title, two) in enumerate(sets.items())
    ]
    text = "a sks star on the left and a zwx heart on the right on a white background"
    inputs = {
        "positive": encoded(graph, (1780, 0), "What to draw", world[1], text, **both),
        "negative": prompt(graph, (2200, 0), "Negative (empty)", world[1], ""),
        "latent_image": graph.add("EmptyLatentImage", (2200, 180), (340, 110), width=64, height=64, batch_size=4)[0],
    }
    without_and_with(graph, 2620, (applied[0][0], applied[1][0]), inputs, world[2], what="tuning", **TOY)
    graph.group("1. A model, two subjects, their masks", [world, *subjects, *masks])
    graph.group("2. Pictures of each, and of both side by side", [*latents, laid, pictures])
    graph.group("3. Tune, and read the report", [tuned, report])
    graph.group("4. Use the masks", applied)
    return graph


def find_a_concept_sd15() -> Graph:
    """The same as find_a_concept for a Stable Diffusion 1.5 checkpoint and the user's own pictures."""
    graph = Graph("find-a-concept-sd15")
    graph.note((0, 0), (340, 520), "Your own subject", workflow_notes.SD15)
    model = graph.add("CheckpointLoaderSimple", (0, 620), (340, 100), ckpt_name="v1-5-pruned-emaonly-fp16.safetensors")
    names = [f"my-subject-{k}.png" for k in range(1, 5)]
    places = [(0, 790), (0, 1180), (380, 790), (380, 1180)]
    loaded = [graph.add("LoadImage", at, (340, 330), image=name) for at, name in zip(places, names, strict=True)]
    grown = {f"images.image{k}": one[0] for k, one in enumerate(loaded)}
    batch = graph.add("BatchImagesNode", (380, 180), (340, 140), **grown)
    size = {"upscale_method": "lanczos", "width": 512, "height": 512, "crop": "center"}
    pictures = graph.add("ImageScale", (380, 390), (340, 140), image=batch[0], **size)
    latents = graph.add("VAEEncode", (800, 390), (340, 50), pixels=pictures[0], vae=model[2])
    text = "a photo of a sks dog"
    ours = encoded(graph, (800, 0), "What your pictures show", model[1], text, concepts="sks dog")
    found = graph.add(
        "ConesFindConceptNeurons", (800, 560), (420, 590), model=model[0], subject_latents=latents[0],
        subject_conditioning=ours, identifier="sks", class_word="dog", batch=4,
    )  # fmt: skip
    curve = graph.add("PreviewImage", (800, 1220), (420, 320), "Curve", images=found[1])
    graph.add("PreviewAny", (1300, 0), (340, 440), "Report", source=found[2])
    kept = {"concept_mask": found[0], "name": "sks dog", "cover": pictures[0]}
    saved = graph.add("ConesSaveConceptMask", (1300, 560), (340, 150), **kept)
    applied = graph.add("ConesApplyConceptMasks", (1300, 780), (340, 780), model=model[0], mask_1=saved[0])
    text = "a photo of a sks dog on a beach"
    inputs = {
        "positive": encoded(graph, (1720, 0), "What to draw", model[1], text, mask_1=saved[0]),
        "negative": prompt(graph, (1720, 420), "Negative", model[1], "blurry, deformed"),
        "latent_image": graph.add("EmptyLatentImage", (1720, 600), (340, 110), width=512, height=512, batch_size=1)[0],
    }
    without_and_with(graph, 2140, (model[0], applied[0]), inputs, model[2], what="the concept", **SD15)
    graph.group("1. A checkpoint, and 4 or 5 pictures of one subject", [model, *loaded])
    graph.group("2. Find", [found, curve])
    graph.group("3. Keep it, use it", [saved, applied])
    return graph


WITH_MASKS: tuple[Callable[[], Graph], ...] = (
    *(compose_two_concepts, compare_where_masks_act, tune_two_concepts),
    *(inspect_and_compare, compose_with_hooks),
)
WORKFLOWS: tuple[Callable[[], Graph], ...] = (find_a_concept, *WITH_MASKS, find_a_concept_sd15)


def files(object_info: dict[str, Any]) -> dict[Path, str]:
    """Path -> text of every workflow file."""
    graphs = [make() for make in WORKFLOWS]
    texts = {graph.name: json.dumps(graph.workflow(object_info), indent=1, ensure_ascii=False) for graph in graphs}
    return {FOLDER / f"{name}.json": text + "\n" for name, text in texts.items()}
