"""What the pack promises, on a real ComfyUI server: pictures compared bit for bit, masks, LoRA, Cancel, error messages.

One small prompt is used throughout: the toy world, one picture of 96x96, two steps.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask
from cones_concept_neurons.cones_ops.masks.mask_file import load_mask, save_mask
from safetensors.torch import save_file
from support.prompts import node, toy_picture
from support.server import events, failed

from cones_ops.laboratory.comfyui.server import PromptRefusedError

WORLD, TEXT, DECODE, SHOW = "world", "text", "decode", "show"
WORDS = {"identifier": "sks", "class_word": "cat"}
QUICK = {"method": "cones", "targets": "text K+V", "density": 0.01, "steps": 2, "batch": 32, "prior_weight": 1.0}
QUICK |= {"where": "everywhere"}


def text_to_picture(model: list[Any] | None = None, seed: int = 3) -> dict[str, dict[str, Any]]:
    """A prompt that samples one picture with `model` (an output), by default the toy world's own."""
    return toy_picture(model or [WORLD, 0], seed=seed)


def applying(*masks: tuple[str, float], model: list[Any] | None = None, **options: Any) -> dict[str, dict[str, Any]]:
    """Nodes that load masks by name and apply them, each at its strength; the output is ["apply", 0]."""
    nodes: dict[str, Any] = {}
    inputs: dict[str, Any] = dict(options)
    for k, (name, strength) in enumerate(masks, 1):
        nodes[f"mask {k}"] = node("ConesLoadConceptMask", mask_name=f"{name}.safetensors")
        inputs |= {f"mask_{k}": [f"mask {k}", 0], f"strength_{k}": strength}
    nodes["apply"] = node("ConesApplyConceptMasks", model=model or [WORLD, 0], **inputs)
    return nodes


def finding(**settings: Any) -> dict[str, dict[str, Any]]:
    """A search on the toy world, its report shown by node "report"."""
    return {
        WORLD: node("ConesToyWorld"),
        "subject": node("ConesToySubject", subject="sks", pictures=2, seed=0),
        "latents": node("VAEEncode", pixels=["subject", 0], vae=[WORLD, 2]),
        "ours": node("CLIPTextEncode", clip=[WORLD, 1], text=["subject", 1]),
        "theirs": node("CLIPTextEncode", clip=[WORLD, 1], text=["subject", 2]),
        "find": node(
            "ConesFindConceptNeurons", model=[WORLD, 0], subject_latents=["latents", 0],
            subject_conditioning=["ours", 0], class_conditioning=["theirs", 0],
            **{**WORDS, **QUICK, "seed": 1, **settings},
        ),
        "report": node("PreviewAny", source=["find", 2]),
    }  # fmt: skip


def found_and_saved(name: str) -> dict[str, dict[str, Any]]:
    save = node("ConesSaveConceptMask", concept_mask=["find", 0], name=name, if_exists="overwrite")
    return {**finding(), "save": save}


@pytest.fixture(scope="module")
def masks(server: Any) -> list[str]:
    """Three masks of the toy world in models/concept_masks: one found here, two random ones that overlap with it."""
    assert "found.safetensors" in server.run(found_and_saved("found")).text("save")
    folder = server.base / "models" / "concept_masks"
    found = load_mask(folder / "found.safetensors")
    generator = torch.Generator().manual_seed(5)
    for name in ("random-1", "random-2"):
        index = {}
        for parameter, own in found.index.items():
            entries = int(np.prod(found.shapes[parameter]))
            other = torch.randint(entries, (entries // 20,), generator=generator)
            index[parameter] = torch.unique(torch.cat([own[: len(own) // 2], other]))
        mask = ConceptMask(index, found.shapes, name, "cat", found.where, found.fingerprint)
        save_mask(mask, folder / f"{name}.safetensors", "overwrite")
    return ["found", "random-1", "random-2"]


@pytest.fixture(scope="module")
def vanilla(server: Any) -> np.ndarray:
    return server.run(text_to_picture()).image(SHOW)


@pytest.fixture(scope="module")
def lora(server: Any, masks: list[str]) -> str:
    """A random LoRA on the toy world's cross-attention keys and values."""
    shapes = load_mask(server.base / "models" / "concept_masks" / "found.safetensors").shapes
    generator, tensors = torch.Generator().manual_seed(9), {}
    for name, (rows, columns) in shapes.items():
        key = "diffusion_model." + name.removesuffix(".weight")
        tensors[f"{key}.lora_up.weight"] = torch.randn(rows, 4, generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, columns, generator=generator) / columns**0.5
    save_file(tensors, server.base / "models" / "loras" / "random.safetensors")
    return "random.safetensors"


def with_lora(lora: str, model: list[Any]) -> dict[str, dict[str, Any]]:
    return {"lora": node("LoraLoaderModelOnly", model=model, lora_name=lora, strength_model=0.5)}


def test_every_node_is_registered(server):
    ours = {name for name in server.object_info() if name.startswith("Cones")}
    assert ours == {
        "ConesApplyConceptMasks", "ConesCombineConceptMasks", "ConesFindConceptNeurons", "ConesLoadConceptMask",
        "ConesSaveConceptMask", "ConesToySubject", "ConesToyWorld", "ConesEncodePrompt", "ConesTuneConceptMasks",
        "ConesLayPictures", "ConesInspectConceptMask", "ConesCompareConceptMasks", "ConesSplitConceptMask",
        "ConesLabelPictures", "ConesExportAsLora", "ConesConceptMaskHook", "ConesPromptWithConcepts", "ConesKeepApart",
        "ConesSeeConcepts", "ConesTeachConcept",
    }  # fmt: skip
    assert not [line for line in server.log().splitlines() if "IMPORT FAILED" in line and "cones" in line]


def test_a_mask_changes_the_picture(server, masks, vanilla):
    for name in masks:
        run = server.run(text_to_picture(["apply", 0]) | applying((name, 1.0)))
        assert not np.array_equal(run.image(SHOW), vanilla)


def test_strength_0_and_no_masks_give_the_vanilla_picture(server, masks, vanilla):
    for nodes in (applying(*((name, 0.0) for name in masks)), applying(), applying((masks[0], 1.0), enabled_1=False)):
        assert np.array_equal(server.run(text_to_picture(["apply", 0]) | nodes).image(SHOW), vanilla)


def test_removing_the_node_gives_the_vanilla_picture(server, masks, vanilla):
    server.run(text_to_picture(["apply", 0]) | applying((masks[0], 1.0)))
    again = server.run(text_to_picture() | {SHOW: node("PreviewImage", images=[DECODE, 0])})
    assert np.array_equal(again.image(SHOW), vanilla)


def test_masks_in_any_order_give_the_same_picture(server, masks):
    strengths = dict(zip(masks, (1.0, 0.35, 0.8), strict=True))
    orders = list(itertools.permutations(strengths.items()))
    pictures = [server.run(text_to_picture(["apply", 0]) | applying(*order)).image(SHOW) for order in orders]
    chain = applying(*orders[3][:2])
    chain["second"] = node("ConesLoadConceptMask", mask_name=f"{orders[3][2][0]}.safetensors")
    chain["chained"] = node(
        "ConesApplyConceptMasks", model=["apply", 0], mask_1=["second", 0], strength_1=orders[3][2][1]
    )
    pictures.append(server.run(text_to_picture(["chained", 0]) | chain).image(SHOW))
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures[1:])


def test_a_lora_before_or_after_still_works(server, masks, lora, vanilla):
    alone = server.run(text_to_picture(["lora", 0]) | with_lora(lora, [WORLD, 0])).image(SHOW)
    mask = server.run(text_to_picture(["apply", 0]) | applying((masks[0], 1.0))).image(SHOW)
    before = text_to_picture(["apply", 0]) | with_lora(lora, [WORLD, 0]) | applying((masks[0], 1.0), model=["lora", 0])
    after = text_to_picture(["lora", 0]) | applying((masks[0], 1.0)) | with_lora(lora, ["apply", 0])
    both = [server.run(prompt).image(SHOW) for prompt in (before, after)]
    for picture in both:
        assert not any(np.array_equal(picture, other) for other in (alone, mask, vanilla))
    off = text_to_picture(["apply", 0]) | with_lora(lora, [WORLD, 0]) | applying((masks[0], 0.0), model=["lora", 0])
    assert np.array_equal(server.run(off).image(SHOW), alone)


def cancelled_search(server: Any) -> None:
    """Start a long search, press Cancel when it has begun, expect it to stop within seconds."""
    with events(server) as messages:
        prompt_id = server.queue(finding(steps=5000, seed=99))
        for kind, data in messages:
            if kind == "progress" and data.get("node") == "find" and data["value"] > 0:
                break
        server.request("/interrupt", {})
        run = server.wait(prompt_id, timeout=30)
    assert run.status == "interrupted" and run.node_id == "find"


def failed_search(server: Any) -> None:
    """A search whose loss is not finite: it fails in its first step, with the model borrowed."""
    prompt, latents = finding(seed=98), "latents"
    for k in range(22):  # pictures of 1e22: their square is beyond fp32
        prompt[f"far {k}"] = node("LatentMultiply", samples=[latents, 0], multiplier=10.0)
        latents = f"far {k}"
    prompt["find"]["inputs"]["subject_latents"] = [latents, 0]
    run = failed(server, prompt)
    assert run.node_id == "find" and "the loss is" in run.error


def test_vanilla_after_every_kind_of_search_is_that_of_a_fresh_server(server, start_server, tmp_path):
    with start_server(tmp_path) as fresh:
        expected = fresh.run(text_to_picture(seed=4)).image(SHOW)
    searches = (lambda server: server.run(finding(seed=97)), failed_search, cancelled_search)
    for k, search in enumerate(searches):
        search(server)
        prompt = text_to_picture(seed=4)
        prompt[TEXT]["inputs"]["text"] += " " * k  # sampled again, not taken from the cache
        assert np.array_equal(server.run(prompt).image(SHOW), expected)


def test_a_search_shows_its_curve_and_report_and_repeats(server, masks):
    run = server.run(finding())
    assert all(run.text(shown).startswith("NOT FOUND") for shown in ("report", "find"))  # after so few steps
    assert run.image("find").std() > 0
    server.request("/free", {"unload_models": True, "free_memory": True})
    server.run(found_and_saved("again"))
    folder = server.base / "models" / "concept_masks"
    first, second = load_mask(folder / "found.safetensors"), load_mask(folder / "again.safetensors")
    assert first.names == second.names
    assert all(torch.equal(first.index[name], second.index[name]) for name in first.names)


class TestBadInput:
    """Every mistake is answered with what is wrong and what to do."""

    def error(self, server: Any, prompt: dict[str, Any]) -> str:
        return str(failed(server, prompt).error)

    def test_a_missing_file_is_refused_before_the_prompt_runs(self, server):
        with pytest.raises(PromptRefusedError, match="no such"):
            server.queue(text_to_picture(["apply", 0]) | applying(("no such", 1.0)))

    def test_a_file_that_is_no_concept_mask_is_refused_by_name(self, server, masks, lora):
        folder = server.base / "models" / "concept_masks"
        (folder / "a lora.safetensors").write_bytes((server.base / "models" / "loras" / lora).read_bytes())
        with pytest.raises(PromptRefusedError, match="concept mask"):
            server.queue(text_to_picture(["apply", 0]) | applying(("a lora", 1.0)))

    def test_another_architecture(self, server, masks, sd15_checkpoint):
        prompt = applying((masks[0], 1.0), model=["checkpoint", 0])
        prompt["checkpoint"] = node("CheckpointLoaderSimple", ckpt_name=sd15_checkpoint)
        prompt |= text_to_picture(["apply", 0])
        assert "architecture" in self.error(server, prompt)

    def test_another_base_stops_unless_applied_anyway(self, server, masks, vanilla):
        folder = server.base / "models" / "concept_masks"
        mask = load_mask(folder / "found.safetensors")
        other = ConceptMask(mask.index, mask.shapes, "sks", "cat", mask.where, "0" * 64)
        save_mask(other, folder / "other.safetensors", "overwrite")
        message = self.error(server, text_to_picture(["apply", 0]) | applying(("other", 1.0)))
        assert "0000000000000000" in message and mask.fingerprint[:16] in message
        run = server.run(text_to_picture(["apply", 0]) | applying(("other", 1.0), apply_anyway=True))
        assert not np.array_equal(run.image(SHOW), vanilla)
        assert "applied anyway" in server.log()

    def test_no_class_prompt(self, server):
        prompt = finding()
        del prompt["find"]["inputs"]["class_conditioning"]
        assert "class_conditioning" in self.error(server, prompt)

    def test_no_identifier(self, server):
        prompt = finding()
        prompt["find"]["inputs"]["identifier"] = " "
        assert "identifier" in self.error(server, prompt)

    def test_no_pictures(self, server):
        prompt = finding()
        prompt["find"]["inputs"]["subject_latents"] = ["empty", 0]
        prompt["empty"] = node("EmptyLatentImage", width=96, height=96, batch_size=1)
        assert "VAE Encode" in self.error(server, prompt)

    def test_a_name_outside_the_folder_is_refused_before_the_prompt_runs(self, server, masks):
        prompt = {"load": node("ConesLoadConceptMask", mask_name=f"{masks[0]}.safetensors")}
        prompt["save"] = node("ConesSaveConceptMask", concept_mask=["load", 0], name="../../x", if_exists="keep both")
        with pytest.raises(PromptRefusedError) as refused:  # before a search is spent
            server.queue(prompt)
        assert "../../x" in str(refused.value) and "concept_masks" in str(refused.value)
