"""Inspect, compare, split: in process for what the nodes return, on a server for lists that run once per group."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask, union
from support.prompts import node, toy_picture
from support.small_models import SKS, ZWX, mask_of, small_unet

pytestmark = pytest.mark.slow  # the whole file: it builds models

MASK, OTHER = "toy-sks-cat.safetensors", "toy-zwx-robot.safetensors"


@pytest.fixture(scope="module")
def inspect(pack):
    return importlib.import_module("cones_concept_neurons.nodes.inspect")


@pytest.fixture(scope="module")
def pictures(pack):
    return importlib.import_module("cones_concept_neurons.nodes.pictures")


@pytest.fixture(scope="module")
def masks(host):
    model = small_unet()
    return mask_of(model, SKS, 1, 0.04), mask_of(model, ZWX, 2, 0.04)


def test_inspect_shows_a_figure_and_words(inspect, masks):
    figure, summary, table = (out := inspect.ConesInspectConceptMask.execute(masks[0])).args
    assert figure.shape == (1, 540, 640, 3) and 0 <= figure.min() < figure.max() <= 1
    assert summary.startswith(f"sks star: {masks[0].count:,} of ") and "middle block" in summary
    assert len(table.splitlines()) == len(masks[0].shapes) + 1  # and all of them
    assert len(out.ui["images"]) == 1 and summary in out.ui["text"]


def test_a_full_disk_costs_the_figure_on_the_node_only(inspect, masks, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("comfy_api.latest._ui.PreviewImage.__init__", full)
    figure, summary, _ = (out := inspect.ConesInspectConceptMask.execute(masks[0])).args
    assert figure.shape == (1, 540, 640, 3)
    assert "images" not in out.ui and summary in out.ui["text"]


def test_compare_skips_empty_slots(inspect, masks):
    figure, report = inspect.ConesCompareConceptMasks.execute(mask_1=masks[0], mask_2=None, mask_5=masks[1]).args
    assert figure.shape[0] == 1 and figure.shape[2:] == (640, 3)
    assert report.startswith("sks star and zwx heart: ") and "Masks at own tokens. " in report
    with pytest.raises(ConesError, match="connect at least two"):
        inspect.ConesCompareConceptMasks.execute(mask_1=masks[0], mask_2=None)


def test_split_gives_lists(inspect, masks):
    parts, labels = inspect.ConesSplitConceptMask.execute(masks[0], "K and V", "the group alone", True).args
    assert [label.split(":")[0] for label in labels] == ["all", "K", "V"] and len(parts) == 3
    assert union(*parts[1:]).count == parts[0].count == masks[0].count
    schema = inspect.ConesSplitConceptMask.GET_SCHEMA()
    assert all(output.is_output_list for output in schema.outputs)


def test_pictures_of_a_batch_share_a_label(pictures):
    batch, one = torch.rand(2, 64, 64, 3), torch.rand(1, 64, 64, 3)
    image = pictures.ConesLabelPictures.execute([batch, one], ["two", "one"], [2], [128]).args[0]
    assert image.shape[0] == 1 and image.shape[2] == 272
    with pytest.raises(ConesError, match="one label for each"):
        pictures.ConesLabelPictures.execute([one], ["a", "b"], [0], [128])


def parts_in_pictures(group_by, left_on, text="a sks cat on paper"):
    """The toy world's example mask, split, each part applied and sampled; all pictures, and all in one grid."""
    return {
        **toy_picture(
            ["apply", 0], positive=node("ConesEncodePrompt", clip=["world", 1], text=text, mask_1=["load", 0])
        ),
        "load": node("ConesLoadConceptMask", mask_name=MASK),
        "split": node(
            "ConesSplitConceptMask", concept_mask=["load", 0], group_by=group_by, left_on=left_on, with_whole=True
        ),
        "apply": node("ConesApplyConceptMasks", model=["world", 0], mask_1=["split", 0], strength_1=1.0),
        "grid": node("ConesLabelPictures", images=["decode", 0], labels=["split", 1], columns=0, side=128),
        "show grid": node("PreviewImage", images=["grid", 0]),
        "labels": node("PreviewAny", source=["split", 1]),
    }  # fmt: skip


def test_one_run_samples_every_group(server):
    run = server.run(parts_in_pictures("K and V", "the group alone"))
    pictures = run.images("show")
    assert len(pictures) == 3 and not any(np.array_equal(pictures[0], other) for other in pictures[1:])
    assert not np.array_equal(pictures[1], pictures[2])
    whole = parts_in_pictures("K and V", "the group alone")
    whole["apply"]["inputs"]["mask_1"] = ["load", 0]
    whole = {name: whole[name] for name in whole if name not in ("split", "grid", "show grid", "labels")}
    assert np.array_equal(server.run(whole).image("show"), pictures[0])
    assert run.image("show grid").shape[1] > 256
    assert all(word in run.text("labels") for word in ("all: ", "K: ", "V: "))


def test_all_but_k_is_v(server):
    alone = server.run(parts_in_pictures("K and V", "the group alone")).images("show")
    rest = server.run(parts_in_pictures("K and V", "all but the group")).images("show")
    assert np.array_equal(alone[1], rest[2]) and np.array_equal(alone[2], rest[1])


def test_figures_on_a_server(server):
    prompt = {
        "one": node("ConesLoadConceptMask", mask_name=MASK),
        "other": node("ConesLoadConceptMask", mask_name=OTHER),
        "inspect": node("ConesInspectConceptMask", concept_mask=["one", 0]),
        "compare": node("ConesCompareConceptMasks", mask_1=["one", 0], mask_2=["other", 0]),
    }
    run = server.run(prompt)
    assert run.image("inspect").shape == (540, 640, 3) and run.image("compare").shape[1] == 640
    assert "sks cat" in run.text("inspect") and "sks cat and zwx robot" in run.text("compare")


def test_an_empty_mask_cannot_be_split(inspect, masks):
    with pytest.raises(ConesError, match="empty"):
        inspect.ConesSplitConceptMask.execute(ConceptMask({}, masks[0].shapes), "block", "the group alone", True)
