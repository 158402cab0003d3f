"""One task of `cones find-many`: from a concept's folder to its mask, its record in the manifest, and its pictures.

The mask's file holds the key of everything it depends on, so that it is made once, whatever happens to the manifest.
It is saved last but for its record. A search that was killed resumes from its state, as `cones find` does.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import ConesError
from ..hosts.diffusers import concepts
from ..hosts.diffusers.pictures import pixels_of
from ..masks.concept_mask import ConceptMask
from ..masks.fingerprint import fingerprint
from ..masks.mask_file import read_mask_metadata, save_mask
from ..masks.mask_header import SEARCH
from ..masks.whole_files import write_whole
from ..search.resume import resuming
from ..search.settings import Step
from . import manifest
from .claims import Claim, claimed
from .concept_folders import ConceptPlan, captions, content_key, read_plan
from .manifest import Record

STATES, SHEET = ".states", ".sheet"
KEY = "content_key"
SIDE = 160  # pixels of a picture of the contact sheet
SAID = 1.0  # seconds between two words on progress


@dataclass(frozen=True)
class Job:
    """What the tasks of one run share.

    base: the model's key; sheet_steps: of each picture, 0 for no pictures; load: makes a pipeline of `model`.
    """

    root: Path
    out: Path
    model: Path
    base: str
    device: str
    defaults: ConceptPlan
    sheet_steps: int
    load: Callable[[Path, str], Any] = concepts.load


def mask_file(out: Path, name: str) -> Path:
    """Where a concept's mask is."""
    return out / f"{name}.safetensors"


def claim_file(out: Path, name: str) -> Path:
    """The claim of whoever works on a concept; it says what is being done."""
    return out / manifest.CLAIMS / name


def finished(job: Job, name: str, records: dict[str, Record]) -> Record | None:
    """The record of a concept whose search has ended with what it depends on now; None where there is work to do."""
    try:
        key = content_key(job.root / name, read_plan(job.root / name, job.defaults), job.base)
    except (ConesError, OSError):
        return None
    record = records.get(name)
    if record and record.key == key and record.state == "no gain":
        return record
    with suppress(ConesError):
        facts = read_mask_metadata(mask_file(job.out, name))
        if facts.get(SEARCH + KEY) == key:
            kept = record is not None and record.key == key and record.state == "saved"
            return record if kept else _record_of(job, name, key, facts)
    return None


def find_concept(job: Job, wait: bool, name: str) -> Record | None:
    """The task: the concept's record, also appended to the manifest; None where another process is at it."""
    with claimed(claim_file(job.out, name), wait) as claim:
        if claim is None:
            return None
        done = wait or mask_file(job.out, name).is_file()  # perhaps, by a process that has just ended or was killed
        records = manifest.read(job.out) if done else {}
        record = finished(job, name, records) or _search(job, name, claim)
        if records.get(name) != record:
            manifest.append(job.out, record)
        return record


def _search(job: Job, name: str, claim: Claim) -> Record:
    began, folder, file = time.monotonic(), job.root / name, mask_file(job.out, name)
    claim.say("reading")
    _check_replaceable(file)
    plan = read_plan(folder, job.defaults)
    key = content_key(folder, plan, job.base)
    pictures = concepts.read_pictures(folder, plan.size)
    concept = concepts.Concept(plan.identifier, plan.class_word, pictures, captions(folder, plan))
    claim.say("loading the model")
    pipeline, weights = _loaded(job.load, job.model, job.device)
    settings = plan.settings
    search = {"targets": plan.targets, "density": plan.density, "settings": settings, "on_step": _saying(claim)}
    with resuming(job.out / STATES, weights) as resume:
        result = concepts.find(pipeline, concept, plan.where, resume=resume, **search)  # type: ignore[arg-type]
        mask = replace(result.mask, provenance={**result.mask.provenance, KEY: key})
        record = Record(name, "no gain", key, "", settings.seed, worker=socket.gethostname())
        record = replace(record, seconds=round(time.monotonic() - began, 2), **_gain(mask.provenance))
        if not mask.count:
            file.unlink(missing_ok=True)  # it was made from other pictures or settings
            return record
        if job.sheet_steps:
            claim.say("sampling")
            write_whole(job.out / SHEET / f"{name}.png", _row(pipeline, concept, mask, plan.size, job.sheet_steps))
        save_mask(mask, file, "overwrite")
    seconds = round(time.monotonic() - began, 2)
    return replace(record, state="saved", mask=file.name, neurons=mask.count, density=mask.density, seconds=seconds)


def _check_replaceable(file: Path) -> None:
    """ConesError for a file that this command did not make."""
    if file.exists() and SEARCH + KEY not in read_mask_metadata(file):
        raise ConesError(f"{file} was not made by this command, which would overwrite it; move it away")


@lru_cache(maxsize=1)
def _loaded(load: Callable[[Path, str], Any], model: Path, device: str) -> tuple[Any, str]:
    """The model and the fingerprint of all its weights, once a process."""
    pipeline = load(model, device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, fingerprint(dict(pipeline.unet.named_parameters()))


def _saying(claim: Claim) -> Callable[[Step], None]:
    last = 0.0

    def on_step(step: Step) -> None:
        nonlocal last
        if step.step == step.total or time.monotonic() >= last + SAID:
            last = time.monotonic()
            claim.say(f"{step.phase} {step.step}/{step.total}")

    return on_step


def _gain(facts: Mapping[str, str]) -> dict[str, Any]:
    """Held-out gain of a mask's provenance, under the names of Record."""
    return {
        "held_out_gain": float(facts["held_out_gain"]),
        "standard_error": float(facts["held_out_standard_error"]),
    }


def _record_of(job: Job, name: str, key: str, facts: dict[str, str]) -> Record:
    """Of a mask that was saved by a process that could not write its record."""
    search = {field.removeprefix(SEARCH): text for field, text in facts.items() if field.startswith(SEARCH)}
    count = int(facts["cones.count"])
    numbers = {"neurons": count, "density": count / int(facts["cones.size"]), "seed": int(search["seed"])}
    return Record(name, "saved", key, mask_file(job.out, name).name, **numbers, **_gain(search))  # type: ignore[arg-type]


def _row(pipeline: Any, concept: concepts.Concept, mask: ConceptMask, side: int, steps: int) -> bytes:
    """A PNG of the first picture, and of a sample before and after, from the same noise."""
    prompt = [concept.texts(concept.phrase)[0]]
    options: dict[str, Any] = {"num_inference_steps": steps, "height": side, "width": side}
    samples = [concepts.sample(pipeline, prompt, shut, **options)[0] for shut in ([], [(mask, 1.0)])]
    sheet = Image.new("RGB", (3 * SIDE, SIDE))
    for i, picture in enumerate((Image.fromarray(pixels_of(concept.pictures[0])), *samples)):
        sheet.paste(picture.resize((SIDE, SIDE)), (i * SIDE, 0))
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()
