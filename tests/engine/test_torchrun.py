"""One search on two processes: the mask of one process, from half of the statistics each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cones_ops.errors import ConesError
from cones_ops.search.ranks import ALONE, Ranks, owners

SEARCH = """
import json, sys
import torch
from torch import distributed as dist
from cones_ops.laboratory.sampling import examples, model_of
from cones_ops.search.find import find_concept_neurons
from cones_ops.search.ranks import ALONE, Ranks, SharedModel
from cones_ops.search.settings import SearchSettings
from cones_ops.toy_world.bundle import random_pipeline

torch.set_num_threads(1)
rank, size = map(int, sys.argv[1:3])
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=size)
pipeline = random_pipeline(0, (32, 64))
pictures = torch.rand(3, 3, 96, 96, generator=torch.manual_seed(0))
subject = examples(pipeline, pictures, ["a sks cat"] * 3, [("sks", "cat")])
model = model_of(pipeline)
kept = []
keep = model.new_statistic
model.new_statistic = lambda weight: kept.append(weight.numel()) or keep(weight)
if size > 1:
    model = SharedModel(model, Ranks(rank, size))
settings = SearchSettings(sys.argv[4], steps=4, batch=8, held_out=16)
result = find_concept_neurons(model, subject, identifier="sks", class_word="cat", settings=settings)
index = {name: positions.tolist() for name, positions in result.mask.index.items()}
print(json.dumps({"index": index, "size": result.mask.size, "kept": sum(kept), "losses": result.history}))
if size > 1:
    dist.destroy_process_group()
"""


def search(ranks: int, meeting: Path, method: str) -> list[dict]:
    """What each of so many processes found."""
    commands = [[sys.executable, "-c", SEARCH, str(rank), str(ranks), str(meeting), method] for rank in range(ranks)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        return [json.loads(process.communicate(timeout=600)[0]) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["learned", "taylor"])
def test_two_processes_find_the_mask_of_one(tmp_path: Path, method: str) -> None:
    pytest.importorskip("diffusers")
    (alone,) = search(1, tmp_path / "none", method)
    first, second = search(2, tmp_path / "meeting", method)
    assert first["index"] == second["index"] and first["losses"] == second["losses"]
    assert first["losses"] == pytest.approx(alone["losses"], rel=1e-3)
    one, two = (
        {(name, k) for name, positions in outcome["index"].items() for k in positions} for outcome in (alone, first)
    )
    assert one and two
    if method == "taylor":  # sums of another order round otherwise, and Adam makes large steps of small differences
        assert len(one ^ two) <= 0.01 * len(one)
    assert first["size"] == alone["size"]
    assert first["kept"] + second["kept"] == alone["kept"]
    assert abs(first["kept"] - second["kept"]) <= 0.1 * alone["kept"]


def test_weights_are_split_evenly() -> None:
    sizes = {"a": 4, "b": 3, "c": 3, "d": 2}
    weights = {(0, name): torch.zeros(size) for name, size in sizes.items()}
    assert owners(weights, 2) == {(0, "a"): 0, (0, "b"): 1, (0, "c"): 1, (0, "d"): 0}
    assert set(owners(weights, 1).values()) == {0}


def test_rows_of_a_rank() -> None:
    assert list(range(8))[Ranks(1, 2).rows(8)] == [1, 3, 5, 7]
    assert list(range(3))[ALONE.rows(3)] == [0, 1, 2]
    with pytest.raises(ConesError, match="a batch of 1 on 2 processes"):
        Ranks(0, 2).rows(1)
    assert ALONE.total(2.5) == 2.5 and ALONE.merged({"b": 1, "a": 2}) == {"a": 2, "b": 1}
