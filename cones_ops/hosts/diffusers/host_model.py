"""HostModel for a diffusers `UNet2DConditionModel` with eps or v prediction.

x = x0 + sigma * noise (k-diffusion space); the network sees x / sqrt(1 + sigma^2) and the timestep whose sigma is
nearest. Inside `multiplied` a target acts as theta * multiplier: everywhere, or only in the rows of the text that are
the concept's own tokens. `gradients` taps those effective weights in fp32. The UNet's parameters are never written,
get no `.grad`, and its forwards, modes and requires_grad are given back, also after an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import ConesError, listed
from ...masks.concept_mask import Where
from ...masks.fingerprint import fingerprint, sketch
from ...models.targets import TargetChoice, own_tokens_at
from ...search.host_model import Key, Multiplier
from ...search.statistics_store import NewStatistic, in_memory
from .layers import Forward, evaluating, forwards, frozen, target_modules

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class TextTokens:
    """Conditioning of one row: text hidden states (L, D), each concept's own tokens (concepts, L), SDXL's additions."""

    hidden: Tensor
    own: Tensor  # boolean; a token belongs to one concept at most
    added: Mapping[str, Tensor] = field(default_factory=dict)  # e.g. text_embeds (P,), time_ids (6,)

    def __post_init__(self) -> None:
        fits = self.own.ndim == self.hidden.ndim == 2 and self.own.shape[1] == len(self.hidden)
        if not fits or self.own.dtype != torch.bool:
            raise ConesError(
                f"text tokens need hidden (L, D) and boolean own (concepts, L); got {tuple(self.hidden.shape)} "
                f"and {tuple(self.own.shape)} {self.own.dtype}"
            )
        if bool((self.own.sum(dim=0) > 1).any()):
            raise ConesError("a token belongs to two concepts at once; give each concept words of its own")


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """Noise schedule (T,) in fp64 of a configuration with beta_schedule, beta_start, beta_end and timesteps.

    The betas are the scheduler's; its own fp32 product would move the lowest sigmas by 2e-5 from ComfyUI's.
    """
    from diffusers import DDPMScheduler

    names = ("beta_schedule", "beta_start", "beta_end")
    betas: Tensor = DDPMScheduler(config["timesteps"], **{name: config[name] for name in names}).betas
    return torch.cumprod(1.0 - betas.double(), dim=0)


class DiffusersModel:
    """A UNet seen through the library's one boundary (search.host_model.HostModel)."""

    def __init__(
        self,
        unet: nn.Module,
        alphas_cumprod: Tensor,
        prediction_type: Prediction = "epsilon",
        targets: TargetChoice = "text K+V",
        where: Where = "own tokens",
        concepts: int = 1,
    ) -> None:
        """`concepts`, more than one at own tokens only: each target once per concept, acting at that one's tokens."""
        if prediction_type not in get_args(Prediction):
            raise ConesError(f"prediction type {prediction_type!r} is not supported; use one of {get_args(Prediction)}")
        self.where: Where = where
        self.new_statistic: NewStatistic = in_memory
        self.unet = unet
        self.prediction_type = prediction_type
        alphas = alphas_cumprod.detach().double().cpu()
        sigmas = ((1.0 - alphas) / alphas) ** 0.5
        self._log_sigmas = sigmas.log().float()
        self._modules = target_modules(unet, targets)
        self._concepts = concepts
        self._check_own_tokens()
        self.base_weights = {name: module.weight.detach().float() for name, module in self._modules.items()}
        self.weights: Mapping[Key, Tensor] = {
            (concept, name): weight for concept in range(concepts) for name, weight in self.base_weights.items()
        }
        self._effective: Mapping[Key, Tensor] = {}
        self._own: Tensor | None = None  # (B, concepts, L) of the forward pass under way
        self._tapping = False

    def fingerprint(self) -> str:
        return fingerprint(self.base_weights)

    def sketch(self) -> str:
        return sketch(self.base_weights)

    # sigma, as ComfyUI's ModelSamplingDiscrete counts it, so that both hosts see the same numbers

    @property
    def timesteps(self) -> int:
        """Entries of the noise schedule."""
        return len(self._log_sigmas)

    def sigma(self, timestep: Tensor) -> Tensor:
        """Sigma of a fractional timestep: log-linear between the schedule's entries."""
        table = self._log_sigmas
        t = timestep.detach().float().cpu().clamp(0, len(table) - 1)
        low, high, part = t.floor().long(), t.ceil().long(), t.frac()
        return ((1 - part) * table[low] + part * table[high]).exp().to(timestep.device)

    def timestep(self, sigma: Tensor) -> Tensor:
        """Index of the schedule's entry nearest to log sigma."""
        distance = sigma.detach().float().cpu().log() - self._log_sigmas[:, None]  # (T, B)
        return distance.abs().argmin(dim=0).to(sigma.device)

    def sigma_at(self, percent: Tensor) -> Tensor:
        return self.sigma((1.0 - percent.float()) * (self.timesteps - 1))

    def noised(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latents + noise * _per_row(sigma, latents)

    def output_scale(self, sigma: Tensor) -> Tensor:
        return -sigma if self.prediction_type == "epsilon" else -sigma / (sigma**2 + 1.0) ** 0.5

    def denoise(self, x: Tensor, sigma: Tensor, conditioning: Sequence[TextTokens]) -> Tensor:
        """Denoised latents (B, C, H, W), fp32; one conditioning per row. Records a graph inside `recording` only."""
        if len(conditioning) != len(x):
            raise ConesError(f"{len(x)} latents but {len(conditioning)} conditionings; give one per row")
        groups: dict[int, list[int]] = {}
        for row, tokens in enumerate(conditioning):
            groups.setdefault(len(tokens.hidden), []).append(row)
        if len(groups) == 1:
            return self._denoise_alike(x, sigma, conditioning)
        parts = [self._denoise_alike(x[r], sigma[r], [conditioning[i] for i in r]) for r in groups.values()]
        order = torch.tensor([row for rows in groups.values() for row in rows]).argsort()
        return torch.cat(parts)[order.to(x.device)]

    def _denoise_alike(self, x: Tensor, sigma: Tensor, conditioning: Sequence[TextTokens]) -> Tensor:
        """`denoise` for rows whose texts have the same length."""
        weight = next(self.unet.parameters())
        rows = _per_row(sigma.to(x), x)  # (B, 1, 1, 1)
        added = {
            key: torch.stack([tokens.added[key] for tokens in conditioning]).to(weight) for key in conditioning[0].added
        }
        hidden = torch.stack([tokens.hidden for tokens in conditioning]).to(weight)  # (B, L, D)
        if wrong := {len(tokens.own) for tokens in conditioning} - {self._concepts}:
            raise ConesError(f"the text has own tokens of {min(wrong)} concepts; the model has {self._concepts}")
        self._own = torch.stack([tokens.own for tokens in conditioning]).to(weight.device)
        output: Tensor
        try:
            with torch.set_grad_enabled(self._tapping), evaluating(self.unet):
                output = self.unet(
                    (x / (rows**2 + 1.0) ** 0.5).to(weight),
                    self.timestep(sigma).to(weight.device),
                    encoder_hidden_states=hidden,
                    added_cond_kwargs=added or None,
                    return_dict=False,
                )[0]
        finally:
            self._own = None
        output = output.to(x)
        if self.prediction_type == "epsilon":
            return x - output * rows
        return x / (rows**2 + 1.0) - output * rows / (rows**2 + 1.0) ** 0.5

    @contextmanager
    def multiplied(self, multiplier: Multiplier | None) -> Iterator[None]:
        """Inside, each named target acts as theta * multiplier; the others as they are."""
        multiplier = multiplier or {}
        if unknown := {name for concept, name in multiplier if (concept, name) not in self.weights}:
            raise ConesError(f"multipliers without a target: {listed(unknown)}; targets: {listed(self.base_weights)}")
        effective = {}
        for key, factor in multiplier.items():
            weight = self.weights[key]
            if factor.shape != weight.shape:
                raise ConesError(f"{key[1]}: multiplier is {tuple(factor.shape)}, the weight {tuple(weight.shape)}")
            effective[key] = weight * factor.detach().to(weight)
        with self.acting_as(effective):
            yield

    def gradients(self, loss: Callable[[], Tensor]) -> tuple[Tensor, dict[Key, Tensor]]:
        """The loss and its gradient with respect to every effective weight, fp32."""
        with torch.inference_mode(False), torch.enable_grad(), frozen(self.unet):
            taps = {key: self._effective.get(key, w).detach().requires_grad_() for key, w in self.weights.items()}
            with self.acting_as(taps), self.recording():
                value = loss()
            if not value.requires_grad:  # no row of the batch has own tokens
                return value.detach(), {key: torch.zeros_like(tap) for key, tap in taps.items()}
            gradients = torch.autograd.grad(value, list(taps.values()), allow_unused=True)
        pairs = zip(taps.items(), gradients, strict=True)
        return value.detach(), {key: torch.zeros_like(tap) if g is None else g for (key, tap), g in pairs}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, `denoise` records a graph, for whoever differentiates it (a fine-tune of anything at all)."""
        before, self._tapping = self._tapping, True
        try:
            yield
        finally:
            self._tapping = before

    @contextmanager
    def acting_as(self, effective: Mapping[Key, Tensor]) -> Iterator[None]:
        """Inside, each named target acts as the weight given for it, where this model's targets act."""
        before, self._effective = self._effective, effective
        try:
            by_name: dict[str, dict[int, Tensor]] = {}
            for (concept, name), weight in effective.items():
                by_name.setdefault(name, {})[concept] = weight
            with forwards({self._modules[name]: self._forward(name, by) for name, by in by_name.items()}):
                yield
        finally:
            self._effective = before

    def _forward(self, name: str, effective: Mapping[int, Tensor]) -> Forward:
        """A target's forward with the effective weight of each concept."""
        module = self._modules[name]

        def everywhere(x: Tensor) -> Tensor:
            return _linear(x, effective[0], module.bias)

        def own_tokens(x: Tensor) -> Tensor:  # x (B, L, D)
            y = F.linear(x, module.weight, module.bias)
            if self._own is None:
                return y
            for concept, weight in effective.items():
                own = self._own[:, concept]  # (B, L)
                if bool(own.any()):
                    y = y.index_put((own,), _linear(x[own], weight, module.bias))
            return y

        return own_tokens if self.where == "own tokens" else everywhere

    def _check_own_tokens(self) -> None:
        if self.where not in get_args(Where):
            raise ConesError(f"where = {self.where!r} is not known; use one of {get_args(Where)}")
        if self.where == "own tokens" and not all(map(own_tokens_at, self._modules)):
            raise ConesError("self-attention has no text tokens: choose text targets, or where = 'everywhere'")
        if self._concepts < 1 or (self._concepts > 1 and self.where != "own tokens"):
            raise ConesError(f"{self._concepts} concepts {self.where}: only at own tokens can several be told apart")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer computed in fp32, whatever the model runs in, so that the gradient of its weight is fp32 too."""
    return F.linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))
