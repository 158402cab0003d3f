"""A concept mask's cover: beside the file, inside it, in the host's model library; and which base a search was on."""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from cones_concept_neurons.cones_ops.masks.mask_file import read_mask_metadata
from cones_concept_neurons.cones_ops.reports.figures import density_figure
from cones_concept_neurons.cones_ops.search.density import DensityCurve
from cones_concept_neurons.nodes.host.files.model_info import base_facts
from cones_concept_neurons.nodes.host.inputs import drawn
from cones_concept_neurons.nodes.pictures import BESIDE, INSIDE, covers, safe_covers
from PIL import Image
from support.prompts import node
from support.small_models import small_model, small_unet

COVERS = [(1, 8, 9, 1), (1, 8, 9, 2), (8, 9), (8, 9, 3), (1, 2, 8, 9, 3), (2, 8, 9, 4)]


def test_large_pictures_shrink_and_small_ones_are_enlarged():
    png, jpeg = (Image.open(BytesIO(one)) for one in covers(torch.rand(2, 900, 1800, 3)))
    assert (png.format, png.size, jpeg.format, jpeg.size) == ("PNG", (BESIDE, 256), "JPEG", (INSIDE, 96))
    small = torch.rand(1, 64, 64, 3)
    png, jpeg = (Image.open(BytesIO(one)) for one in covers(small))
    assert png.size == (256, 256) and jpeg.size == (INSIDE, INSIDE)
    assert np.array_equal(np.asarray(png)[::4, ::4], small[0].mul(255).round().byte().numpy())
    assert Image.open(BytesIO(covers(torch.rand(1, 80, 80, 1).expand(-1, -1, -1, 4))[0])).mode == "RGB"


@pytest.mark.parametrize("shape", COVERS, ids=str)
def test_covers_of_any_shape(shape):
    png = Image.open(BytesIO(covers(torch.full(shape, 0.5))[0]))
    assert png.mode == "RGB" and png.size == (9 * 29, 8 * 29) and png.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("shape", [(0, 8, 9, 3), (1, 0, 9, 3)], ids=str)
def test_a_mask_is_saved_without_a_cover_that_fails(shape):
    pictures, trouble = safe_covers(torch.zeros(shape))
    assert pictures is None and trouble.startswith("saved without a cover: ")
    assert safe_covers(torch.full((1, 8, 9, 3), float("nan")))[1] == ""


def test_without_matplotlib_a_result_has_an_empty_figure(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    curve = DensityCurve((0.0, 0.1), (0, 1), (1.0, 0.5), (0.0, 0.5), (0.0, 0.1), 0.1)
    figure, trouble = drawn(lambda: density_figure(curve))
    assert figure.shape == (400, 640, 3) and (figure == 255).all()
    assert "python -m pip install --upgrade matplotlib" in trouble


def test_the_model_library_shows_the_cover(server):
    prompt = {
        "load": node("ConesLoadConceptMask", mask_name="toy-sks-cat.safetensors"),
        "subject": node("ConesToySubject", subject="sks", pictures=2, seed=0),
        "save": node(
            "ConesSaveConceptMask", concept_mask=["load", 0], name="with cover", if_exists="overwrite",
            cover=["subject", 0],
        ),
    }  # fmt: skip
    server.run(prompt)
    file = server.base / "models" / "concept_masks" / "with cover.safetensors"
    assert Image.open(file.with_suffix(".png")).size == (288, 288)
    meta = read_mask_metadata(file)
    assert meta["modelspec.title"] == "sks cat" and meta["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    url = "/experiment/models/preview/concept_masks/0/with%20cover.safetensors"
    beside = Image.open(BytesIO(server.request(url)))
    file.with_suffix(".png").unlink()
    inside = Image.open(BytesIO(server.request(url)))
    assert beside.size == (288, 288) and inside.size == (INSIDE, INSIDE)
    assert server.json("/view_metadata/concept_masks?filename=with%20cover.safetensors")["ss_output_name"] == "sks cat"


def test_without_a_cover_nothing_is_added(server):
    prompt = {
        "load": node("ConesLoadConceptMask", mask_name="toy-sks-cat.safetensors"),
        "save": node("ConesSaveConceptMask", concept_mask=["load", 0], name="bare", if_exists="overwrite"),
    }
    server.run(prompt)
    file = server.base / "models" / "concept_masks" / "bare.safetensors"
    assert not file.with_suffix(".png").exists() and "modelspec.thumbnail" not in read_mask_metadata(file)


def test_base_facts():
    latents = {"samples": torch.zeros(4, 4, 64, 96)}
    facts = {"architecture": "stable-diffusion-v1", "base_model_version": "sd_v1", "resolution": "768x512"}
    assert base_facts(small_unet(), latents) == facts
    assert base_facts(small_model("sdxl"), latents)["base_model_version"] == "sdxl_base_v1-0"
    assert base_facts(small_model("qwen"), latents)["architecture"] == "qwen-image"
