"""DreamBench without weights: scores by hand, our prompts, and what is read from a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cones_ops.errors import ConesError
from cones_ops.laboratory.averages import mean_with_error
from cones_ops.laboratory.dreambench import protocol, scores
from cones_ops.laboratory.dreambench.prompts import LIVE_PROMPTS, OBJECT_PROMPTS, PAIR_PROMPTS
from cones_ops.laboratory.dreambench.protocol import DreamBenchSubject, read_pairs, read_protocol

PUBLISHED = """Classes

subject_name,class
mug2,mug
bear_toy,stuffed animal
hound,dog

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in a test'.format(unique_token, class_token),
"a {0} {1} at the baker's".format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} that sings'.format(unique_token, class_token), 'a {unique_token} {class_token} asleep',
]
"""


def test_scores_by_hand() -> None:
    generated = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[3.0, 4.0], [3.0, 4.0]]])  # 2 prompts, 2 samples
    real = torch.tensor([[5.0, 0.0]])
    assert scores.image_scores(generated, real).tolist() == pytest.approx([0.5, 0.6])
    both = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    assert scores.image_scores(generated, both).tolist() == pytest.approx([0.5, 0.7])
    assert scores.text_scores(generated, both).tolist() == pytest.approx([0.5, 0.8])
    assert scores.among_themselves(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])) == pytest.approx(1 / 3)
    assert scores.among_themselves(real) is None


def test_figures_by_hand() -> None:
    assert mean_with_error([1.0, 3.0]) == {"value": 2.0, "standard_error": pytest.approx(1.0), "n": 2}
    assert mean_with_error([4.0]) == {"value": 4.0, "standard_error": None, "n": 1}
    assert mean_with_error([]) == {"value": None, "standard_error": None, "n": 0}
    cells = [
        {"dino": 0.2, "clip_i": 0.5, "clip_t": 0.3, "subjects": [about("a", "dog", 0.8)]},
        {"dino": 0.4, "clip_i": 0.5, "clip_t": 0.1, "subjects": [about("b", "cat", None)]},
    ]
    found = scores.summary(cells)
    assert found["dino"]["value"] == pytest.approx(0.3) and found["dino"]["standard_error"] == pytest.approx(0.1)
    assert found["real_dino"] == {"value": 0.8, "standard_error": None, "n": 1}
    assert found["by_class"]["cat"]["clip_t"]["value"] == 0.1
    pair = [{**cells[0], "subjects": [about("a", "dog", 0.8), about("b", "cat", 0.4)]}]
    assert scores.summary(pair)["real_dino"]["value"] == pytest.approx(0.6)
    assert set(scores.summary(pair)["by_class"]) == {"cat + dog"}


def about(name: str, class_word: str, real: float | None) -> dict[str, Any]:
    return {"subject": name, "class": class_word, "real": {"dino": real, "clip_i": real}}


def test_our_prompts_are_25_of_each_kind() -> None:
    for prompts, places in ((OBJECT_PROMPTS, 1), (LIVE_PROMPTS, 1), (PAIR_PROMPTS, 2)):
        assert len(set(prompts)) == len(prompts) == 25
        assert all(prompt.count("a {}") == prompt.count("{") == places for prompt in prompts)


def test_the_published_file_is_read() -> None:
    found = protocol.parse_prompts_file(PUBLISHED, "p.txt")
    assert list(found.subjects.values()) == [
        DreamBenchSubject("mug2", "mug", False),
        DreamBenchSubject("bear_toy", "stuffed animal", False),
        DreamBenchSubject("hound", "dog", True),
    ]
    assert found.prompts(found.subjects["mug2"]) == ("a {} in a test", "a {} at the baker's")
    assert found.prompts(found.subjects["hound"]) == ("a {} that sings", "a {} asleep")
    assert [one.name for one in found.chosen(["hound", "mug2"])] == ["mug2", "hound"]
    with pytest.raises(ConesError, match=r"called zebra; there are mug2, bear_toy, hound"):
        found.chosen(["zebra"])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("'a {0} {1} in a test'", "'a {0} {1} in a test", "line 13: a quote without"),
        ("'a {0} {1} in a test'", "'a dog in a test'", "line 13: 'a dog in a test' needs one place"),
        ("'a {0} {1} in a test'", "'a {0} {1} in {2} {3}'", "needs one place"),
        ("Live Subject Prompts", "Others", "4 object and 0 live prompts"),
        ("Object Prompts", "Others", "line 13: .* before any heading"),
        ("subject_name,class", "names", "found 0 subjects"),
        ("hound,dog", "mug2,dog", "line 6: 'mug2,dog'; each row"),
        ("hound,dog", "../hound,dog", "each row needs a folder's name"),
    ],
)
def test_a_bad_line_of_the_published_file_is_named(old: str, new: str, told: str) -> None:
    with pytest.raises(ConesError, match=rf"p\.txt.*{told}"):
        protocol.parse_prompts_file(PUBLISHED.replace(old, new), "p.txt")


def test_tables_of_subjects_and_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConesError, match=r"neither prompts_and_classes\.txt nor subjects\.csv there, only nothing"):
        read_protocol(tmp_path)
    with pytest.raises(ConesError, match="no such folder"):
        read_protocol(tmp_path / "x")
    table = tmp_path / "subjects.csv"
    table.write_text("subject,class,live\nrex, dog,yes\nmug,mug,no\n", encoding="utf-8")
    found = read_protocol(tmp_path)
    assert found.subjects == {
        "rex": DreamBenchSubject("rex", "dog", True),
        "mug": DreamBenchSubject("mug", "mug", False),
    }
    assert found.prompts(found.subjects["rex"]) == LIVE_PROMPTS
    pairs = tmp_path / "pairs.csv"
    for rows, told in (("rex,zoe", "line 2: no subject is called zoe"), ("mug,mug", "line 2: mug twice")):
        pairs.write_text(f"subject_a,subject_b\n{rows}\n", encoding="utf-8")
        with pytest.raises(ConesError, match=told):
            read_pairs(pairs, found)
    pairs.write_text("subject_a,subject_b\nmug,rex\n", encoding="utf-8")
    assert read_pairs(pairs, found) == [(found.subjects["mug"], found.subjects["rex"])]
    with pytest.raises(ConesError, match=r"no such file.*subject_a,subject_b"):
        read_pairs(tmp_path / "none.csv", found)
    for text, told in (
        ("subject,class\nrex,dog\n", "no column live in 'subject,class'"),
        ("subject,class,live\nrex,dog,maybe\n", "line 2: live is 'maybe'"),
        ("subject,class,live\n", "no subjects"),
    ):
        table.write_text(text, encoding="utf-8")
        with pytest.raises(ConesError, match=told):
            read_protocol(tmp_path)
    table.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConesError, match="save it as UTF-8"):
        read_protocol(tmp_path)
