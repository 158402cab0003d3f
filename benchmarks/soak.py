"""A real ComfyUI server under load and faults: is any picture wrong, any mask lost, any memory kept?

    python benchmarks/soak.py --prompts 500 --seed 0

Two clients queue seeded prompts (soak_prompts.py) on one server while, at random moments, prompts are cancelled, models
are unloaded and the disk is full; then the server is killed with -9 and started again, three times. What was cancelled,
failed for the full disk or was under way when the server died is queued again until it ends. Afterwards each prompt
runs alone on a second server whose models and caches are freed before it: pictures and files must be the same, bit for
bit. Prints JSON: prompts, events, errors of ours and of the host, pictures that differ, files lost, and the server's
memory after each part of the load (glibc gives freed memory back at once, so that holes between what is used
do not count). Exit code 1 if anything is wrong. The full disk needs Linux (soak_faults.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak_clients import Outcome, files_of, pictures_of, run_all
from soak_faults import Faults, disk, in_namespace, write_lora
from soak_prompts import LORA, Case, case

from cones_ops.errors import ConesError
from cones_ops.laboratory.comfyui.checkout import find_host
from cones_ops.laboratory.comfyui.server import Server, started
from cones_ops.masks.mask_file import load_mask

DISK = 64_000_000  # bytes, and 200 kB per prompt
KILLS, PARTS, EACH = 3, 8, 12  # at most, and prompts of a part at least
LOAD = 0.8  # of the prompts; the others run while the server is killed
CLIENTS = 2
COLLECTED = 12.0  # seconds in which an idle host has collected its garbage
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
PATIENCE = 1200.0  # seconds for a start on a busy machine
WARM = 2  # parts of the load after which nothing is new to the server


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    in_namespace()
    os.environ.update(MALLOC)
    report = soak(options.prompts, options.seed)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["errors_of_ours"] or report["other_errors"] or report["differing"] or report["files_lost"]))


def soak(prompts: int, seed: int) -> dict[str, Any]:
    """Run the load, the kills and the comparison; the report."""
    began = time.monotonic()
    cases = [case(seed, number) for number in range(prompts)]
    outcomes: dict[int, Outcome] = {}
    size = DISK + 200_000 * prompts
    with tempfile.TemporaryDirectory(prefix="cones-soak-") as folder, disk(Path(folder), size) as small:
        base = Path(folder) / "base"
        faults = Faults(base, random.Random(f"faults {seed}"), small)
        split = int(LOAD * prompts)
        memory = load(base, cases, range(split), outcomes, faults)
        kill(base, cases, range(split, prompts), outcomes, faults)
        report = {
            "prompts": prompts,
            "seed": seed,
            "events": dict(faults.events),
            "memory_mb": memory,
            "memory_first_mb": memory[min(WARM, len(memory)) - 1],
            "memory_last_mb": memory[-1],
            "memory_growth": round(memory[-1] / (memory[min(WARM, len(memory)) - 1] or 1) - 1, 4),
            "files_lost": lost_files(base, cases, outcomes),
            "temporary_files_left": [str(file.relative_to(base)) for file in base.rglob("*.cones-tmp")],
            "disk": f"tmpfs of {size} bytes, filled" if small else "never full: no mount namespaces here",
            **counted(cases, outcomes),
        }
        log(f"before the comparison: {json.dumps(report)}")
        report["differing"] = compare(base, Path(folder) / "alone", cases, outcomes)
    return report | {"seconds": round(time.monotonic() - began)}


def counted(cases: Sequence[Case], outcomes: Mapping[int, Outcome]) -> dict[str, Any]:
    """What the outcomes amount to."""
    errors = [f"{number} {error}" for number, outcome in sorted(outcomes.items()) for error in outcome.errors]
    ours = [error for error in errors if "cones" in error.lower()]
    return {
        "different_prompts": len({json.dumps(entry.prompt) for entry in cases}),
        "kinds": dict(Counter(entry.kind for entry in cases)),
        "answers": dict(Counter(str(outcome.answer) for outcome in outcomes.values())),
        "queued_again": dict(Counter(reason for outcome in outcomes.values() for reason in outcome.repeats)),
        "errors_of_ours": ours,
        "other_errors": [error for error in errors if error not in ours],
        "pictures": sum(len(outcome.pictures) for outcome in outcomes.values()),
        "files_saved": sum(len(outcome.files) for outcome in outcomes.values()),
    }


def clients(
    server: Server, cases: Sequence[Case], numbers: Sequence[int], outcomes: dict[int, Outcome], faults: Faults
) -> None:
    """Two clients at once share the numbers."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        runs = [pool.submit(run_all, server, cases, numbers[k::CLIENTS], outcomes, faults) for k in range(CLIENTS)]
    for run in runs:
        run.result()


def load(
    base: Path, cases: Sequence[Case], numbers: Sequence[int], outcomes: dict[int, Outcome], faults: Faults
) -> list[float]:
    """Run prompts on one server; its memory after each of PARTS parts, MB."""
    memory, parts = [], max(1, min(PARTS, len(numbers) // EACH))
    with started(find_host(), base, patience=PATIENCE) as server:
        for k in range(parts):
            part = numbers[k * len(numbers) // parts : (k + 1) * len(numbers) // parts]
            with faults.on(server):
                clients(server, cases, part, outcomes, faults)
            memory.append(resident(server))
            log(f"part {k + 1} of {parts}: {memory[-1]} MB")
            if server.process.poll() is not None:
                raise ConesError(f"the server ended by itself:\n{server.log()[-3000:]}")
    return memory


def resident(server: Server) -> float:
    """MB of memory of the server without models, caches and history, as the system counts it."""
    free(server)
    server.request("/history", {"clear": True})
    time.sleep(COLLECTED)
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.is_file():
        return 0.0
    return round(int(status.read_text().split("VmRSS:")[1].split()[0]) * 1024 / 1e6, 1)


def free(server: Server) -> None:
    """Unload all models and forget all results."""
    server.request("/free", {"unload_models": True, "free_memory": True})
    time.sleep(0.3)  # the host's worker wakes up and does it


def kill(
    base: Path, cases: Sequence[Case], numbers: Sequence[int], outcomes: dict[int, Outcome], faults: Faults
) -> None:
    """Run prompts on servers that are killed at a random moment, the last one excepted."""
    kills = max(1, min(KILLS, len(numbers) // EACH))
    for k in range(kills + 1):
        unfinished = [number for number in numbers if number not in outcomes or outcomes[number].answer is None]
        share = unfinished if k == kills else unfinished[: 1 + len(numbers) // kills]
        with started(find_host(), base, patience=PATIENCE) as server, faults.on(server, deadly=k < kills):
            clients(server, cases, share, outcomes, faults)
        log(f"server {k + 1} of {kills + 1}")


def lost_files(base: Path, cases: Sequence[Case], outcomes: Mapping[int, Outcome]) -> list[str]:
    """Files that a prompt said it saved and that are not there, are another prompt's too, or cannot be read."""
    saved = {(name, json.dumps(cases[k].prompt)) for k, outcome in outcomes.items() for name in outcome.files}
    names = Counter(name for name, _ in saved)
    lost = [f"{name}: of {count} different prompts" for name, count in names.items() if count > 1]
    lost += [f"{name}: not there" for name in names if not (base / "models" / name).is_file()]
    for file in sorted((base / "models").rglob("*.safetensors")):
        try:
            load_mask(file) if "concept_masks" in file.parts else load_file(file)
        except (ConesError, SafetensorError) as error:
            lost.append(str(error))
    return lost


def compare(base: Path, alone: Path, cases: Sequence[Case], outcomes: Mapping[int, Outcome]) -> list[str]:
    """Run each prompt that succeeded alone on a fresh server; those whose pictures or files are others."""
    differing, known = [], dict[str, tuple[dict[str, str], list[bytes]]]()
    alone.mkdir()
    write_lora(alone / "models" / "loras" / LORA)
    with started(find_host(), alone, patience=PATIENCE) as server:
        for number, outcome in sorted(outcomes.items()):
            if outcome.answer != "success":
                continue
            text = json.dumps(cases[number].prompt)
            if text not in known:
                free(server)
                run = server.run(cases[number].prompt, 3600)
                contents = [(alone / "models" / name).read_bytes() for name in files_of(run, cases[number])]
                known[text] = pictures_of(run), contents
            pictures, contents = known[text]
            changed = [name for name in pictures if pictures[name] != outcome.pictures.get(name)]
            changed += [
                name
                for name, content in zip(outcome.files, contents, strict=True)
                if (base / "models" / name).read_bytes() != content
            ]
            differing += [f"{number} {cases[number].kind}: {', '.join(changed)}"] if changed else []
    return differing


def log(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
