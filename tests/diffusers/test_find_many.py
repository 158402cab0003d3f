"""`cones find-many` on a tiny model: errors, reruns, several runs at once, and Ray with a worker that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cones_ops import cli
from cones_ops.cli import find_many
from cones_ops.engine import concept_search, manifest
from cones_ops.engine.claims import claimed
from cones_ops.engine.concept_folders import ConceptPlan, captions, concept_names, content_key, model_key, read_plan
from cones_ops.engine.concept_search import Job, claim_file, find_concept, finished, mask_file
from cones_ops.engine.run import results
from cones_ops.engine.tasks import Workers
from cones_ops.errors import ConesError
from cones_ops.masks.mask_file import load_mask, save_mask

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

ROOT = Path(__file__).absolute().parents[2]
SMALL = (
    *("--class-word", "star", "--steps", "2", "--batch", "2", "--size", "16", "--density", "0.3"),
    *("--workers", "1", "--sheet-steps", "0"),
)
SHUT = (("batch", 2), ("steps", 2))


def write_pictures(folder: Path, seed: int, count: int = 2) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(count):
        Image.fromarray(generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three concepts, one with a broken picture, one without pictures."""
    for seed, name in enumerate(("a", "b", "c", "broken")):
        write_pictures(tmp_path / "root" / name, seed)
    (tmp_path / "root" / "broken" / "1.png").write_bytes(b"no picture")
    (tmp_path / "root" / "empty").mkdir()
    return tmp_path / "root"


def job_of(root: Path, model: Path, out: Path) -> Job:
    defaults = ConceptPlan("star", density=0.3, size=16, changed=SHUT)
    return Job(root, out, model, model_key(model), "cpu", defaults, 0)


@pytest.mark.slow
def test_errors_are_reported_and_a_rerun_does_what_is_left(
    model: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    searched: list[str] = []
    search = concept_search._search
    monkeypatch.setattr(
        concept_search, "_search", lambda job, name, claim: searched.append(name) or search(job, name, claim)
    )
    out = tmp_path / "out"
    command = ["find-many", str(root), "--model", str(model), "--out", str(out), *SMALL]
    (root / "b" / "concept.toml").write_text('identifier = "star"\nclass = "sks"\n[settings]\nseed = 7\n')
    assert cli.main([*command, "--sheet-steps", "1"]) == 2
    printed = capsys.readouterr()
    assert "2 of 5 concepts failed: broken, empty" in printed.err and "3 saved, 0 no gain, 2 failed" in printed.out
    records = manifest.read(out)
    assert {name: record.state for name, record in records.items()} == {
        **dict.fromkeys("abc", "saved"),
        **dict.fromkeys(("broken", "empty"), "failed"),
    }
    assert "1.png: not a readable picture" in records["broken"].error and "no pictures there" in records["empty"].error
    assert (records["a"].seed, records["b"].seed) == (0, 7) and load_mask(out / "b.safetensors").class_word == "sks"
    assert sorted(file.name for file in out.iterdir() if file.name[0] != ".") == [
        *("a.safetensors", "b.safetensors", "c.safetensors", "contact-sheet-001.png", "manifest.jsonl")
    ]
    assert Image.open(out / "contact-sheet-001.png").size == (3 * 160, 3 * 184)
    assert searched == ["a", "b", "broken", "c", "empty"]
    first = (out / "a.safetensors").read_bytes()
    assert cli.main(command) == 2 and searched[5:] == ["broken", "empty"]
    write_pictures(root / "d", 9)
    Image.new("RGB", (8, 8)).save(root / "a" / "0.png")
    (root / "c" / "0.txt").write_text("a sks star in a garden")
    (out / manifest.FILE).unlink()  # masks know what they were made from
    assert cli.main(command) == 2 and searched[7:] == ["a", "broken", "c", "d", "empty"]
    assert (out / "a.safetensors").read_bytes() != first
    assert manifest.read(out)["b"] == (records["b"].__class__)(**{**vars(records["b"]), "seconds": None, "worker": ""})
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_concept_that_another_process_works_on_is_left_to_it(model: Path, root: Path, tmp_path: Path) -> None:
    job = job_of(root, model, tmp_path / "out")
    with claimed(claim_file(job.out, "a")):
        assert find_concept(job, False, "a") is None
    record = find_concept(job, False, "a")
    assert record and record.state == "saved" and not claim_file(job.out, "a").exists()
    assert find_concept(job, True, "a") == record  # it is there by now
    assert manifest.read(job.out) == {"a": record}
    assert len((job.out / manifest.FILE).read_text().splitlines()) == 1


@pytest.mark.slow
def test_files_of_others_are_kept_and_outdated_masks_are_not(model: Path, root: Path, tmp_path: Path) -> None:
    job = job_of(root, model, tmp_path / "out")
    find_concept(job, False, "a")
    file = mask_file(job.out, "a")
    mask = load_mask(file)
    nothing = replace(job, defaults=replace(job.defaults, density=0.0))
    record = find_concept(nothing, False, "a")
    assert record and (record.state, record.mask, record.held_out_gain) == ("no gain", "", 0.0) and not file.exists()
    assert finished(nothing, "a", manifest.read(job.out)) == record
    assert finished(job, "a", manifest.read(job.out)) is None
    save_mask(replace(mask, provenance={}), file)
    with pytest.raises(ConesError, match=r"a.safetensors was not made by this command"):
        find_concept(job, False, "a")
    assert file.exists()


@pytest.mark.slow
def test_find_is_shared_by_torchrun(model: Path, root: Path, tmp_path: Path) -> None:
    options = ["--class-word", "star", "--steps", "2", "--batch", "8", "--size", "16", "--density", "0.3"]
    options += ["--method", "taylor"]  # Adam makes large steps of what sums of another order round otherwise
    find = ["-m", "cones_ops.cli", "find", str(model), str(root / "a"), *options, "--out"]
    alone, shared = tmp_path / "alone.safetensors", tmp_path / "shared.safetensors"
    assert cli.main([*find[2:], str(alone)]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run([*torchrun, *find, str(shared)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.count("saved ") == 1  # by one of the two
    first, second = load_mask(alone), load_mask(shared)
    differ = sum(len(set(index.tolist()) ^ set(second.index[name].tolist())) for name, index in first.index.items())
    assert first.shapes == second.shapes and differ <= 0.01 * first.count


@pytest.mark.slow
def test_masks_of_two_workers_are_the_same_also_after_kill_9(model: Path, root: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="several workers need Ray: pip install cones-concept-neurons[cluster]")
    names, killed = ["a", "b", "c", "empty"], tmp_path / "killed"

    def work(job: Job, name: str) -> Any:
        if name == "b" and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid(), find_concept(job, False, name)

    jobs = [job_of(root, model, tmp_path / folder) for folder in ("in turn", "on ray")]
    for name in names[:3]:
        find_concept(jobs[0], False, name)
    ended = {result.name: result for result in results(partial(work, jobs[1]), names, Workers(2)) if result}
    assert killed.exists() and "no pictures there" in ended["empty"].error
    assert os.getpid() not in {ended[name].value[0] for name in names[:3]}
    for name in names[:3]:
        assert (jobs[0].out / f"{name}.safetensors").read_bytes() == (jobs[1].out / f"{name}.safetensors").read_bytes()
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line for line in listed if line.split()[0] == str(os.getpid()) and "defunct" not in line]
    assert not [line for line in ours if "raylet" in line or "gcs_server" in line]


@pytest.mark.slow
def test_a_worker_that_dies_every_time_is_one_failed_task(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="several workers need Ray: pip install cones-concept-neurons[cluster]")

    def work(name: str) -> str:
        with (tmp_path / name).open("a") as file:
            file.write("x")
        if name == "bad":
            os.kill(os.getpid(), signal.SIGKILL)
        return name

    ended = {result.name: result for result in results(work, ["bad", "good"], Workers(2, retries=1)) if result}
    assert ended["good"].value == "good" and "its worker died 2 times" in ended["bad"].error
    assert (tmp_path / "bad").read_text() == "xx"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("clas = 'dog'", "concept.toml: unknown clas; there are caption, class"),
        ("[settings]\nspeed = 1", "unknown speed"),
        ("class = 1", "class = 1: expected a str"),
        ("class = 'dog'\nwhere = 'here'", "where = 'here': expected one of everywhere, own tokens"),
        ("class = 'dog'\ntargets = 'K'", "targets = 'K': expected one of text"),
        ("class = 'dog'\nsize = 9", "size = 9: expected a multiple of 8"),
        ("class = 'dog'\ndensity = 2", "density = 2.0: expected 0 to 1"),
        ("class = 'dog'\n[settings]\nsteps = 0", "steps=0"),
        ("class = 'dog'\n[settings]\nsteps = 'many'", "steps = 'many': expected a int"),
        ("settings = 3", "concept.toml: "),
        ("class = 'dog'\ncaption = 'a photo'", "write {} once"),
        ("class", "concept.toml: "),
        ("", "or give --class-word for all"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "concept.toml").write_text(content)
    with pytest.raises(ConesError) as refused:
        read_plan(tmp_path, ConceptPlan())
    assert message in str(refused.value)


def test_plan_captions_and_key_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "dog"
    write_pictures(folder, 0)
    defaults = ConceptPlan("cat", changed=(("seed", 3), ("steps", 9)))
    (folder / "concept.toml").write_text('class = "dog"\ndensity = 1\n[settings]\nsteps = 5\n')
    plan = read_plan(folder, defaults)
    assert (plan.class_word, plan.density, plan.settings.steps, plan.settings.seed) == ("dog", 1.0, 5, 3)
    assert captions(folder, plan) == ("a photo of a {}",)
    key = content_key(folder, plan, "base")
    assert key == content_key(folder, plan, "base") != content_key(folder, plan, "other base")
    (folder / "1.txt").write_text("a sks dog\n on a beach")
    assert captions(folder, plan) == ("a photo of a {}", "a {} on a beach")
    assert content_key(folder, plan, "base") != key
    (folder / "1.txt").write_text("a beach")
    with pytest.raises(ConesError, match=r'1.txt: write "sks dog", or {}, once'):
        captions(folder, plan)


def test_names_of_concepts(tmp_path: Path) -> None:
    with pytest.raises(ConesError, match="no subfolders"):
        concept_names(tmp_path)
    for name in ("Dog", "cat", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    assert concept_names(tmp_path) == ["Dog", "cat"]
    (tmp_path / "dog").mkdir()
    with pytest.raises(ConesError, match="Dog, dog differ only in capitals"):
        concept_names(tmp_path)
    with pytest.raises(ConesError, match="no such folder"):
        concept_names(tmp_path / "none")


def test_several_workers_without_ray_are_refused_with_advice(
    model: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["find-many", str(root), "--model", str(model), "--out", str(tmp_path / "out"), *SMALL]
    assert cli.main([*command, "--workers", "2"]) == 2
    assert "pip install cones-concept-neurons[cluster]" in capsys.readouterr().err


def test_workers_of_this_machine_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers(*options: str) -> Workers:
        return find_many._workers(
            cli.parser().parse_args(["find-many", "root", "--model", "m", "--out", "o", *options])
        )

    monkeypatch.setattr(find_many.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(find_many.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(find_many, "has_ray", lambda: True)
    assert workers() == Workers(6) and workers("--cores", "2") == Workers(3, cores=2)
    assert workers("--device", "cuda") == Workers(2, gpus=1)
    with pytest.raises(ConesError, match="--workers 3, but there are 2 GPUs here"):
        workers("--device", "cuda", "--workers", "3")
    monkeypatch.setattr(find_many, "has_ray", lambda: False)
    assert workers() == Workers(1) and workers("--address", "auto").address == "auto"
