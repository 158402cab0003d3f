"""Will these concept masks get in each other's way? What can be said before sampling, and no more.

Every threshold and share that the report quotes stands here. Evidence: 132 pairs of masks in the toy world, of four
subjects and three seeds (default search; 3 to 6 % of the weights shut at own tokens, 1 to 2 % everywhere), the 108 of
two subjects sampled, by `benchmarks/collisions.py`; joint steps, by `cones bench quality` (docs/results/quality.md).

- At own tokens overlap does not tell how two subjects mix: rank correlation 0.13 with both in one picture (54 pairs).
  A mask cannot reach another's words there: with both loaded each subject comes out as by itself.
- Everywhere every one of 54 pairs spoils each other, whatever it shares (10 to 18 % of what either has): rank
  correlation -0.14 with each subject shown, -0.04 with both in one picture.
- Overlap does tell a double: two masks of one subject share more than two of different subjects do (SAME_SUBJECT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from ..errors import ConesError
from ..masks.concept_mask import ConceptMask, Where, intersection, same_neurons
from ..models.weight_names import words_for
from .text import count_by

# shared neurons, of all in either. Two subjects: .179 at most at own tokens, .178 everywhere; one: .250, .267 at least.
# Denser masks of an earlier search shared up to .236 everywhere
SAME_SUBJECT: Mapping[Where, float] = {"own tokens": 0.20, "everywhere": 0.255}
MEASURED_DENSITY = 0.06  # what is usual between denser masks was not measured

OWN = "at own tokens"
OWN_TUNED = "at own tokens, tuned"
EVERYWHERE = "everywhere"
EVERYWHERE_TUNED = "everywhere, tuned"
MIXED = "one everywhere, one at its own tokens"
ADVICE = {
    OWN: (
        "Each acts at its own words only: a subject asked for alone comes out as if the other mask were not there. "
        "Both in one picture is luck: 28 % of pictures in the toy world, 0 % to 66 % by the pair, whatever they "
        "share. If you want that, use Tune Concept Masks Together (95 % there)."
    ),
    OWN_TUNED: (
        "Both have joint steps behind them. If with each other: in the toy world 98 % of pictures showed a subject "
        "asked for alone, 95 % both when asked for both."
    ),
    EVERYWHERE: (
        "Both act for every word, so each changes what the other draws. In the toy world 86 % of pictures showed a "
        "subject with its own mask loaded, 44 % with both, and 3 % both subjects when asked for both (0 % to 16 % by "
        "the pair), whatever they share. Find them at own tokens, or use Tune Concept Masks Together (91 % and 85 % "
        "there)."
    ),
    EVERYWHERE_TUNED: (
        "Both have joint steps behind them. If with each other: in the toy world 91 % of pictures showed a subject "
        "asked for alone, 85 % both when asked for both. Other words change too, as both act everywhere."
    ),
    MIXED: (
        "The one that acts everywhere also changes what the other draws; how much was not measured. Find both for "
        "their own tokens to keep them apart."
    ),
}


def collision_report(masks: Sequence[ConceptMask]) -> str:
    """What each pair shares, what is wrong with it, and what to expect of such pairs, in plain words.

    ConesError with fewer than two masks, an empty one, or masks of different models.
    """
    if len(masks) < 2:
        raise ConesError(f"{len(masks)} concept mask given; connect at least two to compare")
    if empty := [str(k) for k, mask in enumerate(masks, 1) if mask.count == 0]:
        raise ConesError(f"mask {', '.join(empty)} has no neurons, so it shares none; unplug it, or search again")
    lines, kinds = [], set()
    for (name, one), (other_name, other) in combinations(zip(names_of(masks), masks, strict=True), 2):
        wrong = unusable(one, other)
        lines.append("\n  ".join([f"{name} and {other_name}: {overlap(one, other)}", *(wrong or doubts(one, other))]))
        if not wrong:
            kinds.add(kind(one, other))
    return "\n\n".join(["\n".join(lines), *(f"Masks {k}. {text}" for k, text in ADVICE.items() if k in kinds)])


def names_of(masks: Sequence[ConceptMask]) -> list[str]:
    """Identifier and class word of each mask, numbered where two have the same."""
    words = [f"{mask.identifier} {mask.class_word}".strip() or "no name" for mask in masks]
    return [f"{word} ({k})" if words.count(word) > 1 else word for k, word in enumerate(words, 1)]


def shared(one: ConceptMask, other: ConceptMask) -> ConceptMask:
    """The neurons that both have, wherever each acts; ConesError when their weights have other shapes."""
    one, other = (replace(mask, where="everywhere", fingerprint="") for mask in (one, other))
    return intersection(one, other)


def jaccard(one: ConceptMask, other: ConceptMask) -> float:
    """Shared neurons as a share of all that either mask has."""
    both = shared(one, other).count
    return both / max(one.count + other.count - both, 1)


def overlap(one: ConceptMask, other: ConceptMask) -> str:
    """How much two masks share, against chance, and where most of it lies."""
    both = shared(one, other)
    if both.count == 0:
        return "no neuron in common"
    chance = one.count * other.count / max(one.size, other.size)
    blocks = count_by(both, lambda place: words_for(place.block))
    most = max(blocks, key=lambda block: blocks[block])
    return (
        f"{both.count:,} neurons in common, {both.count / min(one.count, other.count):.0%} of the smaller mask's and "
        f"{jaccard(one, other):.0%} of all in either ({both.count / chance:.1f} times what chance would), most in "
        f"{most} ({blocks[most] / both.count:.0%})"
    )


def unusable(one: ConceptMask, other: ConceptMask) -> list[str]:
    """Why two masks cannot be used together at all."""
    if one.fingerprint and other.fingerprint and one.fingerprint != other.fingerprint:
        prints = f"{one.fingerprint[:12]} and {other.fingerprint[:12]}"
        return [f"NOT FOR ONE MODEL: found on base weights {prints}. Search both on one checkpoint."]
    if same_neurons(one, other):
        return ["THE SAME NEURONS: one mask twice. Load one of them."]
    return []


def doubts(one: ConceptMask, other: ConceptMask) -> list[str]:
    """What is unusual about two masks."""
    said = []
    if one.identifier and one.identifier == other.identifier:
        word = one.identifier
        said.append(f'THE SAME WORD: "{word}" names both. Search one of them again with another identifier.')
    if max(one.density, other.density) > MEASURED_DENSITY:
        said.append(f"Over {MEASURED_DENSITY:.0%} of the weights are shut; what such masks usually share is not known.")
    elif one.where == other.where and jaccard(one, other) >= (usual := SAME_SUBJECT[one.where]):
        said.append(
            f"ONE SUBJECT TWICE? In the toy world masks of two subjects share less than {usual:.0%} of all in either, "
            "masks of one subject more. If these are two subjects, do their pictures have something else in common?"
        )
    return said


def kind(one: ConceptMask, other: ConceptMask) -> str:
    """Which advice fits: it depends on where masks act and on joint steps, not on what they share."""
    if one.where != other.where:
        return MIXED
    tuned = all("tuned_with" in mask.provenance for mask in (one, other))
    if one.where == "own tokens":
        return OWN_TUNED if tuned else OWN
    return EVERYWHERE_TUNED if tuned else EVERYWHERE
