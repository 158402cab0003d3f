"""ConceptMask and its set algebra: hand-made examples, and the laws on random masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.masks import make_mask

from cones_ops import ConceptMask, ConesError, difference, empty, intersection, restrict, union
from cones_ops.masks.concept_mask import multiplier, multipliers, same_neurons, why_empty

SHAPES = {"a.weight": (2, 3), "b.weight": (4,)}


def mask(a: list[int], b: list[int], **fields: object) -> ConceptMask:
    return make_mask({"a.weight": a, "b.weight": b}, SHAPES, **fields)


def entries(m: ConceptMask) -> set[tuple[str, int]]:
    return {(name, int(i)) for name, index in m.index.items() for i in index}


masks = st.builds(
    lambda a, b: mask(sorted(a), sorted(b)),
    st.sets(st.integers(0, 5)),
    st.sets(st.integers(0, 3)),
)


def test_counts() -> None:
    m = mask([0, 5], [])
    assert (m.count, m.size, m.density, m.names) == (2, 10, 0.2, ["a.weight"])


def test_algebra_by_hand() -> None:
    first, second = mask([0, 2], [1]), mask([2, 3], [])
    assert entries(union(first, second)) == {("a.weight", 0), ("a.weight", 2), ("a.weight", 3), ("b.weight", 1)}
    assert entries(intersection(first, second)) == {("a.weight", 2)}
    assert entries(difference(first, second)) == {("a.weight", 0), ("b.weight", 1)}
    assert entries(restrict(first, ["b.weight"])) == {("b.weight", 1)}
    assert restrict(first, ["b.weight"]).size == 4


@given(masks, masks, masks)
def test_algebra_is_that_of_sets(a: ConceptMask, b: ConceptMask, c: ConceptMask) -> None:
    assert entries(union(a, b, c)) == entries(a) | entries(b) | entries(c)
    assert entries(intersection(a, b, c)) == entries(a) & entries(b) & entries(c)
    assert entries(difference(a, b, c)) == entries(a) - entries(b) - entries(c)
    assert same_neurons(union(a, b), union(b, a))
    assert same_neurons(union(a, a), a) and same_neurons(intersection(a, a), a)
    assert same_neurons(union(a, empty(SHAPES)), a) and difference(a, a).count == 0


def test_names_join_and_the_rest_must_agree() -> None:
    sks = mask([0], [], identifier="sks", class_word="star", fingerprint="f", provenance={"seed": "1", "method": "x"})
    zwx = mask([1], [], identifier="zwx", class_word="star", provenance={"seed": "1", "method": "y"})
    both = union(zwx, sks)
    assert (both.identifier, both.class_word, both.fingerprint) == ("sks+zwx", "star", "f")
    assert both.provenance == {"seed": "1", "method": "union"}
    assert union(both, sks).identifier == "sks+zwx"
    assert difference(sks, zwx).identifier == "sks"
    with pytest.raises(ConesError, match="everywhere and own tokens"):
        union(sks, mask([0], [], where="own tokens"))
    with pytest.raises(ConesError, match="different base weights"):
        intersection(sks, mask([0], [], fingerprint="g"))
    with pytest.raises(ConesError, match=r"shape of b\.weight"):
        union(sks, empty({"b.weight": (5,)}))
    with pytest.raises(ConesError, match="no concept mask"):
        union()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([0, 10]), "b.weight: index from 0 to 10 but the weight has 4 entries"),
        (torch.tensor([-1, 0]), "index from -1 to 0"),
        (torch.tensor([1, 1]), "not sorted and unique"),
        (torch.tensor([2, 1]), "not sorted and unique"),
        (torch.tensor([0.5]), "list of whole numbers"),
        (torch.tensor([[1]]), "list of whole numbers"),
    ],
)
def test_bad_indices_are_named(index: torch.Tensor, message: str) -> None:
    with pytest.raises(ConesError, match=message):
        ConceptMask({"b.weight": index}, SHAPES)


def test_bad_fields_are_named() -> None:
    with pytest.raises(ConesError, match=r"n0, n1, n2, n3, n4, \.\.\. \(6 in all\)"):
        ConceptMask({f"n{i}": torch.tensor([0]) for i in range(6)}, SHAPES)
    with pytest.raises(ConesError, match="where='here'"):
        empty(SHAPES, where="here")
    with pytest.raises(ConesError, match="provenance"):
        empty(SHAPES, provenance={"seed": 1})
    with pytest.raises(ConesError, match="not searched in c"):
        restrict(empty(SHAPES), ["c"])


def test_an_empty_mask_says_why() -> None:
    searched, other = mask([1, 3], [0]), mask([2], [])
    assert why_empty(intersection(searched, other)).startswith("the intersection of several masks left no neurons")
    assert why_empty(difference(searched, searched)).startswith("the difference of several masks left no neurons")
    assert why_empty(empty(SHAPES, provenance={"method": "learned"})).startswith("its search found no share")


def test_multipliers_are_one_but_at_the_neurons() -> None:
    m = mask([1], [])
    assert multiplier(m, "a.weight", 0.25).tolist() == [[1, 0.75, 1], [1, 1, 1]]
    assert multiplier(m, "b.weight").tolist() == [1, 1, 1, 1]
    assert list(multipliers(m)) == [(0, "a.weight")]
    with pytest.raises(ConesError, match="strength inf"):
        multiplier(m, "a.weight", float("inf"))
