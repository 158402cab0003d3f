"""The prompts of soak.py: prompt `number` depends on the seed and the number alone.

Each is small: the toy world, one picture of 96x96 in two or three steps, searches and tuning of two steps.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cones_ops.laboratory.comfyui.prompts import node, toy_picture
from cones_ops.laboratory.comfyui.workflow import Prompt

LORA = "soak.safetensors"
OWN = ("toy-sks-cat", "toy-zwx-robot", "toy-qpd-rocket", "toy-vbn-mushroom")
EVERYWHERE = ("toy-sks-cat-everywhere",)
TEXTS = (
    "a sks cat in the snow",
    "a zwx robot and a sks cat",
    "a qpd rocket to the left of a blue mug",
    "two sks cats at night",
    "a red house",
)
SUBJECTS = {"sks": "cat", "zwx": "robot", "mfj": "fish"}
SAMPLERS = ("euler", "dpmpp_2m", "euler_ancestral", "uni_pc")
SEARCHES = 8
DISTINCT = 150
STRENGTHS = (0.0, 0.35, 0.8, 1.0)
Answer = Literal["success", "refused", "error"]


@dataclass(frozen=True)
class Case:
    """A prompt and the answer that is right. `saved`: the node that shows the name of a saved file, and its folder."""

    kind: str
    prompt: Prompt
    answer: Answer = "success"
    saved: tuple[str, str] | None = None


def case(seed: int, number: int) -> Case:
    """One prompt of the run, one of DISTINCT: each is queued a few times, beside other prompts and faults."""
    generator = random.Random(f"{seed} {random.Random(f'{seed} {number}').randrange(DISTINCT)}")
    kinds = {pictures: 66, hooked: 8, search: 7, tuning: 2, export: 4, combined: 6, broken: 3, unknown: 4}
    make: Callable[[random.Random], Case] = generator.choices(list(kinds), list(kinds.values()))[0]
    return make(generator)


def loaded(names: list[str]) -> Prompt:
    """Loaders of masks, "mask 1", "mask 2", ..."""
    return {
        f"mask {k}": node("ConesLoadConceptMask", mask_name=f"{name}.safetensors") for k, name in enumerate(names, 1)
    }


def sampling(generator: random.Random) -> dict[str, Any]:
    """Seed, steps, guidance and sampler."""
    steps, cfg = generator.choice((2, 3)), generator.choice((1.0, 3.0))
    return {
        "seed": generator.randrange(10**6),
        "steps": steps,
        "cfg": cfg,
        "sampler_name": generator.choice(SAMPLERS),
    }


def pictures(generator: random.Random) -> Case:
    """A picture with up to four masks, each at its strength, on or off, beside a LoRA or not."""
    names = generator.sample([*OWN, *EVERYWHERE], generator.randrange(5))
    inputs: dict[str, Any] = {"where": generator.choice(("as found", "as found", "own tokens", "everywhere"))}
    for k in range(1, len(names) + 1):
        strength = generator.choice((*STRENGTHS, round(generator.random(), 3)))
        inputs |= {f"mask_{k}": [f"mask {k}", 0], f"strength_{k}": strength, f"enabled_{k}": generator.random() < 0.85}
    text = generator.choice(TEXTS)
    sockets = {name: value for name, value in inputs.items() if name.startswith("mask_")}
    encoded = node("ConesEncodePrompt", clip=["world", 1], text=text, **sockets) if generator.random() < 0.7 else None
    before, after = generator.choice(((False, False), (False, False), (True, False), (False, True)))
    prompt = toy_picture(["lora" if after else "apply", 0], text, encoded, **sampling(generator)) | loaded(names)
    prompt["apply"] = node("ConesApplyConceptMasks", model=["lora" if before else "world", 0], **inputs)
    if before or after:
        source = ["world" if before else "apply", 0]
        strength = generator.choice((0.3, 0.5, 1.0))
        prompt["lora"] = node("LoraLoaderModelOnly", model=source, lora_name=LORA, strength_model=strength)
    return Case("picture", prompt)


def hooked(generator: random.Random) -> Case:
    """A picture with a mask as a hook on its prompt, sometimes until a part of the sampling only."""
    prompt = toy_picture(["world", 0], generator.choice(TEXTS), **sampling(generator))
    prompt |= loaded([generator.choice(EVERYWHERE)])
    prompt["hook"] = node("ConesConceptMaskHook", mask=["mask 1", 0], strength=generator.choice(STRENGTHS))
    hook = "hook"
    if generator.random() < 0.5:
        prompt["begin"] = node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0)
        prompt["end"] = node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.5, prev_hook_kf=["begin", 0])
        prompt["keyframes"] = node("SetHookKeyframes", hooks=["hook", 0], hook_kf=["end", 0])
        hook = "keyframes"
    prompt["hooked"] = node(
        "ConditioningSetProperties", cond_NEW=["text", 0], hooks=[hook, 0], strength=1.0, set_cond_area="default"
    )
    prompt["sampler"]["inputs"]["positive"] = ["hooked", 0]
    return Case("hook", prompt)


def subject_of(identifier: str, k: int, seed: int) -> Prompt:
    """Two pictures of a toy subject as latents, and its prompt, which names it."""
    concept = f"{identifier} {SUBJECTS[identifier]}"
    return {
        f"subject {k}": node("ConesToySubject", subject=identifier, pictures=2, seed=seed),
        f"latents {k}": node("VAEEncode", pixels=[f"subject {k}", 0], vae=["world", 2]),
        f"caption {k}": node("ConesEncodePrompt", clip=["world", 1], text=[f"subject {k}", 1], concepts=concept),
        f"class {k}": node("CLIPTextEncode", clip=["world", 1], text=[f"subject {k}", 2]),
    }


def search(generator: random.Random) -> Case:
    """A search of two steps whose mask is saved: one of SEARCHES, because choosing a density takes most of the time."""
    choice = random.Random(generator.randrange(SEARCHES))
    identifier, where = choice.choice(list(SUBJECTS)), choice.choice(("own tokens", "everywhere"))
    settings = {"method": choice.choice(("learned", "cones", "taylor")), "steps": 2, "seed": choice.randrange(10)}
    prompt = {"world": node("ConesToyWorld")} | subject_of(identifier, 1, choice.randrange(10))
    prompt["find"] = node(
        "ConesFindConceptNeurons", model=["world", 0], subject_latents=["latents 1", 0],
        subject_conditioning=["caption 1", 0], class_conditioning=["class 1", 0], identifier=identifier,
        class_word=SUBJECTS[identifier], targets="text K+V", density=0.01, batch=4, prior_weight=1.0,
        where=where, **settings,
    )  # fmt: skip
    name = choice.choice(("soak", "soak too", "people/soak"))
    prompt["save"] = node("ConesSaveConceptMask", concept_mask=["find", 0], name=name, if_exists="keep both")
    prompt["name"] = node("PreviewAny", source=["save", 1])
    return Case("search", prompt, saved=("name", "concept_masks"))


def tuning(generator: random.Random) -> Case:
    """Two joint steps of two masks, and a picture with both."""
    prompt = toy_picture(["apply", 0], TEXTS[1], **sampling(generator)) | loaded(list(OWN[:2]))
    inputs: dict[str, Any] = {}
    for k, identifier in enumerate(("sks", "zwx"), 1):
        prompt |= subject_of(identifier, k, 0)
        inputs |= {f"mask_{k}": [f"mask {k}", 0], f"latents_{k}": [f"latents {k}", 0]}
        inputs[f"conditioning_{k}"] = [f"caption {k}", 0]
    settings = {"steps": 2, "batch": 2, "prior_weight": 1.0, "seed": generator.randrange(2)}
    prompt["tune"] = node("ConesTuneConceptMasks", model=["world", 0], **inputs, **settings)
    sockets = {"mask_1": ["tune", 0], "mask_2": ["tune", 1]}
    prompt["text"] = node("ConesEncodePrompt", clip=["world", 1], text=TEXTS[1], **sockets)
    prompt["apply"] = node("ConesApplyConceptMasks", model=["world", 0], **sockets)
    return Case("tuning", prompt)


def export(generator: random.Random) -> Case:
    """A mask as a LoRA file."""
    prompt = {"world": node("ConesToyWorld")} | loaded([generator.choice(EVERYWHERE)])
    name = f"exported-{generator.randrange(10**9)}"  # else the host answers from its cache, with another prompt's file
    prompt["export"] = node(
        "ConesExportAsLora", model=["world", 0], concept_mask=["mask 1", 0], name=name, if_exists="keep both"
    )
    prompt["name"] = node("PreviewAny", source=["export", 0])
    return Case("export", prompt, saved=("name", "loras"))


def combined(generator: random.Random) -> Case:
    """A picture with the union, intersection or difference of two masks."""
    prompt = toy_picture(["apply", 0], TEXTS[1], **sampling(generator)) | loaded(list(OWN[:2]))
    operation = generator.choice(("union", "intersection", "difference"))
    prompt["both"] = node("ConesCombineConceptMasks", operation=operation, mask_1=["mask 1", 0], mask_2=["mask 2", 0])
    strength = generator.choice(STRENGTHS)
    prompt["apply"] = node("ConesApplyConceptMasks", model=["world", 0], mask_1=["both", 0], strength_1=strength)
    return Case("combined", prompt)


def broken(generator: random.Random) -> Case:
    """A search on pictures of 1e22, whose loss is not finite: it fails in its first step, with the model borrowed."""
    prompt, latents = search(generator).prompt, "latents 1"
    for k in range(22):
        prompt[f"far {k}"] = node("LatentMultiply", samples=[latents, 0], multiplier=10.0)
        latents = f"far {k}"
    prompt["find"]["inputs"]["subject_latents"] = [latents, 0]
    return Case("broken", prompt, "error")


def unknown(generator: random.Random) -> Case:
    """A mask that is not there, or a name that leads out of the folder: refused before the prompt runs."""
    prompt = pictures(generator).prompt | loaded(["not there"])
    prompt["apply"]["inputs"]["mask_1"] = ["mask 1", 0]
    if generator.random() < 0.5:
        prompt = search(generator).prompt
        prompt["save"]["inputs"]["name"] = "../../outside"
    return Case("unknown", prompt, "refused")
