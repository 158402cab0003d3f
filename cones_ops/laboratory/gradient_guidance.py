"""Sampling in the toy world with the gradient of a loss on attention maps, for comparison with regions.

Attend-and-Excite moves the latents against the gradient before each of the first half of the steps; FOCUS adds the
gradient to the velocity in every step. Both cost a pass and its backward for each step they act in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..guidance.gradients import attend_and_excite, focus
from ..hosts.diffusers.host_model import DiffusersModel, TextTokens
from ..hosts.diffusers.layers import frozen
from ..hosts.diffusers.regions import recorded

LossName = Literal["attend_and_excite", "focus"]
LOSSES = {"attend_and_excite": attend_and_excite, "focus": focus}


@dataclass(frozen=True)
class GradientGuidance:
    """Which loss, and how far its gradient moves what the network sees."""

    loss: LossName
    step: float

    def changes(
        self,
        model: DiffusersModel,
        x: Tensor,
        levels: Tensor,
        number: int,
        rows: Sequence[TextTokens],
        groups: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What to add to the latents x (B, C, h, w) before step `number`, and after it.

        levels: all sigmas. rows, groups (2B, concepts, L): of the positive and then of the negative prompts.
        """
        nothing = torch.zeros_like(x)
        sigma, following = levels[number], levels[number + 1]
        if self.loss == "attend_and_excite" and number >= (len(levels) - 1) // 2:
            return nothing, nothing
        towards = -self.step * (1.0 + sigma**2) * self._gradient(model, x, sigma, rows, groups)
        if self.loss == "attend_and_excite":
            return towards, nothing
        return nothing, towards * (sigma - following) / sigma

    def _gradient(
        self, model: DiffusersModel, x: Tensor, sigma: Tensor, rows: Sequence[TextTokens], groups: Tensor
    ) -> Tensor:
        tokens, owners = single_tokens(groups)
        with torch.enable_grad(), frozen(model.unet):
            latents = x.detach().requires_grad_()
            with recorded(model.unet, tokens) as maps, model.recording():
                model.denoise(torch.cat([latents, x]), sigma.expand(2 * len(x)), rows)
            loss = LOSSES[self.loss](maps.mean()[: len(x)], owners[: len(x)])
            (gradient,) = torch.autograd.grad(loss.sum(), latents)
        return gradient


def single_tokens(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Groups (B, C, L) as one group for each token (B, T, L), and the group that it was in (B, T), -1 for none."""
    count = max(1, int(groups.sum(dim=(1, 2)).max()))
    tokens = torch.zeros(len(groups), count, groups.shape[2], dtype=torch.bool)
    owners = torch.full((len(groups), count), -1)
    for row, of_row in enumerate(groups):
        for number, (concept, position) in enumerate(of_row.nonzero().tolist()):
            tokens[row, number, position], owners[row, number] = True, concept
    return tokens, owners
