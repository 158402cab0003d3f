"""Statistics on disk: the same results as in memory, no file left behind, a clear error where there is no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from cones_ops import METHODS, ConesError, Examples, SearchSettings, find_concept_neurons
from cones_ops.search import statistics_store as room
from cones_ops.search.statistics_store import in_memory, on_disk


def test_a_tensor_on_disk_is_one_in_memory_and_leaves_nothing(tmp_path: Path) -> None:
    like = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)
    kept = on_disk(tmp_path)(like).copy_(like)
    assert kept.dtype == torch.float32 and kept.tolist() == like.tolist()
    kept.mul_(2)[0, 1] = 7
    assert kept.tolist() == [[0, 7, 4], [6, 8, 10]]
    assert in_memory(like).shape == like.shape and in_memory(like).dtype == torch.float32
    del kept
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings of a Linux process")
def test_it_lies_in_a_file_there_for_as_long_as_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FILE", 1000)
    make, opened = on_disk(tmp_path), len(list(Path("/proc/self/fd").iterdir()))
    kept = [make(torch.empty(3, 3)).fill_(k) for k in range(30)]  # 36 bytes, 64 apart: 15 in a file
    assert [float(one.sum()) for one in kept] == [9 * k for k in range(30)]
    assert Path("/proc/self/maps").read_text().count(str(tmp_path)) == 2
    assert len(list(Path("/proc/self/fd").iterdir())) == opened + 2
    large = make(torch.empty(1000)).fill_(1)
    assert float(large.sum()) == 1000 and Path("/proc/self/maps").read_text().count(str(tmp_path)) == 3
    del kept, large, make
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_search_finds_the_same_with_its_statistics_on_disk(
    method: str, toy_host: type, names: tuple[str, str], tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(8, 12, generator=generator), torch.randn(8, 8, generator=generator)]
    subject = Examples(torch.randn(4, 8, 1, 1, generator=generator), [(torch.randn(12, generator=generator), True)])
    settings = SearchSettings(method, steps=12, batch=4, held_out=8)
    results = []
    for kept in (in_memory, on_disk(tmp_path)):
        model = toy_host(*weights, where="own tokens")
        model.new_statistic = kept
        results.append(find_concept_neurons(model, subject, identifier="sks", class_word="star", settings=settings))
    plain, disk = results
    assert plain.history == disk.history and plain.curve == disk.curve
    assert all(torch.equal(plain.scores[name], disk.scores[name]) for name in names)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConesError, match=r"no room for 400 MB of a search's statistics in .*missing \(No such file"):
        on_disk(tmp_path / "missing")(torch.empty(100_000_000, device="meta"))

    def full(*given: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(ConesError, match=r"No space left on device\); make room there, or search fewer weights"):
        on_disk(tmp_path)(torch.empty(10))
    assert list(tmp_path.iterdir()) == []
