"""`cones bench dreambench` from end to end on tiny models with random weights (its arithmetic: tests/ops)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cones_ops import cli, from_ranking
from cones_ops.laboratory.dreambench import tasks
from cones_ops.laboratory.dreambench.prompts import LIVE_PROMPTS, PAIR_PROMPTS
from cones_ops.masks.mask_file import load_mask, save_mask

pytestmark = pytest.mark.slow  # the whole file: it builds models

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
OWN_PROMPTS = """subject_name,class
mug2,mug
Object Prompts
'a {0} {1} in a test'.format(unique_token, class_token),
Live Subject Prompts
'a {0} {1} that sings'.format(unique_token, class_token),
"""


@pytest.fixture(scope="module")
def judges(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny ViT and a tiny CLIP model with random weights."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(1)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**size, "image_size": 16, "patch_size": 8}
    transformers.ViTModel(transformers.ViTConfig(**vision)).save_pretrained(folder / "dino")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "dino")
    tokens = {"vocab_size": 59, "max_position_embeddings": 24, "bos_token_id": 57, "eos_token_id": 58}
    text = {**size, **tokens, "pad_token_id": 58}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder / "clip")
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pictures.save_pretrained(folder / "clip")
    transformers.CLIPTokenizer.from_pretrained(str(model / "tokenizer")).save_pretrained(folder / "clip")
    return folder / "dino", folder / "clip"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two subjects with three pictures each."""
    folder = tmp_path / "data"
    generator = np.random.default_rng(0)
    for name in ("rex", "mug2"):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            noise = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{i:02}.jpg")
    (folder / "subjects.csv").write_text("subject,class,live\nrex,dog,yes\nmug2,mug,no\n", encoding="utf-8")
    return folder


Run = Callable[..., int]


@pytest.fixture
def bench(model: Path, judges: tuple[Path, Path], data: Path, tmp_path: Path) -> Run:
    """`bench(*arguments)`: the command with 2 prompts, 1 sample and few steps, into tmp_path / "out"."""
    folders = ["--model", model, "--data", data, "--dino", judges[0], "--clip", judges[1], "--out", tmp_path / "out"]
    small = ["--prompts", 2, "--samples", 1, "--steps", 2, "--size", 16, "--find-steps", 2, "--batch", 64]
    return lambda *more: cli.main(["bench", "dreambench", *map(str, (*folders, *small, *more))])


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder).as_posix()) for file in folder.rglob("*") if file.is_file())


def test_a_whole_run(bench: Run, judges: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--json", tmp_path / "all.json") == 0
    report = json.loads(capsys.readouterr().out)
    out = tmp_path / "out"
    assert files(out) == [
        "masks/mug2-sks.safetensors",
        "masks/rex-sks.safetensors",
        "subjects/mug2.json",
        "subjects/mug2/00-0.png",
        "subjects/mug2/01-0.png",
        "subjects/rex.json",
        "subjects/rex/00-0.png",
        "subjects/rex/01-0.png",
    ]
    cell = json.loads((out / "subjects" / "rex.json").read_text())
    assert [one["prompt"] for one in cell["prompts"]] == [p.format("sks dog") for p in LIVE_PROMPTS[:2]]
    assert cell["dino"] == pytest.approx(sum(one["dino"] for one in cell["prompts"]) / 2, abs=2e-6)
    summary, cells = report["summary"], json.loads((tmp_path / "all.json").read_text())["cells"]
    assert [one["name"] for one in cells] == ["rex", "mug2"] and cells[0] == cell
    assert summary["clip_t"]["value"] == pytest.approx((cells[0]["clip_t"] + cells[1]["clip_t"]) / 2)
    assert summary["real_clip_i"]["n"] == 2 and set(summary["by_class"]) == {"dog", "mug"}
    by_hand = dino_by_hand(judges[0], tmp_path / "data" / "rex", out / "subjects" / "rex" / "01-0.png")
    assert cell["prompts"][1]["dino"] == pytest.approx(by_hand, abs=1e-5)


def dino_by_hand(folder: Path, real: Path, drawn: Path) -> float:
    """Mean cosine of the CLS tokens, with nothing of ours but the centred crop to a square of 16 pixels."""
    vit = transformers.ViTModel.from_pretrained(folder)

    def embedded(file: Path) -> Any:
        picture = Image.open(file).convert("RGB")
        if picture.width > picture.height:
            picture = picture.resize((16, 16), Image.Resampling.BICUBIC, (2, 0, 22, 20))
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            return vit(pixels).last_hidden_state[0, 0]

    ours = embedded(drawn)
    return float(np.mean([torch.cosine_similarity(ours, embedded(file), dim=0) for file in real.iterdir()]))


def test_a_run_goes_on_where_it_was(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert bench("--subjects", "rex") == 0
    assert bench() == 0
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    (out / "subjects" / "rex.json").unlink()
    assert bench() == 0
    changed = {name for name in files(out) if (out / name).stat().st_mtime_ns != before[name]}
    assert changed == {"subjects/rex.json", "subjects/rex/00-0.png", "subjects/rex/01-0.png"}  # no search, no mug
    with monkeypatch.context() as patch:
        patch.setattr(tasks, "load", lambda options: pytest.fail("nothing is left to do"))
        assert bench() == 0
    assert bench("--again", "--subjects", "mug2") == 0
    assert (out / "masks" / "mug2-sks.safetensors").stat().st_mtime_ns > before["masks/mug2-sks.safetensors"]


def test_other_settings_are_not_mixed(bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--subjects", "rex", "--untouched")
    assert bench(*quick) == 0
    for more, told in ((("--steps", 3), "steps 2, now 3"), (("--prompts", 1), "made with 2 prompts")):
        assert bench(*quick, *more) == 2
        assert told in capsys.readouterr().err
    assert bench("--subjects", "rex") == 2
    assert "untouched True, now False" in capsys.readouterr().err
    (tmp_path / "out" / "subjects" / "rex.json").write_text("{}")
    assert bench(*quick) == 2
    assert "not a cell of this benchmark" in capsys.readouterr().err


def test_masks_are_put_on_the_model(bench: Run, tmp_path: Path, data: Path) -> None:
    out = tmp_path / "out"
    assert bench("--subjects", "rex", "--prompts", 1, "--untouched", "--out", tmp_path / "vanilla") == 0
    assert not (tmp_path / "vanilla" / "masks").exists()
    assert bench("--subjects", "rex", "--prompts", 1) == 0
    file = out / "masks" / "rex-sks.safetensors"
    mask = load_mask(file)
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.rand(shape, generator=generator) for name, shape in mask.shapes.items()}
    save_mask(replace(mask, index=from_ranking(random, 0.5).index), file, "overwrite")
    (out / "subjects" / "rex.json").unlink()
    assert bench("--subjects", "rex", "--prompts", 1) == 0
    drawn = [np.asarray(Image.open(one / "subjects" / "rex" / "00-0.png")) for one in (out, tmp_path / "vanilla")]
    assert not np.array_equal(*drawn)
    cell = json.loads((out / "subjects" / "rex.json").read_text())
    assert cell["subjects"][0]["density"] == pytest.approx(0.5, abs=0.001)
    (out / "subjects" / "rex.json").unlink()
    Image.new("RGB", (20, 20), "red").save(data / "rex" / "00.jpg")  # a mask of other pictures is not used again
    assert bench("--subjects", "rex", "--prompts", 1) == 0
    assert load_mask(file).provenance["picture_digest"] != mask.provenance["picture_digest"]


def test_two_subjects(bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("subject_a,subject_b\nrex,mug2\n", encoding="utf-8")
    assert bench("--pairs", pairs) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["prompts_from"] == "our wording" and report["summary"]["real_dino"]["n"] == 2
    out = tmp_path / "out"
    assert {load_mask(file).identifier for file in (out / "masks").iterdir()} == {"sks", "ktn"}
    cell = json.loads((out / "pairs" / "rex+mug2.json").read_text())
    assert cell["prompts"][0]["prompt"] == PAIR_PROMPTS[0].format("sks dog", "ktn mug")
    for score in ("dino", "clip_i"):
        assert cell[score] == pytest.approx(sum(one[score] for one in cell["subjects"]) / 2, abs=2e-6)
    assert bench("--pairs", pairs, "--subjects", "rex") == 2
    assert "name both of a pair" in capsys.readouterr().err


def test_the_data_folders_own_prompts_are_used(bench: Run, tmp_path: Path, data: Path) -> None:
    (data / "prompts_and_classes.txt").write_text(OWN_PROMPTS, encoding="utf-8")
    assert bench("--subjects", "mug2", "--prompts", 1, "--untouched") == 0
    cell = json.loads((tmp_path / "out" / "subjects" / "mug2.json").read_text())
    assert [one["prompt"] for one in cell["prompts"]] == ["a sks mug in a test"]


def test_what_is_missing_is_named(
    bench: Run, data: Path, judges: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "rex" / "00.jpg").write_bytes(b"no picture")
    with (data / "subjects.csv").open("a") as table:
        table.write("ann,woman,yes\nbob,man,yes\n")
    (data / "bob").mkdir()
    for more, told in (
        (("--model", data), "no model_index.json"),
        (("--dino", judges[1]), "a model of type 'clip', expected 'vit'"),
        (("--clip", data), "no readable config.json"),
        (("--data", data / "rex"), "subjects.csv with the columns"),
        ((), "no folder of pictures for ann"),
        (("--subjects", "bob"), "no pictures there"),
        (("--subjects", "rex"), "replace it or take it out"),
        (("--subjects", "zoe"), "no subject is called zoe"),
        (("--find-steps", 0), "--find-steps 0: expected 1 or more"),
        (("--identifiers", "sks", "SKS"), "two different words"),
    ):
        assert bench(*more) == 2
        assert told in capsys.readouterr().err


def test_a_judge_without_weights_is_refused(
    bench: Run, judges: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text((judges[0] / "config.json").read_text())
    assert bench("--dino", tmp_path / "bare") == 2
    assert "each needs its weights" in capsys.readouterr().err
