"""Sample pictures while a search is under way: what the model draws with the neurons that are shut at this step.

Each sample shows the subject's first prompt, beside the class prompt or, without one, what the untouched model draws.
All samples have the same noise, so they can be compared. They draw nothing from the search's own noise and leave its
tensors alone: the mask is the same with and without them. What goes wrong in a sample ends the samples, not the search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import latent_preview
import torch
from comfy.k_diffusion.sampling import sample_euler
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from ...cones_ops.errors import ConesError
from ...cones_ops.search.host_model import Multiplier
from ...cones_ops.search.settings import OnStep, Step
from .inputs import as_pixels
from .notices import warn
from .search.host_model import BorrowedModel
from .search.progress import MARGIN, WIDTH
from .text.token_positions import KEY

DRAWING_STEPS = 8
SIDE, LINE = 180, 16  # pixels of a picture in the preview, and of the words above it
NEGATIVE, CLASS_PROMPT = "negative of the samples", "class prompt of the samples"
COMPARED = ("before the search", "the class prompt")


@dataclass(frozen=True)
class Samples:
    """Which sample pictures a search draws.

    every: steps from one to the next. cfg: guidance. negative, class_prompt: CONDITIONINGs. show: gets each sample.
    vae: decodes them where memory allows; without it they are the host's latent previews.
    """

    every: int
    cfg: float
    negative: Any
    show: Callable[[Image.Image], None]
    seed: int = 0
    class_prompt: Any = None
    vae: Any = None

    @property
    def conditionings(self) -> dict[str, Any]:
        """What the model must be borrowed with, by label."""
        prompts = {NEGATIVE: self.negative, CLASS_PROMPT: self.class_prompt}
        return {label: conditioning for label, conditioning in prompts.items() if conditioning}


class SampleDrawer:
    """An on_step that draws a sample where one is due, and then calls `on_step`."""

    def __init__(
        self, samples: Samples, model: BorrowedModel, prompt: str, like: Tensor, on_step: OnStep | None
    ) -> None:
        """prompt: the label of one that names the concept. like: latents (C, H, W) of the size to draw."""
        self.samples, self.model, self.prompt, self.on_step = samples, model, prompt, on_step
        generator = torch.Generator().manual_seed(samples.seed)
        self.noise = torch.randn((1, *like.shape), generator=generator)
        self.drawing = True
        self.unchanged: Image.Image | None = None  # what a step is compared with

    def __call__(self, step: Step) -> None:
        if self.drawing and step.multiplier is not None and step.step % self.samples.every == 0:
            try:
                self.samples.show(self.sample(step.step, step.multiplier()))
            except comfy.model_management.InterruptProcessingException:
                raise
            except Exception as error:  # whatever a model, a VAE or a full memory raises
                self.drawing = False
                warn(f"No more sample pictures, the search continues: {error}")
        if self.on_step is not None:
            self.on_step(step)

    def sample(self, number: int, multiplier: Multiplier) -> Image.Image:
        """The subject's prompt as it is drawn at a step, beside what it is compared with, each below its name."""
        compared = CLASS_PROMPT if CLASS_PROMPT in self.model.conds else self.prompt
        with self.model.multiplied(multiplier):
            now = self.draw(self.prompt)
            if compared == CLASS_PROMPT and self.model.where == "everywhere":
                self.unchanged = self.draw(compared)
        if self.unchanged is None:
            self.unchanged = self.draw(compared)
        return side_by_side({f"step {number}": now, COMPARED[compared == CLASS_PROMPT]: self.unchanged})

    @torch.no_grad()
    def draw(self, label: str) -> Image.Image:
        """A picture of a prompt in a few Euler steps."""
        sigmas = comfy.samplers.calculate_sigmas(self.model.sampling, "simple", DRAWING_STEPS).to(self.model.device)
        x = self.model.noised(torch.zeros_like(self.noise), self.noise, sigmas[:1])
        return self.decoded(sample_euler(lambda x, sigma: self.guided(x, sigma, label), x, sigmas, disable=True))

    def guided(self, x: Tensor, sigma: Tensor, label: str) -> Tensor:
        """Denoised latents (1, C, H, W) under classifier-free guidance."""
        denoised = self.model.denoise(x, sigma, [label]).float()
        if self.samples.cfg == 1.0:
            return denoised
        other = self.model.denoise(x, sigma, [NEGATIVE]).float()
        return other + self.samples.cfg * (denoised - other)

    def decoded(self, latents: Tensor) -> Image.Image:
        """The picture of internal latents (1, C, H, W): from the VAE where it fits, else the host's latent preview."""
        vae, inner = self.samples.vae, self.model.inner_model
        if vae is not None and fits(vae, latents.shape):
            with torch.inference_mode():  # as the host runs it, or its weights would be moved outside
                pictures = vae.decode(inner.process_latent_out(latents))
            return Image.fromarray(as_pixels(pictures.reshape(-1, *pictures.shape[-3:])[:1])[0])
        preview: Image.Image = previewer(inner.latent_format, self.model.device).decode_latent_to_preview(latents)
        return preview


def fits(vae: Any, shape: Sequence[int]) -> bool:
    """Whether the VAE can decode latents beside the borrowed model, which the host must not unload for it."""
    needed = vae.patcher.model_size() + vae.memory_used_decode(shape, vae.vae_dtype)
    spare = comfy.model_management.minimum_inference_memory()
    return bool(comfy.model_management.get_free_memory(vae.device) > 1.2 * needed + spare)


def previewer(latent_format: Any, device: torch.device) -> Any:
    """The host's latent previewer: the user's choice, or colours alone where previews are turned off."""
    chosen = latent_preview.get_previewer(device, latent_format)
    if chosen is not None:
        return chosen
    colours = [getattr(latent_format, f"latent_rgb_factors{part}") for part in ("", "_bias", "_reshape")]
    if colours[0] is None:
        raise ConesError("ComfyUI has no latent preview for this model; connect the VAE")
    return latent_preview.Latent2RGBPreviewer(*colours)


def without_text(conditioning: Any) -> Any:
    """The first prompt of a CONDITIONING with zeros for its text: a negative prompt where there is no text encoder."""
    zeros = []
    for text, extra in (conditioning or [])[:1]:
        kept = {key: value for key, value in extra.items() if key != KEY}
        if isinstance(pooled := kept.get("pooled_output"), Tensor):
            kept["pooled_output"] = torch.zeros_like(pooled)
        zeros.append([torch.zeros_like(text), kept])
    return zeros


def side_by_side(pictures: Mapping[str, Image.Image]) -> Image.Image:
    """Pictures in a row of the width of a preview, each below its name."""
    row = Image.new("RGB", (WIDTH, LINE + SIDE + MARGIN), "white")
    pen = ImageDraw.Draw(row)
    for k, (name, picture) in enumerate(pictures.items()):
        left = MARGIN + k * (WIDTH - MARGIN) // len(pictures)
        pen.text((left, 0), name, fill="black")
        row.paste(ImageOps.contain(picture, (SIDE, SIDE)), (left, LINE))
    return row
