"""What troubles the server of soak.py: cancels, unloads, and a disk that is full.

The disk: all that the server writes is a tmpfs in a mount namespace of this program (`unshare`, Linux; no root needed),
and a file of zeros fills it. Where there are no such namespaces, the disk is never full.
"""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from statistics import median
from threading import Event, Thread

import torch
from safetensors.torch import save_file
from soak_prompts import EVERYWHERE, LORA

from cones_ops.laboratory.comfyui.checkout import PACK
from cones_ops.laboratory.comfyui.server import Server
from cones_ops.masks.mask_file import load_mask

NAMESPACE = "CONES_SOAK_NAMESPACE"


def in_namespace() -> None:
    """Start this program again in a mount namespace of its own, where the system has them."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    if NAMESPACE not in os.environ and sys.platform == "linux":
        if subprocess.run([*enter, "true"], capture_output=True, check=False).returncode == 0:
            os.environ[NAMESPACE] = "1"
            os.execvp(enter[0], [*enter, sys.executable, *sys.argv])


@contextmanager
def disk(folder: Path, size: int) -> Iterator[bool]:
    """`base` in a folder, on a small disk of its own where that can be had; whether it is."""
    base = folder / "base"
    base.mkdir()
    (folder / "server.log").touch()  # a log that cannot be written would stop the host itself
    small = NAMESPACE in os.environ
    if small:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(base)], check=True)
    (base / "server.log").symlink_to(folder / "server.log")
    write_lora(base / "models" / "loras" / LORA)
    try:
        yield small
    finally:
        if small:
            subprocess.run(["umount", "--lazy", str(base)], check=False)


def write_lora(file: Path) -> None:
    """A random LoRA on the toy world's cross-attention keys and values."""
    shapes = load_mask(PACK / "concept_masks" / f"{EVERYWHERE[0]}.safetensors").shapes
    generator, tensors = torch.Generator().manual_seed(9), {}
    for name, (rows, columns) in shapes.items():
        key = "diffusion_model." + name.removesuffix(".weight")
        tensors[f"{key}.lora_up.weight"] = torch.randn(rows, 4, generator=generator)
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, columns, generator=generator) / columns**0.5
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)


class Faults:
    """Cancels, unloads and full disks at random moments; `events` counts them.

    The moments follow the prompts, not the clock, so that a slow machine sees as many as a fast one.
    """

    def __init__(self, base: Path, generator: random.Random, small: bool) -> None:
        self.base, self.generator, self.small = base, generator, small
        self.events: Counter[str] = Counter()
        self.ends: list[float] = []  # when each run ended
        self.full_until = 0.0

    def excused(self, since: float) -> bool:
        """Whether the disk was full at some time since then."""
        return self.full_until >= since

    def after(self, ends: int, stop: Event) -> bool:
        """Wait until so many more runs have ended, and then for a part of a run; False if stopped before."""
        target = len(self.ends) + ends
        while len(self.ends) < target:
            if stop.wait(0.02):
                return False
        gaps = [second - first for first, second in pairwise(self.ends[-9:])]
        return not stop.wait(self.generator.uniform(0, 2 * median(gaps or [0])))

    @contextmanager
    def on(self, server: Server, deadly: bool = False) -> Iterator[None]:
        """Trouble the server while the context is open. deadly: kill it with -9 in the end."""
        stop = Event()
        threads = [Thread(target=self._trouble, args=(server, stop))]
        threads += [Thread(target=self._kill, args=(server, stop))] * deadly
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _kill(self, server: Server, stop: Event) -> None:
        if self.after(self.generator.randrange(1, 8), stop):
            server.process.kill()
            self.events["kill"] += 1

    def _trouble(self, server: Server, stop: Event) -> None:
        kinds = ["cancel", "cancel", "unload"] + ["disk full"] * self.small
        while self.after(self.generator.randrange(1, 7), stop):
            kind = self.generator.choice(kinds)
            with suppress(OSError):  # the server is gone
                if kind == "cancel":
                    server.request("/interrupt", {})
                elif kind == "unload":
                    server.request("/free", {"unload_models": True, "free_memory": self.generator.random() < 0.5})
                else:
                    self._fill(self.generator.uniform(0.2, 2))
            self.events[kind] += 1

    def _fill(self, seconds: float) -> None:
        """Leave no byte of the disk for some time."""
        self.full_until = math.inf
        zeros = self.base / "zeros"
        try:
            with suppress(OSError), zeros.open("wb", buffering=0) as file:
                while file.write(bytes(65536)):
                    pass
            time.sleep(seconds)
        finally:
            zeros.unlink(missing_ok=True)
            self.full_until = time.monotonic()
