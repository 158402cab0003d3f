"""What a search's statistics cost in memory and time, kept in memory and kept on disk, as JSON.

    python benchmarks/statistics_on_disk.py [--model sd15|sdxl] [--only memory|disk] [--folder FOLDER] [--steps 4]

The statistics are those of `learned` on the text K and V of SD1.5 (0.4 GB) or SDXL (7.2 GB), with random numbers in
place of gradients: no model, so all seconds are the statistics' own. Then two densities are tried and a mask is made.
`anonymous` is memory that only swap could take from the process (Linux), beyond what it had before: the most after a
step of each phase.
Run it with --only disk under a limit of memory to see that it fits, and with --only memory to see that it does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from files import SD15_KV, SDXL_KV
from speed_memory import resident_in_ram, status
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cones_ops.search.density import density_curve
from cones_ops.search.estimate import BYTES
from cones_ops.search.host_model import Key
from cones_ops.search.methods import METHODS
from cones_ops.search.progress import Progress
from cones_ops.search.ranking import from_ranking
from cones_ops.search.settings import SearchSettings, Step
from cones_ops.search.statistics_store import NewStatistic, in_memory, on_disk

DENSITIES = (0.01, 0.1)


class NoModel:
    """Weights and gradients of a search (HostModel), both random."""

    where = "everywhere"

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], new_statistic: NewStatistic) -> None:
        self.new_statistic, self.generator = new_statistic, torch.Generator().manual_seed(0)
        self.weights = {(0, name): self._random(torch.empty(shape)) for name, shape in shapes.items()}

    def _random(self, like: Tensor) -> Tensor:
        return self.new_statistic(like).normal_(generator=self.generator)

    @contextmanager
    def multiplied(self, multiplier: Any) -> Iterator[None]:
        yield

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
        return loss(), {key: self._random(weight) for key, weight in self.weights.items()}


def measured(shapes: Mapping[str, tuple[int, ...]], new_statistic: NewStatistic, steps: int) -> dict[str, Any]:
    """Seconds of each step, of each density and of making the mask; the most anonymous memory of each phase, bytes."""
    resident_in_ram()  # gives free memory back first
    before, taken = status("RssAnon"), {"search": [], "choose": [], "mask": []}
    anonymous = dict.fromkeys(taken, 0)
    began = time.perf_counter()

    def on_step(step: Step) -> None:
        nonlocal began
        taken[step.phase].append(time.perf_counter() - began)
        anonymous[step.phase] = max(anonymous[step.phase], status("RssAnon") - before)
        began = time.perf_counter()

    model: Any = NoModel(shapes, new_statistic)
    progress = Progress(on_step)
    scores = METHODS["learned"](model, lambda k: lambda: torch.ones(()), SearchSettings(steps=steps), progress)
    density_curve(scores, lambda multiplier: torch.ones(2), DENSITIES, progress=progress)
    mask = from_ranking({name: score for (_, name), score in scores.items()}, DENSITIES[0])
    taken["mask"].append(time.perf_counter() - began)
    anonymous["mask"] = status("RssAnon") - before
    return {
        "seconds": {phase: [round(value, 3) for value in values] for phase, values in taken.items()},
        "anonymous": anonymous,
        "neurons": mask.count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=("sd15", "sdxl"), default="sdxl")
    parser.add_argument("--only", choices=("memory", "disk"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    shapes = SD15_KV if options.model == "sd15" else SDXL_KV
    stores: dict[str, NewStatistic] = {"memory": in_memory, "disk": on_disk(options.folder)}
    size = sum(torch.Size(shape).numel() for shape in shapes.values())
    report = {"model": options.model, "statistics": BYTES["learned"] * size, "threads": torch.get_num_threads()}
    for kind in [options.only] if options.only else stores:
        report[kind] = measured(shapes, stores[kind], options.steps)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
