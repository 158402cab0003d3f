"""`cones demo --comfyui`: the main job through a real ComfyUI server and the shipped workflow files.

`find-a-concept.json` runs once per subject (find, save, sample), `compose-two-concepts.json` samples with the saved
masks, each alone and both together; all of it at own tokens and everywhere. The judge reads the pictures here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..concept_mask import Where
from ..mask_file import load_mask
from .captions import Told, describe
from .comfyui_server import PACK, Prompt, Server, find_host, started, to_api
from .demo_grid import Row, save_grid
from .judge import Judge, Reading, load_judge, read, shows
from .measure import COMPANIONS, Measured, drift
from .subjects import Subject, subject
from .world import SIDE, Scene

FIND, COMPOSE, GROUND = "find-a-concept", "compose-two-concepts", "white"
WHERES: tuple[Where, ...] = ("own tokens", "everywhere")
Pair = tuple[Measured, Measured]  # without and with the masks, from the same noise


@dataclass(frozen=True)
class Session:
    """A running server with the shipped workflows in API form."""

    server: Server
    workflows: Mapping[str, dict[str, Any]]
    judge: Judge
    base: Path
    samples: int
    bar: tqdm[Any]

    def prompt(self, name: str) -> Prompt:
        """A shipped workflow, ready to be changed and run."""
        return to_api(self.workflows[name], json.loads(self.server.request("/object_info")))

    def run(self, name: str, prompt: Prompt, text: str, wanted: Callable[[Reading], bool]) -> Pair:
        """Run a workflow with `text` as what to draw; its pictures without and with the masks."""
        for node_id in {node["inputs"]["positive"][0] for node in prompt.values() if node["class_type"] == "KSampler"}:
            prompt[node_id]["inputs"]["text"] = text
        changed(prompt, "EmptyLatentImage", batch_size=self.samples)
        outputs = self.server.run(prompt)
        self.bar.update()
        titles = {str(node["id"]): node.get("title", "") for node in self.workflows[name]["nodes"]}
        without, with_ = (
            next(output for node_id, output in outputs.items() if titles[node_id].startswith(word))
            for word in ("Without", "With the")
        )
        return self._judged(text, without, wanted), self._judged(text, with_, wanted)

    def _judged(self, text: str, output: Mapping[str, Any], wanted: Callable[[Reading], bool]) -> Measured:
        pictures = self.server.pictures(output)  # (n, H, W, 3), pixels repeated by the workflow's enlarging
        step = pictures.shape[1] // SIDE
        small = torch.from_numpy(pictures[:, ::step, ::step].copy()).movedim(3, 1).float() / 255  # (n, 3, 64, 64)
        return Measured(text, small, tuple(wanted(reading) for reading in read(self.judge, small)))


def run(host: Path | None, out: Path, quick: bool = False) -> dict[str, Any]:
    """Run the demo in the ComfyUI at `host` (None: look for one); writes pictures, masks and JSON into `out`."""
    began = time.monotonic()
    judge, host = load_judge(), find_host(host)
    subjects = [subject("sks"), subject("zwx")]
    files = {name: PACK / "workflows" / f"{name}.json" for name in (FIND, COMPOSE)}
    workflows = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cones-comfyui-") as folder, tqdm(total=19, desc="ComfyUI") as bar:
        base = Path(folder)
        with started(host, base) as server:
            session = Session(server, workflows, judge, base, 8 if quick else 32, bar)
            version = json.loads(server.request("/system_stats"))["system"]["comfyui_version"]
            found = [_concept(session, one, where, quick) for where in WHERES for one in subjects]
            scene = Scene(tuple(zip(("left", "right"), (one.thing for one in subjects), strict=True)), GROUND)
            spelled = session.run(COMPOSE, session.prompt(COMPOSE), describe(scene), partial(_both, subjects))
            pairs = [_pair(session, subjects, where, spelled) for where in WHERES]
        shutil.copytree(base / "models" / "concept_masks", out / "concept_masks", dirs_exist_ok=True)
    rows = [row for _, more in (*found, *pairs) for row in more]
    save_grid([*rows, *_rows(spelled)], out / "demo-comfyui.png")
    report = {
        "concepts": [entry for entry, _ in found],
        "pair": [entry for entry, _ in pairs],
        "positive_control": None,
        "samples_per_share": session.samples,
        "seconds_total": round(time.monotonic() - began, 1),
        "versions": {"comfyui": version, "torch": torch.__version__},
    }
    (out / "demo-comfyui.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def changed(prompt: Prompt, class_type: str, **inputs: Any) -> None:
    """Set inputs of every node of one class; input `x_1` and the like may be given."""
    for node in prompt.values():
        if node["class_type"] == class_type:
            node["inputs"].update(inputs)


def searching_everywhere(prompt: Prompt) -> None:
    """Change find-a-concept: pictures of the subject alone, one prompt for all, the class prompt as the prior."""
    (subject,) = [name for name, node in prompt.items() if node["class_type"] == "ConesToySubject"]
    (find,) = [node for node in prompt.values() if node["class_type"] == "ConesFindConceptNeurons"]
    encode = prompt[find["inputs"]["subject_conditioning"][0]]["inputs"]
    encode.update(text=[subject, 1], prompt_per_line=False)
    prompt["class"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": encode["clip"], "text": [subject, 2]}}
    find["inputs"].update(where="everywhere", class_conditioning=["class", 0], steps=300, batch=16)
    prompt[subject]["inputs"]["beside"] = 0


def _shown(one: Subject, reading: Reading) -> bool:
    return shows(reading, one.thing)


def _both(subjects: Sequence[Subject], reading: Reading) -> bool:
    return all(shows(reading, one.thing) for one in subjects)


def _mask_name(one: Subject, where: Where) -> str:
    return f"toy-{one.identifier}-{one.class_word}{'-everywhere' if where == 'everywhere' else ''}"


def _concept(session: Session, one: Subject, where: Where, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    """Find, save and sample with one subject's mask."""
    began = time.monotonic()
    prompt, name = session.prompt(FIND), _mask_name(one, where)
    changed(prompt, "ConesToySubject", subject=one.identifier)
    changed(prompt, "ConesSaveConceptMask", name=name, if_exists="overwrite")
    if where == "everywhere":
        searching_everywhere(prompt)
    if quick:
        changed(prompt, "ConesFindConceptNeurons", steps=100, batch=8)
    shown = session.run(FIND, prompt, f"{one.prompt} on a {GROUND} background", partial(_shown, one))
    seconds = time.monotonic() - began
    leak = _alone(session, name, f"{one.class_prompt} on a {GROUND} background", partial(_shown, one))
    other = next(thing for thing in COMPANIONS if thing.shape != one.thing.shape)
    phrase = Told(other.shape, (other.colour,), other.texture, None).phrase
    text = f"{one.prompt} on the left and {phrase} on the right on a {GROUND} background"
    second = _alone(session, name, text, lambda r: dict(r.things).get("right") == other)
    file = session.base / "models" / "concept_masks" / f"{name}.safetensors"
    mask = load_mask(file)
    entry = {
        "identifier": one.identifier,
        "class_word": one.class_word,
        "method": mask.provenance["method"],
        "where": mask.where,
        "neurons": mask.count,
        "density": mask.density,
        "file_bytes": file.stat().st_size,
        "heldout_before": float(mask.provenance["held_out_before"]),
        "heldout_after": float(mask.provenance["held_out_after"]),
        **_shares("subject_share", shown),
        **_shares("class_share", leak),
        "class_drift": drift(*leak),
        **_shares("second_object", second),
        "seconds": round(seconds, 1),
    }
    reference = torch.from_numpy(one.reference_pictures(beside=prompt_beside(prompt))[0])
    rows = [Row(f'"{one.prompt}" in ComfyUI, {where}'), Row("reference pictures", "what the search saw", reference)]
    return entry, [*rows, *_rows(shown), *_rows(leak), *_rows(second)]


def prompt_beside(prompt: Prompt) -> int:
    """How many reference pictures of a prompt show another thing too."""
    return next(int(node["inputs"]["beside"]) for node in prompt.values() if node["class_type"] == "ConesToySubject")


def _alone(session: Session, name: str, text: str, wanted: Callable[[Reading], bool]) -> Pair:
    """Sample with one saved mask only."""
    prompt = session.prompt(COMPOSE)
    changed(prompt, "ConesLoadConceptMask", mask_name=f"{name}.safetensors")
    changed(prompt, "ConesApplyConceptMasks", enabled_2=False)
    return session.run(COMPOSE, prompt, text, wanted)


def _pair(
    session: Session, subjects: Sequence[Subject], where: Where, spelled: Pair
) -> tuple[dict[str, Any], list[Row]]:
    """Both saved masks loaded, as the second workflow has it."""
    first, second = subjects
    ground = f"on a {GROUND} background"

    def sampled(text: str, wanted: Callable[[Reading], bool]) -> Pair:
        prompt = session.prompt(COMPOSE)
        loaders = [node for node in prompt.values() if node["class_type"] == "ConesLoadConceptMask"]
        for node, one in zip(loaders, subjects, strict=True):
            node["inputs"]["mask_name"] = f"{_mask_name(one, where)}.safetensors"
        return session.run(COMPOSE, prompt, text, wanted)

    alone = [sampled(f"{one.prompt} {ground}", partial(_shown, one)) for one in subjects]
    text = f"{first.prompt} on the left and {second.prompt} on the right {ground}"
    pair = sampled(text, partial(_both, subjects))
    entry = {
        "where": where,
        "first_alone": alone[0][1].share,
        "second_alone": alone[1][1].share,
        "both": pair[1].share,
        "both_full_caption": spelled[0].share,
    }
    return entry, [Row(f"Both masks loaded, {where}"), *_rows(alone[0]), *_rows(alone[1]), *_rows(pair)]


def _shares(name: str, pair: Pair) -> dict[str, float]:
    return {f"{name}_before": pair[0].share, f"{name}_after": pair[1].share}


def _rows(pair: Pair) -> list[Row]:
    return [
        Row(one.prompt[:48], f"{word}: {one.share:.0%} of {len(one.hits)} as asked", one.pictures, one.hits)
        for word, one in zip(("without", "with"), pair, strict=True)
    ]
