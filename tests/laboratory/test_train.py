"""The training scripts run, resume and write files that load; how well they train is the benchmark's matter."""

import numpy as np
import pytest
import torch
from cones_ops.laboratory.scenes import random_scene

from cones_ops.laboratory.judge import load_judge
from cones_ops.laboratory.training import __main__ as train
from cones_ops.laboratory.training.unet import learning_rate, train_unet
from cones_ops.toy_world.bundle import load_pipeline, random_pipeline


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder in which everything has been made with next to no training."""
    out = tmp_path_factory.mktemp("train")
    few = ["--minutes", "0.02", "--text-steps", "2", "--judge-steps", "2", "--scenes", "40", "--threads", "1"]
    files = ["--model-file", str(out / "toy.safetensors"), "--judge-file", str(out / "judge.safetensors")]
    train.main(["all", "--out", str(out), *few, *files])
    return out


@pytest.mark.slow
def test_everything_is_made_and_loads(out):
    picture = torch.zeros(1, 3, 64, 64)
    pipeline = load_pipeline(out / "toy.safetensors")
    assert pipeline.latents.decode(pipeline.latents.encode(picture)).shape == picture.shape
    assert not any(parameter.requires_grad for parameter in load_judge(out / "judge.safetensors").parameters())


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(out, tmp_path):
    first = torch.load(out / "unet.pt", weights_only=True)
    assert first["step"] >= 1 and first["spent"] >= 0.02 * 60
    (tmp_path / "unet.pt").write_bytes((out / "unet.pt").read_bytes())
    generator = np.random.default_rng(0)
    scenes = [random_scene(generator) for _ in range(8)]
    longer = first["spent"] / 60 + 0.01
    train_unet(
        random_pipeline(1), scenes, torch.zeros(8, 24, 8, 8), longer, tmp_path / "unet.pt", log=lambda line: None
    )
    second = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert second["step"] > first["step"] and second["spent"] >= longer * 60


def test_the_learning_rate_warms_up_and_ends_near_zero():
    assert learning_rate(0, 0.0) < learning_rate(299, 0.0)
    assert learning_rate(1000, 1.0) == pytest.approx(0.01 * learning_rate(1000, 0.0))
