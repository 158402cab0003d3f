"""Export as LoRA, checked with the stock Load LoRA node: the same weights as Apply Concept Masks, bit for bit."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.fingerprint import fingerprint
from cones_concept_neurons.nodes.host.apply.apply_masks import apply_masks
from cones_concept_neurons.nodes.host.parameters import PREFIX, base_weight
from safetensors.torch import load_file
from support.small_models import DEVICE, DYNAMIC, SKS, mask_of, small_unet


@pytest.fixture(scope="module")
def export(pack):
    return importlib.import_module("cones_concept_neurons.nodes.export").ConesExportAsLora


@pytest.fixture
def loras(host, tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def everywhere(model, density=0.2):
    mask = replace(mask_of(model, SKS, 1, density), where="everywhere")
    return replace(mask, fingerprint=fingerprint({name: base_weight(model, PREFIX + name) for name in mask.shapes}))


def sampling_weights(patcher, names):
    """What the model samples with, after a load by the host."""
    with torch.inference_mode():  # as when a prompt is run
        comfy.model_management.load_models_gpu([patcher])
    return {name: comfy.utils.get_attr(patcher.model, PREFIX + name).clone() for name in names}


def stock_lora(model, name, strength):
    import nodes as host_nodes

    return host_nodes.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


@pytest.mark.slow
@pytest.mark.skipif(DYNAMIC, reason="with dynamic VRAM weights are patched only when they are used")
@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_stock_loader_gives_the_weights_of_apply(export, loras, dtype, strength):
    with torch.inference_mode():
        model = small_unet(dtype)
    mask = everywhere(model)
    name, report = export.execute(model, mask, "people/sks", "keep both").args
    assert name == str(Path("people/sks.safetensors")) and (loras / name).is_file()
    assert f"{(loras / name).stat().st_size / 1e6:.1f} MB" in report
    vanilla = sampling_weights(model, mask.shapes)
    lora = stock_lora(model, name, strength)
    assert set(lora.patches) == {PREFIX + one for one in mask.index}
    by_lora = sampling_weights(lora, mask.shapes)
    by_mask = sampling_weights(apply_masks(model, [(mask, strength)]), mask.shapes)
    for one in mask.shapes:
        assert not torch.equal(by_lora[one], vanilla[one])
        if comfy.model_management.lora_compute_dtype(DEVICE) == torch.float32:
            assert torch.equal(by_lora[one], by_mask[one])
        else:  # on GPUs the host adds LoRAs in fp16
            assert torch.allclose(by_lora[one], by_mask[one], rtol=1e-3, atol=1e-3)
        if strength == 1:
            assert not by_lora[one].flatten()[mask.index[one]].any()


def test_a_second_export_gets_a_name_of_its_own(export, loras):
    model = small_unet()
    mask = everywhere(model, 0.01)
    names = [export.execute(model, mask, "sks", how).args[0] for how in ("keep both", "keep both", "overwrite")]
    assert names == ["sks.safetensors", "sks-2.safetensors", "sks.safetensors"]


def test_patches_on_the_model_are_not_exported(export, loras):
    model = small_unet()
    mask = everywhere(model, 0.01)
    export.execute(model, mask, "plain", "keep both")
    patched = apply_masks(model, [(mask, 1.0)])
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([patched])
    export.execute(patched, mask, "patched", "keep both")
    plain, patched = (load_file(loras / f"{name}.safetensors") for name in ("plain", "patched"))
    assert plain.keys() == patched.keys() and all(torch.equal(plain[key], patched[key]) for key in plain)


@pytest.mark.slow
def test_what_is_refused(export, loras):
    model = small_unet()
    mask = everywhere(model, 0.01)
    with pytest.raises(ConesError, match=r"own tokens.*where = everywhere"):
        export.execute(model, replace(mask, where="own tokens"), "sks", "keep both")
    with pytest.raises(ConesError, match="load the base model it was found on, or turn on apply_anyway"):
        export.execute(small_unet(seed=1), mask, "sks", "keep both")
    with pytest.raises(ConesError, match="quantised"):
        export.execute(small_unet(torch.bfloat16, "float8_e4m3fn"), replace(mask, fingerprint=""), "sks", "keep both")
    assert not list(loras.iterdir())
    export.execute(small_unet(seed=1), mask, "sks", "keep both", apply_anyway=True)
    assert '"a/../../b" cannot be a file name' in export.validate_inputs("a/../../b")
    assert export.validate_inputs("people/sks") is True
