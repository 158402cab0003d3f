"""The toy world through the host's own classes: the same denoised latents, text and pictures as diffusers gives."""

from __future__ import annotations

import comfy.model_management
import numpy as np
import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.hosts.diffusers.host_model import alphas_cumprod
from cones_concept_neurons.cones_ops.toy_world.bundle import SHIPPED, load_pipeline, random_pipeline, save_pipeline
from cones_concept_neurons.cones_ops.toy_world.world import SIDE
from cones_concept_neurons.nodes.host.files.model_info import usual_settings
from cones_concept_neurons.nodes.host.toy_checkpoint import host_unet_config, load_toy_checkpoint
from support.small_models import DEVICE

TEXTS = ["a sks cat", "a red cat wearing a hat and a (blue:1.0) mug in the snow", ""]
PATCH = 12  # pixels of a latent's side


@pytest.fixture(scope="module", params=["random weights", "shipped"])
def path(request, tmp_path_factory):
    if request.param == "shipped":
        return SHIPPED
    path = tmp_path_factory.mktemp("toy") / "random.safetensors"
    save_pipeline(random_pipeline(3), path)
    return path


@pytest.fixture(scope="module")
def pipeline(path):
    return load_pipeline(path)


@pytest.fixture(scope="module")
def autoencoder(pipeline):
    return pipeline.autoencoder


@pytest.fixture(scope="module")
def checkpoint(path):
    with torch.inference_mode():  # as the host loads models: every parameter is an inference tensor
        return load_toy_checkpoint(path)


def test_text_encodings_agree(pipeline, checkpoint):
    _, clip, _ = checkpoint
    for text in TEXTS:
        with torch.inference_mode():
            ((context, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
        expected = pipeline.encode_text([text.replace("(", "").replace(":1.0)", "")])
        assert context.shape == expected.shape
        assert (context - expected).abs().max() < 1e-4


def test_denoised_latents_agree(pipeline, checkpoint):
    model, _, _ = checkpoint
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
    context = pipeline.encode_text(TEXTS)
    timestep = torch.tensor([20, 500, 980])
    alpha = alphas_cumprod(pipeline.schedule).float()[timestep].reshape(-1, 1, 1, 1)
    sigma = ((1 - alpha) / alpha).sqrt()
    noise = torch.randn(3, pipeline.unet.config.in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    clean = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        given = (one.to(DEVICE) for one in (clean + sigma * noise, sigma.flatten()))
        denoised = model.model.apply_model(*given, c_crossattn=context.to(DEVICE)).cpu()
        mixed = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = pipeline.unet(mixed, timestep, encoder_hidden_states=context).sample
    expected = alpha.sqrt() * mixed - (1 - alpha).sqrt() * velocity
    assert torch.equal(model.model.model_sampling.timestep(sigma.flatten()), timestep)
    assert (denoised - expected).abs().max() < 1e-3


def test_the_vae_is_the_autoencoder(autoencoder, checkpoint):
    _, _, vae = checkpoint
    pictures = torch.rand(2, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        latents = vae.encode(pictures)
        decoded = vae.decode(latents)
        tiled = vae.decode_tiled(latents, tile_x=8, tile_y=8, overlap=2)
        encoded_tiled = vae.encode_tiled(pictures, tile_x=SIDE, tile_y=SIDE, overlap=2 * PATCH)
    expected = autoencoder.encode(pictures.movedim(-1, 1) * 2 - 1)
    assert latents.shape[2:] == (8, 8) and (latents - expected).abs().max() < 1e-5
    back = ((autoencoder.decode(expected) + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert (decoded - back).abs().max() < 1e-5
    assert tiled.shape == decoded.shape and encoded_tiled.shape == latents.shape
    assert (encoded_tiled - latents).abs().max() < 1e-4


def test_stock_nodes_draw_a_picture_of_the_size_that_was_asked(checkpoint):
    from nodes import EmptyLatentImage, KSampler, VAEDecode

    model, clip, vae = checkpoint
    with torch.inference_mode():
        (empty,) = EmptyLatentImage().generate(SIDE, SIDE)
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize("a red cat"))
        arguments = (0, 2, 4.0, "euler", "normal", conditioning, conditioning, empty)
        (samples,) = KSampler().sample(model, *arguments)
        (picture,) = VAEDecode().decode(vae, samples)
    assert samples["samples"].shape == (1, model.model.latent_format.latent_channels, 8, 8)
    assert picture.shape == (1, SIDE, SIDE, 3)
    assert torch.isfinite(picture).all()


def test_the_preview_while_sampling_is_the_mean_colour_of_each_patch(autoencoder, checkpoint):
    from latent_preview import Latent2RGBPreviewer

    latents = torch.randn(1, autoencoder.channels, 8, 8, generator=torch.Generator().manual_seed(0)) / 50
    form = checkpoint[0].model.latent_format
    previewer = Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    shown = torch.from_numpy(np.asarray(previewer.decode_latent_to_preview(latents)).copy())  # (8, 8, 3) in 0 to 255
    weight, bias = autoencoder.linear_decoding
    patches = torch.nn.functional.conv_transpose2d(latents, weight, bias, stride=weight.shape[-1])
    expected = (torch.nn.functional.avg_pool2d(patches, weight.shape[-1])[0].movedim(0, -1) + 1) / 2 * 255
    assert (shown - expected.clamp(0, 255)).abs().max() <= 1.01


def test_it_says_what_it_usually_draws_with(checkpoint):
    assert usual_settings(checkpoint[0]) == (SIDE, 3.0, 1.0)


def test_a_file_that_is_no_toy_world_is_refused(tmp_path):
    with pytest.raises(ConesError, match="no such file"):
        load_toy_checkpoint(tmp_path / "nothing.safetensors")


def test_widths_the_host_cannot_build_are_refused(pipeline):
    config = {**pipeline.unet.config, "block_out_channels": [96, 160]}
    with pytest.raises(ConesError, match="multiples"):
        host_unet_config(config)


def test_the_host_can_load_the_model_once_more(checkpoint, path):
    """Train LoRA and hooks ask for it on hosts whose models are dynamic."""
    reload, arguments = checkpoint[0].cached_patcher_init
    other = reload(*arguments, disable_dynamic=True)
    assert arguments == (path,) and other.model is not checkpoint[0].model
    pairs = zip(other.model.parameters(), checkpoint[0].model.parameters(), strict=True)
    assert all(torch.equal(weight, before) for weight, before in pairs)


def test_the_host_shows_the_short_name_of_our_error():
    import execution

    assert execution.full_type_name(ConesError) == "cones_ops.ConesError"
