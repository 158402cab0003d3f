"""Shares of pictures that are what their captions say, by a judge that is told what to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from cones_ops.laboratory.judge import Judge, Reading
from cones_ops.laboratory.world import in_words as world
from cones_ops.toy_world.bundle import random_pipeline
from cones_ops.toy_world.scenes import random_scene
from cones_ops.toy_world.subjects import in_training


def test_shares_have_standard_errors() -> None:
    assert world.Share(8, 16).as_json() == {"value": 0.5, "standard_error": 0.125, "n": 16}


def test_any_layout_is_right_where_no_places_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng([0, 3])
    scenes = [random_scene(generator, 3, in_training) for _ in range(4)]
    others = {scene.layout: other.layout for scene in scenes for other in scenes if other.layout != scene.layout}
    readings = [Reading(others[scene.layout], scene.characters, scene.background) for scene in scenes]
    monkeypatch.setattr(world, "sample", lambda pipeline, prompts, **_: torch.zeros(len(prompts), 3, 96, 96))
    monkeypatch.setattr(world, "read", lambda judge, pictures: readings)
    result = world.in_words(random_pipeline(0, (32, 64)), Judge(), 3, 4, forms=("plain_list",))
    assert all(result.hits) and result.characters.value == 1.0 and "layout" not in result.attributes


def test_what_is_right_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng([0, 2])
    scenes = [random_scene(generator, 2, in_training) for _ in range(4)]
    readings = [Reading(scene.layout, scene.characters, scene.background) for scene in scenes]
    left, right = readings[1].characters
    readings[1] = replace(readings[1], characters=(replace(left, kind="?", eyes="?"), right))
    readings[2] = replace(readings[2], background="?")
    texts: list[str] = []

    def no_sample(pipeline: object, prompts: list[str], **_: object) -> Tensor:
        texts.extend(prompts)
        return torch.zeros(len(prompts), 3, 96, 96)

    monkeypatch.setattr(world, "sample", no_sample)
    monkeypatch.setattr(world, "read", lambda judge, pictures: readings)
    result = world.in_words(random_pipeline(0, (32, 64)), Judge(), 2, 4, forms=("placed", "below"))
    assert result.hits == [True, False, False, True] and result.share.value == 0.5
    assert (result.characters.hits, result.characters.n) == (7, 8)
    assert (result.attributes["kind"].hits, result.attributes["colour"].hits) == (7, 8)
    assert (result.attributes["background"].hits, result.attributes["layout"].hits) == (3, 2)
    assert {form: share.hits for form, share in result.by_form().items()} == {"placed": 1, "below": 1}
    assert texts == [caption.text for caption in result.captions]
