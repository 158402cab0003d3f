"""Which folder extra_model_paths.yaml makes the default for masks: the host reads it before it knows this kind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import folder_paths
import yaml
from comfy.cli_args import args


def config_files() -> list[Path]:
    """The files that the host reads at its start."""
    named = chain(*(getattr(args, "extra_model_paths_config", None) or []))
    return [Path(folder_paths.__file__).parent / "extra_model_paths.yaml", *map(Path, named)]


@lru_cache
def default_folder(kind: str) -> str | None:
    """The first folder of a kind in a section with is_default: true, as the host writes it; None without one."""
    folders = (folder for file in config_files() for folder in default_folders(file, kind))
    return next(folders, None)


def default_folders(file: Path, kind: str) -> Iterator[str]:
    """The folders of a kind in the default sections of one file; none where it cannot be read."""
    try:
        sections: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return
    for section in (sections or {}).values() if isinstance(sections, dict) else ():
        if not isinstance(section, dict) or not section.get("is_default") or not section.get(kind):
            continue
        base = os.path.expandvars(os.path.expanduser(str(section.get("base_path", ""))))
        for line in str(section[kind]).splitlines():
            if line.strip():
                yield os.path.normpath(os.path.join(file.absolute().parent, base, line.strip()))
