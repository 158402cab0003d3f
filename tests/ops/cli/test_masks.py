"""`cones info` and `cones export`, on files made here: a checkpoint, and the UNet folder that diffusers writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cones_ops import ConceptMask, save_mask
from cones_ops.cli import main
from cones_ops.masks.fingerprint import fingerprint

NAME = "input_blocks.1.1.transformer_blocks.0.attn2.to_{}.weight"
DIFFUSERS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_{}.weight"
CONFIG = {
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
}
WEIGHTS = {part: torch.randn(4, 3, generator=torch.Generator().manual_seed(i)).half() for i, part in enumerate("kv")}


@pytest.fixture
def mask() -> ConceptMask:
    weights = {NAME.format(part): weight for part, weight in WEIGHTS.items()}
    index = {NAME.format("v"): torch.tensor([1, 11])}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    return ConceptMask(index, shapes, "sks", "star", "everywhere", fingerprint(weights), {"method": "learned"})


@pytest.fixture(params=["checkpoint", "folder"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "checkpoint":
        stored = {f"model.diffusion_model.{NAME.format(part)}": weight for part, weight in WEIGHTS.items()}
        save_file(stored | {"first_stage_model.x": torch.zeros(1)}, tmp_path / "base.safetensors")
        return tmp_path / "base.safetensors"
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps(CONFIG))
    stored = {DIFFUSERS.format(part): weight for part, weight in WEIGHTS.items()}
    save_file(stored, tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    return tmp_path / "base"


def test_export(mask: ConceptMask, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = save_mask(mask, tmp_path / "sks.safetensors"), tmp_path / "loras" / "sks.safetensors"
    assert main(["export", str(file), str(base), "--out", str(out)]) == 0
    assert "2 neurons of 'sks star'" in capsys.readouterr().out
    ((key, delta),) = load_file(out).items()
    assert key == "diffusion_model." + NAME.format("v").removesuffix("weight") + "diff"
    assert ((WEIGHTS["v"] + delta) == 0).flatten().nonzero().flatten().tolist() == [1, 11]
    assert main(["export", str(file), str(base), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", str(file), str(base), "--out", str(out), "--overwrite"]) == 0


def test_another_base(mask: ConceptMask, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_mask(replace(mask, fingerprint="0" * 64), tmp_path / "sks.safetensors")
    command = ["export", str(file), str(base), "--out", str(tmp_path / "lora.safetensors")]
    assert main(command) == 2 and "allow --any-base" in capsys.readouterr().err
    assert main([*command, "--any-base"]) == 0


@pytest.mark.parametrize(
    ("where", "base", "message"),
    [
        ("own tokens", "base.safetensors", "acts at its own tokens"),
        ("everywhere", "nothing.safetensors", "no such .safetensors file"),
        ("everywhere", "empty", "no unet/config.json"),
        ("everywhere", "other.safetensors", "among its 1 weights such as other.weight"),
        ("everywhere", "broken.safetensors", "is it whole?"),
    ],
)
def test_what_is_refused(
    mask: ConceptMask, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str, base: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    save_file({"other.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    file = save_mask(replace(mask, where=where), tmp_path / "sks.safetensors")  # type: ignore[arg-type]
    out = tmp_path / "lora.safetensors"
    assert main(["export", str(file), str(tmp_path / base), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()


def test_info(mask: ConceptMask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save_mask(mask, tmp_path / "sks.safetensors", cover=b"PNG", thumbnail=b"JPEG")
    assert main(["info", str(file)]) == 0
    told = capsys.readouterr().out
    assert "sks star: 2 of 24 searched neurons" in told and "method: learned" in told
    assert f"Cover picture: {file.with_suffix('.png')}, inside the file" in told
    assert f"{NAME.format('v')}: 2 of 12 (16.67%)" in told


def test_show(mask: ConceptMask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One mask by layer; two with what they share, a figure of another height."""
    pytest.importorskip("matplotlib")
    files = [
        str(save_mask(replace(mask, identifier=name), tmp_path / f"{name}.safetensors")) for name in ("sks", "zwx")
    ]
    pictures = [tmp_path / "figures" / "layers.png", tmp_path / "figures" / "shared.png"]
    assert main(["show", files[0], "--figure", str(pictures[0])]) == 0
    assert main(["show", *files, "--figure", str(pictures[1])]) == 0
    assert [Image.open(picture).size for picture in pictures] == [(640, 540), (640, 644)]
    assert capsys.readouterr().out == f"saved {pictures[0]}\nsaved {pictures[1]}\n"
    assert main(["show", files[0], "--figure", str(pictures[0])]) == 2
    assert "exists already" in capsys.readouterr().err
