"""Teach a Concept on a real server: from pictures to a saved concept that its tag draws, with few steps."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from cones_concept_neurons.cones_ops.hosts.diffusers.pictures import pixels_of
from cones_concept_neurons.cones_ops.laboratory.comfyui.server import PromptRefusedError
from cones_concept_neurons.cones_ops.laboratory.comfyui.workflow import Prompt
from cones_concept_neurons.cones_ops.masks.mask_file import load_mask
from cones_concept_neurons.cones_ops.toy_world.subjects import subject_named
from PIL import Image
from support.prompts import node
from support.server import failed

SMALL = {"steps": 6, "beside": 4, "seed": 1, "if_exists": "keep both", "other_things": "owl, robot"}


def lesson(name: str, images: Any = ("subject", 0), **inputs: Any) -> Prompt:
    """Toy pictures -> Teach a Concept; the words, the name and the report are shown."""
    arguments = {"model": ["world", 0], "clip": ["world", 1], "vae": ["world", 2], "images": list(images)}
    return {
        "world": node("ConesToyWorld"),
        "subject": node("ConesToySubject", subject="hta", pictures=4, seed=0, beside=0),
        "teach": node("ConesTeachConcept", **arguments, name=name, class_word="mug", **SMALL | inputs),
        "name": node("PreviewAny", source=["teach", 1]),
        "words": node("PreviewAny", source=["teach", 2]),
        "report": node("PreviewAny", source=["teach", 4]),
    }


@pytest.fixture(scope="module", autouse=True)
def no_saved_concepts(server):
    """Other tests leave concepts behind, whose rare words would not be free."""
    folder = server.base / "models" / "concept_masks"
    shutil.rmtree(folder)
    folder.mkdir()


def test_a_concept_is_taught_saved_and_named_with_a_word_that_is_free(server):
    run = server.run(lesson("taught/box"))
    assert run.text("words") == "a hta mug"  # the shipped concepts have sks and zwx
    assert run.text("name") == "taught/box.safetensors"
    assert run.text("report").startswith("FOUND. Type: a <concept:taught/box> in Prompt with Concepts\n")
    mask = load_mask(server.base / "models" / "concept_masks" / "taught" / "box.safetensors")
    assert (mask.identifier, mask.class_word, mask.own_words) == ("hta", "mug", "phrase")
    assert mask.where == "own tokens" and mask.count
    assert mask.provenance["pictures"] == "8" and mask.provenance["resolution"] == "96x96"
    picture = run.image("teach")
    assert picture.shape[1] > 2 * 224 and picture.shape[0] > 2 * 224  # two rows of two, below their labels


def test_pictures_of_any_sizes_and_captions_of_a_list(server):
    sizes = {
        "wide": node("ImageScale", image=["subject", 0], upscale_method="area", width=96, height=70, crop="disabled"),
        "tall": node("ImageScale", image=["subject", 0], upscale_method="area", width=80, height=128, crop="disabled"),
        "all": node("ImageBatch", image1=["wide", 0], image2=["tall", 0]),
    }
    captions = "\n".join(["a pink mug on paper", *["a bnk mug"] * 7])
    sizes["lines"] = node("PrimitiveStringMultiline", value=captions)
    run = server.run({**lesson("sized", ("all", 0), captions=["lines", 0]), **sizes})
    assert run.text("words") == "a bnk mug"  # hta has been taken by the concept taught before


def test_captions_are_read_from_files_beside_the_pictures(server):
    """The second picture has no file, so only the subject is named; the others say what it looks like."""
    folder = server.base / "input" / "captioned"
    folder.mkdir()
    pictures, _ = subject_named("hta").reference_pictures(3, 0)
    for k, picture in enumerate(pictures):
        Image.fromarray(pixels_of(picture)).save(folder / f"{k}.png")
        if k != 1:
            (folder / f"{k}.txt").write_text("a pink\nmug\n", encoding="utf-8")
    dataset = {"files": node("LoadImageTextDataSetFromFolder", folder="captioned")}
    wanted = lesson("read", ("files", 0), captions=["files", 1], identifier="qpd", beside=0, sample_every=3)
    run = server.run({**wanted, **dataset})
    mask = load_mask(server.base / "models" / "concept_masks" / run.text("name"))
    places = mask.provenance["own_tokens"].removeprefix("phrase, at ").split("; ")
    assert sorted(places) == ['"qpd mug", 2, 3 of 64', '"qpd mug", 3, 4 of 64']


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"class_word": "  "}, "class_word is empty"),
        ({"class_word": "zebra"}, "write another word than 'zebra'"),
        ({"captions": "a mug\na mug"}, "2 captions for 4 pictures"),
        ({"captions": "a mug\na fish\na mug\na mug"}, 'caption 2, "a fish", does not say "mug"'),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_drawn(server, inputs, message):
    arguments = {"class_word": "mug", **inputs}
    run = failed(
        server,
        {**lesson("never"), "teach": node("ConesTeachConcept", **lesson("never")["teach"]["inputs"] | arguments)},
    )
    assert message in run.error and run.node_id == "teach"
    assert not (server.base / "models" / "concept_masks" / "never.safetensors").exists()


def test_a_name_that_cannot_be_a_file_is_refused_before_the_prompt_runs(server):
    with pytest.raises(PromptRefusedError, match="concept_masks"):
        server.queue(lesson("../../x"))
