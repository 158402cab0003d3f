"""The model file: round trip, shipped size, refusals."""

import pytest
import torch
from safetensors.torch import save_file

from cones_ops.errors import ConesError
from cones_ops.laboratory.sampling import sample
from cones_ops.toy_world.bundle import SHIPPED, load_pipeline, random_pipeline, read_bundle, save_pipeline


def test_saved_and_loaded_pipelines_agree_to_fp16(tmp_path):
    first = random_pipeline(3)
    save_pipeline(first, tmp_path / "toy.safetensors")
    second = load_pipeline(tmp_path / "toy.safetensors")
    for a, b in zip(first.unet.parameters(), second.unet.parameters(), strict=True):
        torch.testing.assert_close(a.half().float(), b, atol=0, rtol=0)
    text = ["a sks cat next to a mug in a meadow"]
    torch.testing.assert_close(first.encode_text(text), second.encode_text(text), atol=5e-3, rtol=0)
    assert torch.allclose(sample(second, text, steps=2), sample(first, text, steps=2), atol=2e-2)
    assert second.vocabulary == first.vocabulary and second.schedule == first.schedule


def test_the_shipped_model_is_small_and_complete():
    assert SHIPPED.stat().st_size <= 16 * 2**20
    bundle = read_bundle()
    assert bundle.part("unet") and bundle.part("text_encoder") and bundle.autoencoder().channels == 48
    assert all(tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in bundle.tensors.values())


def test_identifiers_stay_distinct_in_the_text_encoder():
    pipeline = load_pipeline()
    hidden = pipeline.encode_text([f"a {word} cat" for word in ("sks", "zwx", "qpd", "white")])[:, 2]  # the word itself
    similarity = torch.nn.functional.cosine_similarity(hidden[:, None], hidden[None], dim=-1)
    assert (similarity - torch.eye(4)).max() < 0.6


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConesError, match="no such file"):
        read_bundle(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ConesError, match="no toy world model"):
        read_bundle(tmp_path / "other.safetensors")
