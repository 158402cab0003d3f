"""`cones demo --comfyui`: the main job through a real ComfyUI server and the workflow files of docs/workflows.

`find-a-concept.json` runs once per subject (find, save, sample), `compose-two-concepts.json` samples with the saved
masks, each alone and both together; all of it at own tokens and everywhere. The judge reads the pictures here.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...masks.concept_mask import Where
from ...masks.mask_file import load_mask
from ...toy_world.subjects import Subject, subject_named
from ...toy_world.world import SIDE
from ..comfyui.checkout import PACK, find_host, find_python
from ..comfyui.server import Server, started
from ..comfyui.workflow import Prompt, to_prompt
from ..judge import Judge, load_judge
from ..measure import THREE_MEASURES, Measured, PictureRequest, all_described, all_shown, judged, subject_shown
from ..picture_grid import GridRow, save_grid
from .report import ByMeasure, DemoConcept, DemoResults, grid_rows, save_report, versions

WHERES: tuple[Where, ...] = ("own tokens", "everywhere")
FIND, COMPOSE = "find-a-concept", "compose-two-concepts"
PATIENCE = 3600  # seconds that one prompt may take
BeforeAfter = tuple[Measured, Measured]  # without and with the masks, from the same noise


@dataclass(frozen=True)
class Session:
    """A running server with the workflow files, and how to measure with them."""

    server: Server
    workflows: Mapping[str, dict[str, Any]]
    judge: Judge
    base: Path
    quick: bool
    bar: tqdm[Any]

    @property
    def samples(self) -> int:
        """Pictures of one measure."""
        return 8 if self.quick else 32

    def prompt(self, name: str) -> Prompt:
        """A workflow file, ready to be changed and run."""
        return to_prompt(self.workflows[name], self.server.object_info())

    def measured(self, request: PictureRequest, names: Sequence[str]) -> BeforeAfter:
        """Pictures without and with the saved masks `names` (one or two); equal prompts are one batch."""
        prompts = [prompt for prompt, _ in request]
        pictures = torch.empty(2, len(prompts), 3, SIDE, SIDE)  # without, with
        for text in dict.fromkeys(prompts):
            rows = [i for i, prompt in enumerate(prompts) if prompt == text]
            pictures[:, rows] = self._composed(text, names, len(rows))
            self.bar.update(len(rows))
        return judged(self.judge, request, pictures[0]), judged(self.judge, request, pictures[1])

    def _composed(self, text: str, names: Sequence[str], count: int) -> Tensor:
        """Run compose-two-concepts: pictures (2, count, 3, 96, 96) without, and with the masks."""
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
        node_ids = [next(n for n in run.outputs if titles[n].startswith(word)) for word in ("Without", "With the")]
        return torch.stack([small(run.images(node_id)) for node_id in node_ids])


def run(host: Path | None, out: Path, quick: bool = False) -> dict[str, Any]:
    """Run the demo in the ComfyUI at `host` (None: look for one); writes pictures, masks and JSON into `out`."""
    began = time.monotonic()
    judge, host = load_judge(), find_host(host)
    files = {name: PACK / "docs" / "workflows" / f"{name}.json" for name in (FIND, COMPOSE)}
    workflows = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items()}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cones-comfyui-") as folder, tqdm(desc="pictures from ComfyUI") as bar:
        base = Path(folder)
        with started(host, base, python=find_python(host)) as server:
            session = Session(server, workflows, judge, base, quick, bar)
            results = _results(session, [subject_named("sks"), subject_named("zwx")])
            version = server.json("/system_stats")["system"]["comfyui_version"]
        title = GridRow("Cones demo in ComfyUI: a framed sample shows what was asked, by the judge")
        save_grid([title, *grid_rows(results)], out / "demo-comfyui.png")
        report = save_report(
            results,
            out / "demo-comfyui.json",
            samples_per_share=session.samples,
            seconds_total=round(time.monotonic() - began, 1),
            versions={**versions(), "comfyui": version},
        )
        shutil.copytree(base / "models" / "concept_masks", out / "concept_masks", dirs_exist_ok=True)
    return report


def _results(session: Session, subjects: Sequence[Subject]) -> DemoResults:
    """Find, save and sample with each mask, then with both, as the second workflow has them."""
    concepts = {where: [_concept(session, subject, where) for subject in subjects] for where in WHERES}
    names = {where: [_mask_name(subject, where) for subject in subjects] for where in WHERES}
    full_caption, _ = session.measured(all_described(subjects, session.samples), names[WHERES[0]])
    toy = next(node for node in session.prompt(FIND).values() if node["class_type"] == "ConesToySubject")
    shown = toy["inputs"]["pictures"], toy["inputs"]["seed"], toy["inputs"]["beside"]
    references = [subject.reference_pictures(*shown)[0] for subject in subjects]
    return DemoResults(
        subjects,
        dict.fromkeys(WHERES, references),
        [untouched for untouched, _ in concepts[WHERES[0]]],
        {where: [concept for _, concept in pairs] for where, pairs in concepts.items()},
        {where: _pair(session, subjects, names[where]) for where in WHERES},
        full_caption,
    )


def small(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures (H, W, 3) uint8 without the pixels that the workflow's enlarging repeated, (n, 3, 96, 96) in [0, 1]."""
    step = len(pictures[0]) // SIDE
    return torch.from_numpy(np.stack(pictures)[:, ::step, ::step].copy()).movedim(3, 1).float() / 255


def changed(prompt: Prompt, class_type: str, **inputs: Any) -> None:
    """Set inputs of every node of one class."""
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


def _mask_name(subject: Subject, where: Where) -> str:
    return f"toy-{subject.identifier}-{subject.class_word}{'-everywhere' if where == 'everywhere' else ''}"


def _concept(session: Session, subject: Subject, where: Where) -> tuple[ByMeasure, DemoConcept]:
    """Find, save and sample with one subject's mask: the untouched model's pictures, and those with the mask."""
    began = time.monotonic()
    prompt, name = session.prompt(FIND), _mask_name(subject, where)
    changed(prompt, "ConesToySubject", subject=subject.identifier)
    changed(prompt, "ConesSaveConceptMask", name=name, if_exists="overwrite")
    if where == "everywhere":
        searching_everywhere(prompt)
    if session.quick:
        changed(prompt, "ConesFindConceptNeurons", steps=100, batch=8)
    session.server.run(prompt, PATIENCE)
    seconds = time.monotonic() - began
    without, with_mask = {}, {}
    for measure, ask in THREE_MEASURES.items():
        without[measure], with_mask[measure] = session.measured(ask(subject, session.samples), [name])
    file = session.base / "models" / "concept_masks" / f"{name}.safetensors"
    return without, DemoConcept(load_mask(file), file, with_mask, seconds)


def _pair(session: Session, subjects: Sequence[Subject], names: Sequence[str]) -> ByMeasure:
    """Both saved masks loaded: the first alone, the second alone, both in one picture."""
    alone = [subject_shown(subject, session.samples) for subject in subjects]
    requests = dict(zip(("first_alone", "second_alone"), alone, strict=True))
    requests["both"] = all_shown(subjects, session.samples)
    return {name: session.measured(request, names)[1] for name, request in requests.items()}
