"""A seeded fuzzer of what users hand to the pack: mask files, pictures, model folders, states, cells, command lines.

    python benchmarks/fuzz.py --cases 20000 --seed 0

Each case damages a good input and reads it. Right is: it is read, or a ConesError (for a command: exit code 0, 2). It
prints JSON: cases, foreign exceptions, cases over 2 s of processor time, and cases that took more memory than 8 times
the input + 50 MB (on Linux, where the peak of a process can be reset). Case i depends on the seed and i alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cones_ops import cli
from cones_ops.errors import ConesError
from cones_ops.hosts.diffusers.loading import pipeline_of
from cones_ops.hosts.diffusers.pictures import read_picture
from cones_ops.hosts.diffusers.weight_files import weight_reader
from cones_ops.laboratory.cell_files import collect
from cones_ops.masks.concept_mask import ConceptMask
from cones_ops.masks.fingerprint import base_of
from cones_ops.masks.mask_file import load_mask, read_mask_metadata, save_mask
from cones_ops.reports.text import inspection_text, layer_table
from cones_ops.search.progress import Progress
from cones_ops.search.resume import State

SECONDS, TIMES, BYTES = 2.0, 8, 50_000_000
HOSTILE = (
    *(b"", b"null", b"NaN", b"-1", b"1e999", b"9" * 5000, b"[" * 50_000, b'{"a":' * 5000, b"\x1b[2J", b"\xff\xfe"),
    *(b"\xc2\xb2", b"\\ud800", b"cones.", b"__metadata__", b"[2147483648, 4]", str(2**200).encode(), b'"' * 9),
)
ODD_VALUES = (
    "0 -1 1 nan inf 1e400 0x10 \u00b2 [ * cpu cuda cuda:99 meta gpu:x m.pt m.safetensors con.safetensors / . no/a"
)
VALUES = ("", " ", "\n", "9" * 20, "9" * 5000, "(" * 500, "x" * 300, *ODD_VALUES.split())
OPTIONS = {
    "find": ("--steps", "--batch", "--size", "--seed", "--density", "--device", "--where", "--out", "--identifier"),
    "tune": ("--steps", "--batch", "--size", "--seed", "--zoom", "--device", "--targets", "--out"),
    "apply": ("--steps", "--size", "--seed", "--strength", "--guidance", "--device", "--out", "--prompt"),
    "export": ("--out", "--overwrite", "--any-base"),
    "info": (),
}


def damaged(content: bytes, generator: random.Random) -> bytes:
    """`content` with a few bits, pieces or numbers changed."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 5))):
        place = generator.randrange(len(data) + 1)
        match generator.randrange(7):
            case 0 if data:
                data[place % len(data)] ^= 1 << generator.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = generator.choice(HOSTILE)
            case 3:
                data[place : place + generator.randrange(1, 40)] = generator.choice(HOSTILE)
            case 4:
                del data[place : place + generator.randrange(1, 40)]
            case 5:
                data[place : place + 8] = generator.randbytes(8)
            case _:
                data[:8] = generator.choice((0, 8, 2**24 + 1, 2**63 - 1, len(data))).to_bytes(8, "little")
    return bytes(data)


def repacked(content: bytes, generator: random.Random) -> bytes:
    """A .safetensors file whose header is still JSON, with one entry of it changed."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    target = generator.choice([header["__metadata__"], header])
    key = generator.choice(sorted(target))
    text = generator.choice(HOSTILE).decode(errors="replace")
    if target is header["__metadata__"]:
        target[key] = generator.choice((text, target[key] + text, target[key][::-1], target[key] * 20))
    elif key != "__metadata__":
        field = generator.choice(sorted(target[key]))
        target[key][field] = generator.choice((text, [2**40], [0, 2**62], "F64", "I32", [-1], []))
    if generator.random() < 0.2:
        target[text or "x"] = text
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


class Inputs:
    """Good inputs, made once in `folder`, and what reads each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = "output_blocks.3.1.transformer_blocks.0.attn2.to_{}.weight"
        weights = {name.format(part): torch.linspace(-1, 1, 4096).reshape(64, 64) for part in "kv"}
        base = base_of(weights)
        index = {key: torch.arange(3, 4096, 7 + k) for k, key in enumerate(weights)}
        facts = {"method": "learned", "steps": "300"}
        shapes = {key: (64, 64) for key in weights}
        mask = ConceptMask(index, shapes, "sks", "cat", "everywhere", base.fingerprint, facts, base.sketch)
        save_mask(mask, folder / "mask.safetensors", "overwrite")
        save_file(weights, folder / "checkpoint.safetensors", {"format": "pt"})
        facts_of_state = {"phase": "search", "step": 1, "numbers": {"rms": 1.0}, "history": [1.0]}
        State(folder / "search.cones-state", 0).write(facts_of_state, {"s": {(0, "a"): torch.ones(9)}})
        pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 4), np.uint8)
        for suffix, channels in (("png", 4), ("jpg", 3), ("webp", 4), ("bmp", 3)):
            Image.fromarray(pixels[..., :channels]).save(folder / f"picture.{suffix}")
        (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        cell = {"name": "a", "figures": {}, "settings": {"budget": {}}}
        (folder / "cells.json").write_text(json.dumps(cell))
        self.good = {file.name: file.read_bytes() for file in folder.iterdir()}

    def case(self, generator: random.Random) -> tuple[str, bytes, Callable[[Path], Any]]:
        """A name, the damaged content, and what reads it from a file."""
        name = generator.choice((*["mask.safetensors"] * 4, "command line", *sorted(self.good)))
        if name == "command line":
            arguments = self.command(generator)
            return name, repr(arguments).encode(), lambda file: run_command(arguments)
        change = repacked if name.endswith((".safetensors", "-state")) and generator.random() < 0.5 else damaged
        readers: dict[str, Callable[[Path], Any]] = {
            "mask.safetensors": read_mask,
            "checkpoint.safetensors": lambda file: weight_reader(file)("output_blocks.3.1.x"),
            "search.cones-state": read_state,
            "model_index.json": lambda file: pipeline_of(file.parent),
            "cells.json": lambda file: collect(file.parent.parent),
        }
        return name, change(self.good[name], generator), readers.get(name, read_picture)

    def command(self, generator: random.Random) -> list[str]:
        """A command line that never reaches a model, with odd values."""
        command = generator.choice(sorted(OPTIONS))
        mask, empty = str(self.folder / "mask.safetensors"), str(self.folder / "no-model")
        positional = {"find": [empty, empty], "tune": [empty], "apply": [empty, mask], "export": [mask, empty]}
        arguments = [command, *positional.get(command, [generator.choice((mask, empty, *VALUES))])]
        needed = {
            "find": ["--class-word", "dog"],
            "tune": ["--concept", mask, empty],
            "apply": ["--prompt", "a sks cat"],
        }
        arguments += needed.get(command, [])
        for option in generator.sample(OPTIONS[command], min(len(OPTIONS[command]), generator.randrange(4))):
            arguments += [option, generator.choice(VALUES)]
        return arguments


def read_state(file: Path) -> None:
    """A state as a search takes it up."""
    Progress(state=State(file, 0)).resumed("search", {"s": {(0, "a"): torch.ones(9)}})


def read_mask(file: Path) -> None:
    """All that is done with a mask file before a model is there."""
    read_mask_metadata(file)
    mask = load_mask(file)
    inspection_text(mask)
    layer_table(mask)
    run_command(["info", str(file)])


def run_command(arguments: list[str]) -> None:
    """The command, which must end with code 0 or 2."""

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code: Any = cli.main(arguments)
        except SystemExit as ended:
            code = ended.code
    if code not in (0, 2):
        raise AssertionError(f"exit code {code}")


def peak(reset: bool = False) -> int:
    """The most memory that this process has had since the last reset, bytes; 0 where the system does not tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return 0


def fuzz(cases: int, seed: int) -> dict[str, Any]:
    """Run the cases; the report."""
    report: dict[str, Any] = {"cases": cases, "seed": seed, "foreign": [], "slow": [], "large": []}
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(Path(kept))
        for number in range(cases):
            name, content, read = inputs.case(random.Random(f"{seed} {number}"))
            file = Path(scratch, "cells" if name == "cells.json" else "", name)
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            before, started = peak(reset=True), time.process_time()
            try:
                read(file)
                outcome = "read"
            except ConesError:
                outcome = "refused"
            except Exception as error:  # what this is looking for
                outcome = "foreign"
                report["foreign"].append(f"{number} {name}: {type(error).__name__}: {str(error)[:200]}")
            outcomes[outcome] += 1
            if time.process_time() - started > SECONDS:
                report["slow"].append(f"{number} {name}")
            if peak() - before > TIMES * len(content) + BYTES:
                report["large"].append(f"{number} {name}")
    return {**report, "outcomes": dict(outcomes), "seconds": round(time.monotonic() - began, 1)}


def main() -> None:
    """Print the report; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    report = fuzz(options.cases, options.seed)
    print(json.dumps(report, indent=1))
    sys.exit(bool(report["foreign"] or report["slow"] or report["large"]))


if __name__ == "__main__":
    main()
