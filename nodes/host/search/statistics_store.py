"""Where a search in ComfyUI keeps its statistics: in memory, or in files in the temp folder where that is short."""

from __future__ import annotations

import shutil
from pathlib import Path

import comfy.model_management
import folder_paths
import torch

from ....cones_ops.errors import ConesError
from ....cones_ops.search.statistics_store import NewStatistic, in_memory, on_disk
from ..notices import warn

MOST = 0.8  # share of the free memory that statistics may take
LESS = "search text V or text K alone, which need half"


def statistics_store(size: int) -> NewStatistic:
    """For statistics of `size` bytes; reports where they go to disk, ConesError where they do not fit there either."""
    free = comfy.model_management.get_free_memory(torch.device("cpu"))
    if size <= MOST * free:
        return in_memory
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    left = shutil.disk_usage(folder).free
    needs = f"this search keeps {size / 1e6:,.0f} MB of statistics, and {free / 1e6:,.0f} MB of memory are free"
    if size > left:
        raise ConesError(
            f"{needs}, and {left / 1e6:,.0f} MB of disk in {folder}; {LESS}, or "
            "start ComfyUI with --temp-directory on a larger disk"
        )
    warn(
        f"Wait, or search text V or text K alone: {needs}: they are kept on disk, in {folder}, which is slow where "
        "memory cannot hold them. One of K and V needs half"
    )
    return on_disk(folder)
