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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...masks.concept_mask import Where
from ...masks.mask_file import load_mask
from ...toy_world.subjects import Subject, subject
from ...toy_world.world import SIDE
from ..comfyui.checkout import PACK, find_host, find_python
from ..comfyui.server import Server, started
from ..comfyui.workflow import Prompt, to_prompt
from ..judge import Judge, Reading, load_judge, read
from ..measure import (
    Measured,
    PictureRequest,
    all_request,
    class_request,
    described_request,
    drift,
    second_request,
    subject_request,
)
from ..picture_grid import GridRow, save_grid
from .run import WHERES

FIND, COMPOSE = "find-a-concept", "compose-two-concepts"
PATIENCE = 3600  # seconds that one prompt may take
BeforeAfter = tuple[Measured, Measured]  # without and with the masks, from the same noise


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
        return to_prompt(self.workflows[name], self.server.object_info())

    def measured(self, request: PictureRequest, names: Sequence[str]) -> BeforeAfter:
        """Pictures without and with the saved masks `names` (one or two); equal prompts are one batch."""
        prompts, wanted = request
        pictures: list[dict[int, Tensor]] = [{}, {}]
        for text in dict.fromkeys(prompts):
            places = [i for i, one in enumerate(prompts) if one == text]
            for kept, batch in zip(pictures, self._composed(text, names, len(places)), strict=True):
                kept.update(zip(places, batch, strict=True))
            self.bar.update(len(places))
        without, with_ = (self._judged(prompts[0], [kept[i] for i in sorted(kept)], wanted) for kept in pictures)
        return without, with_

    def _composed(self, text: str, names: Sequence[str], count: int) -> list[Tensor]:
        """Run compose-two-concepts: (count, 3, 64, 64) pictures without, and with the masks."""
        prompt = self.prompt(COMPOSE)
        loaders = [node for node in prompt.values() if node["class_type"] == "ConesLoadConceptMask"]
        for node, name in zip(loaders, (names[0], names[-1]), strict=True):
            node["inputs"]["mask_name"] = f"{name}.safetensors"
        changed(prompt, "ConesApplyConceptMasks", enabled_2=len(names) > 1)
        for node_id in {node["inputs"]["positive"][0] for node in prompt.values() if node["class_type"] == "KSampler"}:
            prompt[node_id]["inputs"]["text"] = text
        changed(prompt, "EmptyLatentImage", batch_size=count)
        run = self.server.run(prompt, PATIENCE)
        titles = {str(node["id"]): node.get("title", "") for node in self.workflows[COMPOSE]["nodes"]}
        return [
            small(run.images(next(node_id for node_id in run.outputs if titles[node_id].startswith(word))))
            for word in ("Without", "With the")
        ]

    def _judged(self, text: str, pictures: Sequence[Tensor], wanted: Sequence[Callable[[Reading], bool]]) -> Measured:
        small = torch.stack(list(pictures))
        readings = read(self.judge, small)
        return Measured(text, small, tuple(bool(hit(one)) for hit, one in zip(wanted, readings, strict=True)))


def run(host: Path | None, out: Path, quick: bool = False) -> dict[str, Any]:
    """Run the demo in the ComfyUI at `host` (None: look for one); writes pictures, masks and JSON into `out`."""
    began = time.monotonic()
    judge, host = load_judge(), find_host(host)
    subjects = [subject("sks"), subject("zwx")]
    files = {name: PACK / "workflows" / f"{name}.json" for name in (FIND, COMPOSE)}
    workflows = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cones-comfyui-") as folder, tqdm(desc="pictures from ComfyUI") as bar:
        base = Path(folder)
        with started(host, base, python=find_python(host)) as server:
            session = Session(server, workflows, judge, base, 8 if quick else 32, bar)
            version = server.json("/system_stats")["system"]["comfyui_version"]
            found = [_concept(session, one, where, quick) for where in WHERES for one in subjects]
            names = [_mask_name(one, WHERES[0]) for one in subjects]
            spelled = session.measured(described_request(subjects, session.samples), names)
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


def small(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 without the pixels that the workflow's enlarging repeated, (n, 3, 64, 64) in [0, 1]."""
    step = len(pictures[0]) // SIDE
    return torch.from_numpy(np.stack(pictures)[:, ::step, ::step].copy()).movedim(3, 1).float() / 255


def changed(prompt: Prompt, class_type: str, **inputs: Any) -> None:
    """Set inputs of every node of one class; input `x_1` and the like may be given."""
    for node in prompt.values():
        if node["class_type"] == class_type:
            node["inputs"].update(inputs)


def searching_everywhere(prompt: Prompt) -> None:
    """Change find-a-concept: the same pictures and captions, with the class prompt as the prior."""
    (subject,) = [name for name, node in prompt.items() if node["class_type"] == "ConesToySubject"]
    (find,) = [node for node in prompt.values() if node["class_type"] == "ConesFindConceptNeurons"]
    encode = prompt[find["inputs"]["subject_conditioning"][0]]["inputs"]
    prompt["class"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": encode["clip"], "text": [subject, 2]}}
    find["inputs"].update(where="everywhere", class_conditioning=["class", 0], steps=300, batch=16)


def _mask_name(one: Subject, where: Where) -> str:
    return f"toy-{one.identifier}-{one.class_word}{'-everywhere' if where == 'everywhere' else ''}"


def _concept(session: Session, one: Subject, where: Where, quick: bool) -> tuple[dict[str, Any], list[GridRow]]:
    """Find, save and sample with one subject's mask."""
    began = time.monotonic()
    prompt, name = session.prompt(FIND), _mask_name(one, where)
    changed(prompt, "ConesToySubject", subject=one.identifier)
    changed(prompt, "ConesSaveConceptMask", name=name, if_exists="overwrite")
    if where == "everywhere":
        searching_everywhere(prompt)
    if quick:
        changed(prompt, "ConesFindConceptNeurons", steps=100, batch=8)
    session.server.run(prompt, PATIENCE)
    seconds = time.monotonic() - began
    shown, leak, second = (
        session.measured(request(one, session.samples), [name])
        for request in (subject_request, class_request, second_request)
    )
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
    beside = next(node["inputs"]["beside"] for node in prompt.values() if node["class_type"] == "ConesToySubject")
    reference = torch.from_numpy(one.reference_pictures(beside=beside)[0])
    rows = [
        GridRow(f'"{one.prompt}" in ComfyUI, {where}'),
        GridRow("reference pictures", "what the search saw", reference),
    ]
    return entry, [*rows, *_rows(shown), *_rows(leak), *_rows(second)]


def _pair(
    session: Session, subjects: Sequence[Subject], where: Where, spelled: BeforeAfter
) -> tuple[dict[str, Any], list[GridRow]]:
    """Both saved masks loaded, as the second workflow has it."""
    first, second = subjects
    names, samples = [_mask_name(one, where) for one in subjects], session.samples
    alone = [session.measured(subject_request(one, samples), names) for one in subjects]
    pair = session.measured(all_request((first, second), samples), names)
    entry = {
        "where": where,
        "first_alone": alone[0][1].share,
        "second_alone": alone[1][1].share,
        "both": pair[1].share,
        "both_full_caption": spelled[0].share,
    }
    return entry, [GridRow(f"Both masks loaded, {where}"), *_rows(alone[0]), *_rows(alone[1]), *_rows(pair)]


def _shares(name: str, pair: BeforeAfter) -> dict[str, float]:
    return {f"{name}_before": pair[0].share, f"{name}_after": pair[1].share}


def _rows(pair: BeforeAfter) -> list[GridRow]:
    return [
        GridRow(one.prompt[:48], f"{word}: {one.share:.0%} of {len(one.hits)} as asked", one.pictures, one.hits)
        for word, one in zip(("without", "with"), pair, strict=True)
    ]
