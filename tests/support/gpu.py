"""The host's models on the GPU, for tests on a machine that has one: CONES_TEST_GPU=full, or =dynamic."""

from __future__ import annotations

import pytest


def use_gpu(mode: str) -> None:
    """Let the host's models load on the GPU, "full" or with "dynamic" VRAM, which its main.py turns on the same way."""
    if mode not in ("full", "dynamic"):
        raise pytest.UsageError(f"CONES_TEST_GPU={mode}: either full or dynamic")
    import comfy_aimdo.control

    if mode == "dynamic":
        comfy_aimdo.control.init()  # before its other modules are imported
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import torch

    torch.backends.cudnn.allow_tf32 = False  # results are compared with fp32 ones
    if mode == "dynamic":
        device = comfy.model_management.get_torch_device()
        if not comfy_aimdo.control.init_devices([(device.index, 0)]):
            raise pytest.UsageError(f"comfy-aimdo does not work with {device}")
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
