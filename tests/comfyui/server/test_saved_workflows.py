"""Workflows that users saved from release 0.1.0, kept in docs/workflows: valid on this server, and they still run.

Their prompts come from the file and /object_info alone; the browser test makes them with the frontend's own code.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from support.prompts import nodes_with, shortened

from cones_ops.laboratory.comfyui.workflow import NOTES, Prompt, input_specs, to_prompt, widget_values

FILES = sorted((Path(__file__).absolute().parents[3] / "docs" / "workflows").glob("*.json"))
USERS_OWN = {"ckpt_name", "image"}  # choices that only the user's machine has


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def short_prompt(server: Any, name: str) -> Prompt:
    """The prompt of a file, with few steps."""
    return shortened(to_prompt(read(FILES[0].with_name(f"{name}.json")), server.object_info()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nodes_links_and_values_are_known_to_the_server(path, server):
    workflow, info = read(path), server.object_info()
    by_id = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    for node in by_id.values():
        definition, ours = info[node["type"]], node["type"].startswith("Cones")
        assert node["properties"]["cnr_id"] == ("cones-concept-neurons" if ours else "comfy-core")
        if ours:
            kinds = [output["type"] for output in node["outputs"]]
            assert definition["output"][: len(kinds)] == kinds
        for name, value in widget_values(node, definition).items():
            kind, options, _ = dict(input_specs(definition))[name]
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices is not None and name not in USERS_OWN:
                assert value in choices, f"{node['type']}.{name}"
    for link_id, origin, slot, target, socket, kind in workflow["links"]:
        output, entry = by_id[origin]["outputs"][slot], by_id[target]["inputs"][socket]
        assert info[by_id[origin]["type"]]["output"][slot] == kind == output["type"]
        assert link_id in output["links"] and entry["link"] == link_id and entry["type"] in (kind, "*")


def check_run(server: Any, prompt: Prompt, shape: tuple[int, ...]) -> Any:
    """The prompt runs, and its saved pictures differ from the previewed ones without the concept, and each other."""
    run = server.run(prompt)
    rows = [run.images(nodes_with(prompt, "PreviewImage")[-1])]
    rows += [run.images(saved) for saved in nodes_with(prompt, "SaveImage")]
    assert len(rows) > 1
    for same_noise in zip(*rows, strict=True):
        assert all(picture.shape == shape and picture.std() > 0 for picture in same_noise)
        assert not any(np.array_equal(*pair) for pair in itertools.combinations(same_noise, 2))
    return run


def test_find_a_concept_runs_to_a_picture(server):
    prompt = short_prompt(server, "find-a-concept")
    check_run(server, prompt, (384, 384, 3))
    assert (server.base / "models" / "concept_masks" / "shortened.safetensors").is_file()


MASKED = ["compose-two-concepts", "compare-where-masks-act", "compose-with-hooks", "image-to-image", "swap-a-thing"]


@pytest.mark.parametrize("name", MASKED)
def test_it_runs_to_a_picture_with_the_example_masks(server, name):
    assert not list((server.base / "models" / "concept_masks").glob("toy-*"))
    prompt = short_prompt(server, name)
    check_run(server, prompt, (384, 384, 3))


def test_the_hook_acts_in_its_region_and_nowhere_else(server):
    """After one step the left half is that of a prompt with the hook, the right half that of one without.

    Of the latents: the toy world's decoder looks at the whole picture.
    """
    prompt = short_prompt(server, "compose-with-hooks")
    for node_id in nodes_with(prompt, "KSampler"):
        prompt[node_id]["inputs"]["steps"] = 1
    (hook,), (_, in_region, _) = nodes_with(prompt, "ConesConceptMaskHook"), nodes_with(prompt, "KSampler")
    prompt["keep"] = {"class_type": "SaveLatent", "inputs": {"samples": [in_region, 0], "filename_prefix": "hooked"}}
    region = saved_latents(server, prompt)
    for node_id in nodes_with(prompt, "ConditioningSetProperties"):
        del prompt[node_id]["inputs"]["mask"]
    hooked = saved_latents(server, prompt)
    prompt[hook]["inputs"]["strength"] = 0.0
    plain = saved_latents(server, prompt)
    left, right = np.s_[..., :4], np.s_[..., 4:]
    assert np.array_equal(region[left], hooked[left]) and np.array_equal(region[right], plain[right])
    assert not np.array_equal(hooked[left], plain[left]) and not np.array_equal(hooked[right], plain[right])


def saved_latents(server: Any, prompt: Prompt) -> np.ndarray:
    """(4, 48, 8, 8), what the node "keep" saves."""
    (entry,) = server.run(prompt).outputs["keep"]["latents"]
    return load_file(server.base / "output" / entry["subfolder"] / entry["filename"])["latent_tensor"]


@pytest.mark.slow
def test_a_thing_is_swapped_where_its_word_looked_and_the_rest_stays(server):
    """The cat is on the left; the mug on the right is that of the picture before."""
    prompt = to_prompt(read(FILES[0].with_name("swap-a-thing.json")), server.object_info())
    run = server.run(prompt)
    before = np.stack(run.images(nodes_with(prompt, "PreviewImage")[0])).astype(float)
    after = np.stack(run.images(nodes_with(prompt, "SaveImage")[0])).astype(float)
    change = np.abs(after - before).mean(axis=(0, 1, 3))  # by column
    assert change[:192].mean() > 4 * change[216:].mean()


def test_tune_two_concepts_runs_to_a_picture(server):
    """After two steps the masks may come back as they were given, so a strength tells the rows of pictures apart."""
    prompt = short_prompt(server, "tune-two-concepts")
    prompt[nodes_with(prompt, "ConesApplyConceptMasks")[-1]]["inputs"]["strength_1"] = 0.5
    run = check_run(server, prompt, (384, 384, 3))
    report = run.text(nodes_with(prompt, "PreviewAny")[0])
    assert "2 joint steps on 2 masks" in report and "zwx robot" in report
    collages = run.images(nodes_with(prompt, "PreviewImage")[0])
    assert len(collages) == 10 and all(picture.shape == (384, 384, 3) for picture in collages)


def test_inspect_and_compare_shows_masks_and_their_parts(server):
    prompt = short_prompt(server, "inspect-and-compare")
    run = server.run(prompt)
    figures = [run.image(node_id) for node_id in nodes_with(prompt, "ConesInspectConceptMask")]
    assert all(figure.shape == (540, 640, 3) for figure in figures) and not np.array_equal(*figures)
    report = run.text(nodes_with(prompt, "ConesCompareConceptMasks")[0])
    assert "sks cat and zwx robot" in report and "Masks at own tokens" in report
    grid = run.image(nodes_with(prompt, "SaveImage")[0])
    assert grid.shape[1] > 3 * 288 and grid.std() > 0  # the whole mask and six blocks: three in a row


def test_find_a_concept_sd15_runs_to_a_picture(server, sd15_checkpoint):
    prompt = short_prompt(server, "find-a-concept-sd15")
    generator = np.random.default_rng(0)
    for k, node_id in enumerate(nodes_with(prompt, "LoadImage")):
        name = f"subject-{k}.png"
        pixels = generator.integers(0, 256, (40 + 8 * k, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(server.base / "input" / name)
        prompt[node_id]["inputs"]["image"] = name
    (checkpoint,) = nodes_with(prompt, "CheckpointLoaderSimple")
    prompt[checkpoint]["inputs"]["ckpt_name"] = sd15_checkpoint
    for node_id in nodes_with(prompt, "ImageScale") + nodes_with(prompt, "EmptyLatentImage"):
        prompt[node_id]["inputs"] |= {"width": 32, "height": 32}
    check_run(server, prompt, (32, 32, 3))
