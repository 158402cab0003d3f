"""Lists of pictures and captions in a search, pictures of several sizes, and pictures with a noise mask."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import same_neurons
from cones_concept_neurons.cones_ops.search.settings import SearchSettings
from cones_concept_neurons.nodes import encode, find, teach
from cones_concept_neurons.nodes.host.search import kept_states
from cones_concept_neurons.nodes.host.search.example_inputs import joined_latents, loss_weights, only
from PIL import Image
from support.prompts import node

pytestmark = pytest.mark.slow
SETTINGS = {
    "identifier": "sks", "class_word": "cat", "method": "taylor", "targets": "text K+V", "density": 0.02,
    "steps": 2, "batch": 4, "prior_weight": 1.0, "seed": 0, "where": "own tokens",
}  # fmt: skip


@pytest.fixture
def square() -> torch.Tensor:
    return torch.randn(3, 48, 8, 8, generator=torch.Generator().manual_seed(1))


def prompt(clip: Any, text: str = "a sks cat", **options: Any) -> Any:
    return encode.ConesEncodePrompt.execute(clip, text, concepts="sks cat", **options).args[0]


def search(checkpoint: Any, latents: list[Any], prompts: list[Any], **changes: Any) -> Any:
    lists = {name: [value] for name, value in {**SETTINGS, **changes}.items()}
    with torch.inference_mode():
        return find.ConesFindConceptNeurons.execute(
            model=[checkpoint[0]], subject_latents=latents, subject_conditioning=prompts, **lists
        ).args[0]


def test_a_list_of_pictures_is_the_same_as_their_batch(checkpoint, square):
    prompts = [prompt(checkpoint[1])]
    batch = search(checkpoint, [{"samples": square}], prompts)
    apart = search(checkpoint, [{"samples": picture[None]} for picture in square], prompts)
    assert same_neurons(batch, apart) and batch.provenance == apart.provenance
    assert batch.provenance["pictures"] == "3"


def test_a_list_of_captions_is_the_same_as_a_prompt_per_line(checkpoint, square):
    captions = ("a sks cat", "a robot and a sks cat", "a sks cat")
    lines = search(
        checkpoint, [{"samples": square}], [prompt(checkpoint[1], "\n".join(captions), prompt_per_line=True)]
    )
    apart = search(checkpoint, [{"samples": square}], [prompt(checkpoint[1], caption) for caption in captions])
    assert same_neurons(lines, apart)


def test_pictures_of_several_sizes_are_searched_together(checkpoint, square):
    wide = torch.randn(1, 48, 8, 16, generator=torch.Generator().manual_seed(2))
    latents = [{"samples": square[:2]}, {"samples": wide}]
    mask = search(checkpoint, latents, [prompt(checkpoint[1])], method="learned")
    alone = search(checkpoint, latents[:1], [prompt(checkpoint[1])], method="learned")
    assert mask.provenance["pictures"] == "3" and mask.count == alone.count
    assert not same_neurons(mask, alone)


def test_a_noise_mask_decides_which_part_of_a_picture_counts(checkpoint, square):
    prompts = [prompt(checkpoint[1])]
    left = torch.zeros(1, 1, 96, 96)
    left[..., :48] = 1
    plain = search(checkpoint, [{"samples": square}], prompts)
    everything = search(checkpoint, [{"samples": square, "noise_mask": torch.ones(1, 1, 96, 96)}], prompts)
    masked = search(checkpoint, [{"samples": square, "noise_mask": left}], prompts)
    assert same_neurons(plain, everything) and not same_neurons(plain, masked)
    weights = loss_weights({"samples": square, "noise_mask": left})
    assert weights.shape == (3, 1, 8, 8) and weights[..., :4].eq(1).all() and weights[..., 4:].eq(0).all()
    with pytest.raises(ConesError, match="picture 1, 2, 3 is 0 everywhere"):
        search(checkpoint, [{"samples": square, "noise_mask": 0 * left}], prompts)


def test_a_caption_with_a_little_noise_is_searched_and_warned_of_once(checkpoint, square, caplog):
    captions = prompt(checkpoint[1], "a sks cat\na robot and a sks cat\na sks cat", prompt_per_line=True)
    noisy = [[text + 0.01 * torch.randn_like(text), extra] for text, extra in captions]
    assert search(checkpoint, [{"samples": square}], [noisy]).count > 0
    assert caplog.text.count("has changed the text of a conditioning a little") == 1


def test_lists_are_joined_with_their_masks(square):
    wide = torch.zeros(1, 48, 8, 16)
    half = torch.ones(1, 8, 16)
    joined = joined_latents([{"samples": square[:1]}, {"samples": wide, "noise_mask": half}])
    assert [tuple(picture.shape) for picture in joined["samples"]] == [(48, 8, 8), (48, 8, 16)]
    weights = loss_weights(joined)
    assert [tuple(weight.shape) for weight in weights] == [(1, 8, 8), (1, 8, 16)]
    assert joined_latents(None) is None and joined_latents([None]) is None


def test_what_is_refused(checkpoint, square):
    assert only(seed=[3], batch=[8]) == {"seed": 3, "batch": 8}
    with pytest.raises(ConesError, match=r"seed \(2\): this node takes one value"):
        only(seed=[1, 2], batch=[8])
    broken = square.clone()
    broken[1, 0, 0, 0] = float("nan")
    with pytest.raises(ConesError, match="picture 2 of the subject latents has values that are not finite"):
        search(checkpoint, [{"samples": broken}], [prompt(checkpoint[1])])


def test_a_cancelled_search_resumes_and_ends_alike(checkpoint, square, monkeypatch, tmp_path):
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    monkeypatch.setattr(kept_states, "SECONDS", 0.0)  # the state is written after each step
    inputs = (checkpoint, [{"samples": square}], [prompt(checkpoint[1])])
    whole = search(*inputs, method="learned", steps=4)
    assert not list(tmp_path.iterdir())
    values: list[int] = []

    def press_cancel(value: int, *_: Any, **__: Any) -> None:
        values.append(value)
        if len(values) == 2:
            comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", press_cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        search(*inputs, method="learned", steps=4)
    assert len(values) == 2 and len(list((tmp_path / "cones-searches").iterdir())) == 1
    resumed = search(*inputs, method="learned", steps=4)
    assert values[2] > values[1] and same_neurons(resumed, whole) and resumed.provenance == whole.provenance
    assert not list(tmp_path.iterdir())


def test_teaching_that_was_cancelled_draws_nothing_twice(checkpoint, monkeypatch, tmp_path):
    """The other things that it had drawn are kept until the concept is taught; the lesson is the same either way."""
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    monkeypatch.setattr(teach, "keep_mask", lambda mask, name, *_: (name, ""))
    monkeypatch.setattr(teach, "recommended", lambda where, seed: SearchSettings(batch=2, held_out=2, seed=seed))
    drawn, lessons, results, sample, taught = [], [], [], comfy.sample.sample, teach.taught

    def sampled(*inputs: Any, **options: Any) -> torch.Tensor:
        drawn.append(options["seed"])
        return sample(*inputs, **options)

    def searched(artist: Any, lesson: Any, *inputs: Any) -> Any:
        lessons.append(lesson)
        if len(lessons) in (2, 3):
            raise comfy.model_management.InterruptProcessingException
        results.append(results[0] if results else taught(artist, lesson, *inputs))
        return results[0]

    monkeypatch.setattr(comfy.sample, "sample", sampled)
    monkeypatch.setattr(teach, "taught", searched)
    model, clip, vae = checkpoint[:3]
    inputs = {"model": model, "clip": clip, "vae": vae, "class_word": "mug", "name": "", "if_exists": "overwrite"}
    inputs |= {"identifier": "hta", "steps": 1, "beside": 6, "seed": 5, "sample_every": 0}
    pictures = [torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(1))]

    def drawings(things: str) -> list[int]:
        """The seeds of all that one run of the node draws."""
        drawn.clear()
        lists = {name: [value] for name, value in {**inputs, "other_things": things}.items()}
        with torch.inference_mode(), suppress(comfy.model_management.InterruptProcessingException):
            teach.ConesTeachConcept.execute(images=pictures, **lists)
        return list(drawn)

    others, figure = [5, 6, 7], [1005, 1005, 1006]  # before, and after, alone and beside another
    assert drawings("owl, robot") == [*others, *figure] and not list(tmp_path.iterdir())
    assert drawings("owl, robot") == others and len(list((tmp_path / "cones-searches").iterdir())) == 3
    assert drawings("owl, fish") == [6]  # only the fish is new
    assert drawings("owl, robot") == figure and len(results) == 2
    assert len(list((tmp_path / "cones-searches").iterdir())) == 1  # the fish, for a week
    assert torch.equal(lessons[3].pictures, lessons[0].pictures) and lessons[3].captions == lessons[0].captions


def test_a_folder_of_pictures_of_several_sizes_makes_one_mask(server):
    folder = server.base / "input" / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for k, width in enumerate((96, 96, 192)):
        pixels = generator.integers(0, 256, (96, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        (folder / f"{k}.txt").write_text("a sks cat")
    loader = "LoadImageTextDataSetFromFolder"
    graph = {
        "world": node("ConesToyWorld"),
        "photos": node(loader, folder="photos"),
        "latents": node("VAEEncode", pixels=["photos", 0], vae=["world", 2]),
        "captions": node("ConesEncodePrompt", clip=["world", 1], text=["photos", 1], concepts="sks cat"),
        "find": node(
            "ConesFindConceptNeurons", model=["world", 0], subject_latents=["latents", 0],
            subject_conditioning=["captions", 0], **SETTINGS,
        ),
        "save": node("ConesSaveConceptMask", concept_mask=["find", 0], name="photos", if_exists="keep both"),
    }  # fmt: skip
    server.run(graph)
    graph["photos"] = node("LoadImageDataSetFromFolder", folder="photos")
    graph["captions"]["inputs"]["text"] = "a sks cat"
    graph["save"]["inputs"]["name"] = "no captions"
    server.run(graph)
    masks = sorted(file.name for file in (server.base / "models" / "concept_masks").glob("*.safetensors"))
    assert [name for name in masks if name.startswith(("photos", "no captions"))] == [
        "no captions.safetensors",
        "photos.safetensors",
    ]
