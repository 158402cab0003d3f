"""Single-file checkpoints of SD 1.x, SD 2.x and SDXL: the same model as the folder that diffusers saved, offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cones_ops.cli import main
from cones_ops.cli.models import sources_of
from cones_ops.engine.concept_folders import model_key
from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers import pipeline as host
from cones_ops.hosts.diffusers.loading import load, pipeline_of
from cones_ops.hosts.diffusers.weight_files import weight_reader
from cones_ops.masks.mask_file import load_mask, save_mask

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.mark.slow
def test_a_checkpoint_is_the_model_of_the_folder(folder_and_file: tuple[Path, Path]) -> None:
    """Text encoders, UNet and VAE alike, and the names in the file are those that masks use."""
    folder, file = folder_and_file
    first, second = load(folder), load(file)
    texts = ["a sks star"]
    settings = {"num_inference_steps": 2, "height": 16, "width": 16}
    pictures = [np.asarray(host.sample(pipeline, texts, **settings)[0]) for pipeline in (first, second)]
    assert np.array_equal(*pictures) and pictures[0].std() > 1
    weights, read = host.host_model(second).base_weights, weight_reader(file)
    assert len(weights) == 4 * 2
    assert all(torch.equal(weight, read(name)) for name, weight in weights.items())


def test_the_key_of_a_checkpoint_depends_on_its_configuration(folder_and_file: tuple[Path, Path]) -> None:
    folder, file = folder_and_file
    assert sources_of(file) == [file, file.with_suffix("")] and sources_of(folder) == [folder]
    key = model_key(*sources_of(file))
    scheduler = file.with_suffix("") / "scheduler" / "scheduler_config.json"
    before = scheduler.read_text()
    scheduler.write_text(before.replace("epsilon", "v_prediction"))
    assert model_key(*sources_of(file)) != key
    scheduler.write_text(before)
    assert model_key(*sources_of(file)) == key


@pytest.mark.slow
def test_find_apply_and_prompt(folder_and_file: tuple[Path, Path], pictures: Path, tmp_path: Path) -> None:
    _, file = folder_and_file
    mask, out = tmp_path / "sks.safetensors", tmp_path / "out"
    find = ["find", str(file), str(pictures), "--class-word", "star", "--out", str(mask), "--size", "16"]
    assert main([*find, "--steps", "2", "--batch", "2", "--density", "0.3"]) == 0
    prompts = ["--prompt", "a sks star", "--prompt", "a star"]
    small = ["--steps", "2", "--size", "16", "--out", str(out)]
    assert main(["apply", str(file), str(mask), *prompts, *small]) == 0
    read = {picture.stem: np.asarray(Image.open(picture)) for picture in out.iterdir()}
    assert np.array_equal(read["01-vanilla"], read["01-masked"])
    assert not np.array_equal(read["00-vanilla"], read["00-masked"])
    save_mask(replace(load_mask(mask), identifier="zwx"), tmp_path / "zwx.safetensors")
    prompt = ["prompt", str(file), "a <concept:sks> and a <concept:zwx>", "--masks", str(tmp_path)]
    for keep in ("--keep-apart", "--no-keep-apart"):
        assert main([*prompt, keep, "--steps", "10", "--size", "16", "--out", str(out / f"{keep}.png")]) == 0
    apart, mixed = (np.asarray(Image.open(out / f"{keep}.png")) for keep in ("--keep-apart", "--no-keep-apart"))
    assert apart.shape == (16, 16, 3) and not np.array_equal(apart, mixed)


def test_sdxl_is_told_the_size_of_the_pictures(xl_model: Path) -> None:
    pipeline = load(xl_model)
    subject = host.examples(pipeline, torch.zeros(1, 3, 16, 24), ["a sks star"], [("sks", "star")])
    (tokens,) = subject.conditioning
    assert tokens.added["time_ids"].tolist() == [16, 24, 0, 0, 16, 24]
    assert tokens.added["text_embeds"].shape == (24,) and tokens.hidden.shape == (24, 16 + 24)
    assert host.conditioning(pipeline, ["a star"])[0].added["time_ids"].tolist() == [16, 16, 0, 0, 16, 16]


def test_a_checkpoint_without_its_configuration_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the hub's cache lies beside it, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    file = tmp_path / "sd15.safetensors"
    save_file({"cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.zeros(2)}, file)
    with pytest.raises(ConesError, match=r"SD 1\.x checkpoint.*beside it, as .*sd15, or get one .*hf download stable"):
        pipeline_of(file)
    file.with_suffix("").mkdir()
    (file.with_suffix("") / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    pipeline_of(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x", "is it whole"),
        (None, "no such .safetensors file"),
        ("unet", "no text encoder of SDXL, SD 2.x, SD 1.x in this file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    file = tmp_path / "model.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        save_file({"model.diffusion_model.out.2.bias": torch.zeros(4)}, file)
    with pytest.raises(ConesError, match=message):
        pipeline_of(file)
