"""The demo's side of the host: its workflows in API form, and one picture sampled by both hosts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from support.prompts import node, toy_picture

from cones_ops.errors import ConesError
from cones_ops.laboratory.comfyui import checkout
from cones_ops.laboratory.comfyui.server import started
from cones_ops.laboratory.comfyui.workflow import to_prompt
from cones_ops.laboratory.demo import comfyui as demo_comfyui
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.fingerprint import fingerprint
from cones_ops.masks.mask_file import save_mask

pytest.importorskip("diffusers")
TEXT, STEPS, SEED = "a sks cat on paper", 8, 11


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from cones_ops.toy_world.bundle import load_pipeline

    return load_pipeline()


@pytest.fixture(scope="module")
def mask(server: Any, pipeline: Any) -> ConceptMask:
    """A random mask, saved where the server finds it."""
    from cones_ops.laboratory.sampling import model_of

    weights = model_of(pipeline, "everywhere").base_weights
    generator = torch.Generator().manual_seed(3)
    index = {n: (torch.rand(w.numel(), generator=generator) < 0.1).nonzero().flatten() for n, w in weights.items()}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    made = ConceptMask(index, shapes, "sks", "cat", "everywhere", fingerprint(weights), {"method": "random"})
    save_mask(made, server.base / "models" / "concept_masks" / "both-hosts.safetensors", "overwrite")
    return made


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_both_hosts_sample_the_same_picture(server: Any, pipeline: Any, mask: ConceptMask, strength: float) -> None:
    from cones_ops.laboratory.sampling import sample

    prompt = {
        **toy_picture(["apply", 0], TEXT, seed=SEED, steps=STEPS, cfg=3.0),
        "mask": node("ConesLoadConceptMask", mask_name="both-hosts.safetensors"),
        "apply": node("ConesApplyConceptMasks", model=["world", 0], mask_1=["mask", 0], strength_1=strength),
    }
    theirs = server.run(prompt).image("show").astype(float)  # (96, 96, 3)
    ours = sample(pipeline, [TEXT], [(mask, strength)], seeds=[SEED], steps=STEPS, guidance=3.0)
    ours = ours[0].movedim(0, -1).numpy() * 255
    difference = np.abs(theirs - ours)
    assert difference.mean() < 1 and difference.max() < 8


@pytest.mark.parametrize("name", [demo_comfyui.FIND, demo_comfyui.COMPOSE])
def test_its_workflows_become_complete_prompts(server: Any, name: str) -> None:
    info = server.object_info()
    workflow = json.loads((checkout.PACK / "docs" / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    prompt = to_prompt(workflow, info)
    for one in prompt.values():
        definition = info[one["class_type"]]["input"]
        assert set(definition.get("required", {})) <= set(one["inputs"])
        assert set(one["inputs"]) <= {*definition.get("required", {}), *definition.get("optional", {})}
        links = [value for value in one["inputs"].values() if isinstance(value, list)]
        assert all(origin in prompt for origin, _ in links)
    titles = [node.get("title", "") for node in workflow["nodes"] if node["type"] in ("PreviewImage", "SaveImage")]
    assert any(title.startswith("Without") for title in titles) and any(
        title.startswith("With the") for title in titles
    )


@pytest.mark.server
def test_a_server_of_its_own_runs_a_prompt(host: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(host.path, tmp_path) as server:
        prompt = {
            "subject": node("ConesToySubject", subject="sks", pictures=2, seed=0),
            "show": node("PreviewImage", images=["subject", 0]),
        }
        assert demo_comfyui.small(server.run(prompt).images("show")).shape == (2, 3, 96, 96)
        with pytest.raises(ConesError, match="refused"):
            server.run({"show": node("PreviewImage")})
    assert server.process.poll() is not None


def test_a_missing_host_is_named(tmp_path: Any) -> None:
    with pytest.raises(ConesError, match="git clone"):
        checkout.find_host(tmp_path)
