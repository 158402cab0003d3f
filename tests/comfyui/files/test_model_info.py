"""What the pack knows of a model from the host's configuration."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.supported_models
import pytest
from cones_concept_neurons.nodes.host.files.model_info import usual_settings


@pytest.mark.parametrize(
    ("kind", "settings"), [("SD15", (512, 7.0, 0.6)), ("SDXL", (1024, 6.0, 0.6)), ("AuraFlow", (1024, 4.0, 0.6))]
)
def test_usual_settings_of_a_real_configuration(kind, settings):
    """The host's configurations answer None for names that they do not have."""
    config = getattr(comfy.supported_models, kind)({})
    assert usual_settings(SimpleNamespace(model=SimpleNamespace(model_config=config))) == settings


def test_a_configuration_with_settings_of_its_own():
    config = SimpleNamespace(usual_settings=(96, 3.0, 1.0))
    assert usual_settings(SimpleNamespace(model=SimpleNamespace(model_config=config))) == (96, 3.0, 1.0)
