"""`cones find-many`: a concept mask for each subfolder of pictures, on one machine or a cluster."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from ..engine import manifest
from ..engine.claims import said
from ..engine.cluster import has_ray
from ..engine.concept_folders import ConceptPlan, concept_names, model_key
from ..engine.concept_search import Job, claim_file, find_concept, finished
from ..engine.contact_sheet import draw_sheets
from ..engine.manifest import Record
from ..engine.run import results
from ..engine.tasks import Workers
from ..errors import ConesError, listed
from ..masks.concept_mask import Where
from ..masks.whole_files import check_folder
from ..search.settings import MethodName
from .models import add_model, check_model, defaults_of, load_model, resolved, sources_of
from .options import SIDE, add_choice, add_command, add_sampling, say
from .values import real, whole, word


def find_many(options: argparse.Namespace) -> None:
    """Find the concept neurons of many subjects: one subfolder of pictures each, one mask each, a table at the end.

    A subfolder may hold a concept.toml (class, identifier, caption, where, targets, density,
    size, [settings]) and a text file beside a picture as its caption. A subject that fails is
    reported and the others continue; the exit code is 2 if any failed. The same command again
    does only what is missing or has changed. OUT/manifest.jsonl says what became of each.
    With several workers it runs on Ray (pip install cones-concept-neurons[cluster]); masks are
    the same, bit for bit, for any number of workers. On a cluster, ROOT, OUT and the model must
    have the same paths on all machines.

    examples:
      cones find-many pictures --model sd15 --out masks --class-word dog --device cuda
      cones find-many pictures --model sd15 --out masks --address auto --device cuda --sheet-steps 0
    """
    check_folder(options.out)
    check_model(options.model)
    workers = _workers(options)
    names = concept_names(options.root)
    root, out, model = options.root.resolve(), options.out.resolve(), resolved(options.model)
    device = options.device if workers.in_this_process else options.device.partition(":")[0]  # Ray gives each its own
    key, defaults = model_key(*sources_of(model)), _defaults(options)
    job = Job(root, out, model, key, device, defaults, options.sheet_steps, load_model)
    kept = manifest.read(out)
    records = {name: record for name in names if (record := finished(job, name, kept))}
    for name, record in records.items():
        if kept.get(name) != record:  # of a process that was killed after it had saved the mask
            manifest.append(out, record)
    todo = [name for name in names if name not in records]
    say(f"{len(records)} of {len(names)} concepts are done already")
    records |= _run(job, todo, workers)
    say(_table([records[name] for name in names]))
    if options.sheet_steps:
        for sheet in draw_sheets(out, [name for name in names if records[name].state == "saved"]):
            say(f"saved {sheet}")
    if failed := [name for name in names if records[name].state == "failed"]:
        advice = f"{out / manifest.FILE} says why; correct them and call the same command again"
        raise ConesError(f"{len(failed)} of {len(names)} concepts failed: {listed(failed)}; {advice}")


def _workers(options: argparse.Namespace) -> Workers:
    """As asked for; by default one for each GPU, or for each so many cores, or one where Ray is missing."""
    cuda = torch.device(options.device).type == "cuda"
    count = options.workers
    if count is None:
        count = max(1, torch.cuda.device_count() if cuda else (os.cpu_count() or 1) // options.cores)
        count = count if has_ray() else 1
    if cuda and not options.address and count > torch.cuda.device_count():
        raise ConesError(f"--workers {count}, but there are {torch.cuda.device_count()} GPUs here, one for each worker")
    return Workers(count, options.cores, int(cuda), options.address, options.retries)


def _defaults(options: argparse.Namespace) -> ConceptPlan:
    chosen = {name: getattr(options, name) for name in ("method", "steps", "batch", "seed")}
    changed = tuple(sorted((name, value) for name, value in chosen.items() if value is not None))
    words = {"class_word": options.class_word or "", "identifier": options.identifier, "where": options.where}
    defaults = defaults_of(options.model)
    words["caption"], size = defaults.caption, options.size or defaults.size
    return ConceptPlan(**words, density=options.density, size=size, changed=changed)


def _run(job: Job, names: Sequence[str], workers: Workers) -> dict[str, Record]:
    """The records of these concepts; first all that no other process works on, then, waiting for it, the others."""
    from tqdm import tqdm

    records: dict[str, Record] = {}
    with tqdm(total=len(names), desc="find", unit="concept") as bar:
        for wait in (False, True):
            left = [name for name in names if name not in records]
            for result in results(partial(find_concept, job, wait), left, workers):
                if result is None:
                    bar.set_postfix_str(_doing(job, left, records))
                    continue
                record = result.value
                if result.error:
                    record = Record(result.name, "failed", error=result.error)
                    manifest.append(job.out, record)
                    bar.write(f"{result.name}: {result.error}")
                if record:
                    records[result.name] = record
                    bar.update()
    return records


def _doing(job: Job, names: Sequence[str], records: Mapping[str, Record]) -> str:
    """What each worker does, of this run and of others in the same folder."""
    doing = [(name, text) for name in names if name not in records and (text := said(claim_file(job.out, name)))]
    return ", ".join(f"{name} {text}" for name, text in doing[:8])


def _table(records: Sequence[Record]) -> str:
    width = max(len(record.name) for record in records)
    rows = [f"{'concept':{width}}  state    neurons  held-out gain        seconds"]
    for record in records:
        gain = "" if record.held_out_gain is None else f"{record.held_out_gain:.4f} ± {record.standard_error:.4f}"
        seconds = "" if record.seconds is None else f"{record.seconds:.1f}"
        row = f"{record.name:{width}}  {record.state:7}  {record.neurons or '':7}  {gain:19}  {seconds:>7}"
        rows.append(f"{row.rstrip()}  {record.error}".rstrip())
    counts = {state: sum(record.state == state for record in records) for state in ("saved", "no gain", "failed")}
    return "\n".join([*rows, ", ".join(f"{count} {state}" for state, count in counts.items())])


def describe(commands: Any) -> None:
    """Describe the command to argparse."""
    add = add_command(commands, find_many).add_argument
    add("root", type=Path, help="folder with a subfolder of 3 to 6 pictures for each concept")
    add_model(add, "--model", required=True)
    add("--out", type=Path, required=True, help="folder for masks, manifest.jsonl and contact sheets")
    add("--class-word", type=word, help="what the subjects are, where no concept.toml says it, e.g. dog")
    add("--identifier", type=word, default="sks", help="the rare word, where no concept.toml has one")
    add_choice(add, "--where", get_args(Where), default="own-tokens", help="where masks act, see cones find")
    add("--method", choices=get_args(MethodName), default="learned", help="the search, see cones find")
    add("--density", type=real(0, 1), help="share of neurons to shut (default: chosen on held-out noise)")
    add("--steps", type=whole(1, 1_000_000), help="gradient steps of each search (default: as cones find)")
    add("--batch", type=whole(1, 4096), help="noisy pictures per step (default: as cones find)")
    add("--sheet-steps", type=whole(0, 1000), default=20, help="sampling steps of the contact sheets (picture, before, "
        "after); 0 = no sheets")  # fmt: skip
    add("--workers", type=whole(1, 100_000), help="concepts at a time on this machine; 1 needs no Ray (default: one "
        "for each GPU with --device cuda, else one for each --cores)")  # fmt: skip
    add("--cores", type=whole(1, 1024), default=1, help="CPU cores of each worker; another number rounds otherwise")
    add("--address", help="run on the Ray cluster at this address, or `auto` on one of its machines")
    add("--retries", type=whole(0, 100), default=2, help="how often a concept is tried again when its worker dies")
    add_sampling(add, SIDE)
