"""The nodes Keep Concepts Apart and See Concepts, around a sampled picture of the small UNet."""

from __future__ import annotations

import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.nodes.host.guidance.recording import RecordedPrompt, mean_over_prompts
from cones_concept_neurons.nodes.regions import ConesKeepApart, ConesSeeConcepts, overview
from support.small_models import encode, sampled

pytestmark = pytest.mark.slow  # the whole file: it builds models

PICTURES = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def drawn(model):
    """A model after a run of two pictures and two steps."""
    apart = ConesKeepApart.execute(model, "", 1.0).args[0]
    sampled(apart, encode(), encode({}, seed=1), steps=2)
    return apart


def test_masks_of_all_concepts_or_of_one(drawn):
    figure, masks, report = ConesSeeConcepts.execute(PICTURES, drawn).args
    assert masks.shape == (4, 32, 48) and set(masks.unique().tolist()) == {0.0, 1.0}
    assert report == "4 masks, 2 for each of: sks star, zwx heart"
    assert figure.ndim == 4 and figure.shape[0] == 1
    _, second, report = ConesSeeConcepts.execute(PICTURES, drawn, " ZWX  heart").args
    assert torch.equal(second, masks[2:]) and report == "2 masks, 2 for each of: zwx heart"
    _, large, _ = ConesSeeConcepts.execute(PICTURES, drawn, threshold=0.1).args
    assert (large >= masks).all() and large.sum() > masks.sum()


def test_regions_cover_the_picture_once(drawn):
    _, masks, _ = ConesSeeConcepts.execute(PICTURES, drawn, show="regions", threshold=0.5).args
    covered = masks[:2] + masks[2:]
    assert covered.max() == 1 and covered.mean() > 0.95  # where two regions meet, neither may reach a half


def test_what_cannot_be_shown_is_said(model, drawn):
    with pytest.raises(ConesError, match="records nothing"):
        ConesSeeConcepts.execute(PICTURES, model)
    with pytest.raises(ConesError, match="has recorded no picture"):
        ConesSeeConcepts.execute(PICTURES, ConesKeepApart.execute(model, "", 1.0).args[0])
    with pytest.raises(ConesError, match=r"1 images, but .* drew 2"):
        ConesSeeConcepts.execute(PICTURES[:1], drawn)
    with pytest.raises(ConesError, match=r"no 'a tree'; it has sks star, zwx heart"):
        ConesSeeConcepts.execute(PICTURES, drawn, "a tree")
    plain = ConesKeepApart.execute(model, "", 0.0).args[0]
    sampled(plain, encode(), encode({}, seed=1))
    with pytest.raises(ConesError, match="no regions acted"):
        ConesSeeConcepts.execute(PICTURES, plain, show="regions")


def test_words_of_the_box(model):
    settings = ConesKeepApart.execute(model, "a  circle, tree\nsky,", 0.5).args[0].model_options["transformer_options"]
    assert settings["cones_keep_apart"].words == ("a circle", "tree", "sky")


def test_prompts_of_a_run_are_averaged_where_they_name_a_thing():
    first = RecordedPrompt(torch.tensor([True, False]), torch.tensor([2.0, 9.0]).view(1, 2, 1, 1), None)
    second = RecordedPrompt(torch.tensor([True, True]), torch.tensor([4.0, 5.0]).view(1, 2, 1, 1), None)
    maps, regions = mean_over_prompts([first, second])
    assert maps.flatten().tolist() == [3.0, 5.0] and regions is None


def test_the_overview_has_a_row_for_each_picture():
    pictures = (PICTURES * 255).byte().numpy()
    maps = torch.rand(2, 3, 4, 4)
    one_row, two_rows = overview(pictures[:1], ["a", "b", "c"], maps[:1]), overview(pictures, ["a", "b", "c"], maps)
    assert one_row.shape[1] == two_rows.shape[1] and two_rows.shape[0] > 1.8 * one_row.shape[0]
