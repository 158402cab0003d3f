"""What concept masks share, and what to expect when they are loaded together, as far as that is known before sampling.

Every threshold and share that the report quotes is here. Evidence: 132 pairs of masks in an earlier toy world, of four
subjects and three seeds (default search; 3 to 6 % of the weights shut at own tokens, 1 to 2 % everywhere), the 108 of
two subjects sampled, by `benchmarks/collisions.py`; joint steps, by `cones bench quality` (docs/results/quality.md).

- At own tokens, overlap does not predict how two subjects mix: rank correlation 0.13 with both in one picture (54
  pairs). A mask cannot reach another's words there: with both loaded, each subject comes out as by itself.
- Everywhere, both masks of each of the 54 pairs spoil each other, whatever they share (10 to 18 % of all neurons in
  either): rank correlation -0.14 with each subject shown, -0.04 with both in one picture.
- Overlap does reveal a double: two masks of one subject share more than two of different subjects (SAME_SUBJECT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from ..errors import ConesError
from ..masks.concept_mask import ConceptMask, Where, intersection, same_neurons
from ..models.weight_names import words_for
from .text import count_by

# Shared neurons, of all in either. Two subjects: .179 at most at own tokens, .178 everywhere; one: .250, .267 at least.
# Denser masks of an earlier search shared up to .236 everywhere
SAME_SUBJECT: Mapping[Where, float] = {"own tokens": 0.20, "everywhere": 0.255}
MEASURED_DENSITY = 0.06  # denser masks were not measured

OWN = "at own tokens"
OWN_TUNED = "at own tokens, tuned"
EVERYWHERE = "everywhere"
EVERYWHERE_TUNED = "everywhere, tuned"
MIXED = "one everywhere, one at its own tokens"
ADVICE = {
    OWN: (
        "Each mask acts at its own words only: a subject that is asked for alone comes out as if the other mask were "
        "not loaded. Both subjects in one picture is a matter of luck: in our earlier toy world 28 % of pictures "
        "showed both, 0 % to 66 % depending on the pair, whatever the masks share. If you need both, use Tune Concept "
        "Masks Together (95 % there)."
    ),
    OWN_TUNED: (
        "Both masks were tuned. If they were tuned together: in our earlier toy world, 98 % of pictures showed a "
        "subject that was asked for alone, and 95 % showed both when both were asked for."
    ),
    EVERYWHERE: (
        "Both masks act for every word, so each changes what the other draws. In our earlier toy world, 86 % of "
        "pictures showed a subject with only its own mask loaded, 44 % with both masks, and 3 % showed both subjects "
        "when both were asked for (0 % to 16 % depending on the pair), whatever the masks share. Search at own tokens, "
        "or use Tune Concept Masks Together (91 % and 85 % there)."
    ),
    EVERYWHERE_TUNED: (
        "Both masks were tuned. If they were tuned together: in our earlier toy world, 91 % of pictures showed a "
        "subject that was asked for alone, and 85 % showed both when both were asked for. Other words change too, "
        "because both masks act everywhere."
    ),
    MIXED: (
        "The mask that acts everywhere also changes what the other one draws; how much was not measured. Search both "
        "at own tokens to keep them apart."
    ),
}


def collision_report(masks: Sequence[ConceptMask]) -> str:
    """What each pair shares, what is wrong with it, and what to expect of such pairs, in plain words.

    ConesError with fewer than two masks, an empty one, or masks of different models.
    """
    if len(masks) < 2:
        raise ConesError(f"{len(masks)} concept mask given; connect at least two to compare")
    if empty := [str(k) for k, mask in enumerate(masks, 1) if mask.count == 0]:
        raise ConesError(f"mask {', '.join(empty)} has no neurons, so it shares none; disconnect it, or search again")
    lines, kinds = [], set()
    for (name, mask), (other_name, other) in combinations(zip(names_of(masks), masks, strict=True), 2):
        wrong = unusable(mask, other)
        remarks = wrong or doubts(mask, other)
        lines.append("\n  ".join([f"{name} and {other_name}: {overlap(mask, other)}", *remarks]))
        if not wrong:
            kinds.add(kind(mask, other))
    return "\n\n".join(["\n".join(lines), *(f"Masks {k}. {text}" for k, text in ADVICE.items() if k in kinds)])


def names_of(masks: Sequence[ConceptMask]) -> list[str]:
    """Identifier and class word of each mask, numbered where two have the same."""
    words = [f"{mask.identifier} {mask.class_word}".strip() or "no name" for mask in masks]
    return [f"{word} ({k})" if words.count(word) > 1 else word for k, word in enumerate(words, 1)]


def shared(mask: ConceptMask, other: ConceptMask) -> ConceptMask:
    """The neurons that both have, wherever each acts; ConesError when their weights have other shapes."""
    return intersection(*(replace(m, where="everywhere", fingerprint="") for m in (mask, other)))


def jaccard(mask: ConceptMask, other: ConceptMask) -> float:
    """Shared neurons as a share of all that either mask has."""
    both = shared(mask, other).count
    return both / max(mask.count + other.count - both, 1)


def overlap(mask: ConceptMask, other: ConceptMask) -> str:
    """How much two masks share, against chance, and where most of it lies."""
    both = shared(mask, other)
    if both.count == 0:
        return "no neuron in common"
    chance = mask.count * other.count / max(mask.size, other.size)
    blocks = count_by(both, lambda weight: words_for(weight.block))
    most = max(blocks, key=lambda block: blocks[block])
    return (
        f"{both.count:,} neurons in common, {both.count / min(mask.count, other.count):.0%} of the smaller mask's and "
        f"{jaccard(mask, other):.0%} of all in either ({both.count / chance:.1f} times what chance would), most in "
        f"{most} ({blocks[most] / both.count:.0%})"
    )


def unusable(mask: ConceptMask, other: ConceptMask) -> list[str]:
    """Why two masks cannot be used together at all; nothing if they can."""
    if mask.fingerprint and other.fingerprint and mask.fingerprint != other.fingerprint:
        prints = f"{mask.fingerprint[:12]} and {other.fingerprint[:12]}"
        return [f"NOT FOR ONE MODEL: the masks were found on base weights {prints}. Search both on one checkpoint."]
    if same_neurons(mask, other):
        return ["THE SAME NEURONS: this is one mask twice. Load only one of them."]
    return []


def doubts(mask: ConceptMask, other: ConceptMask) -> list[str]:
    """What is unusual about two masks."""
    remarks = []
    if mask.identifier and mask.identifier == other.identifier:
        word = mask.identifier
        remarks.append(f'THE SAME WORD: "{word}" names both. Search one of them again with another identifier.')
    if max(mask.density, other.density) > MEASURED_DENSITY:
        remarks.append(
            f"Over {MEASURED_DENSITY:.0%} of the weights are shut; how much such masks share was not measured."
        )
    elif mask.where == other.where and jaccard(mask, other) >= (usual := SAME_SUBJECT[mask.where]):
        remarks.append(
            f"ONE SUBJECT TWICE? In our earlier toy world, masks of two subjects share less than {usual:.0%} of all "
            "neurons in either, masks of one subject more. If these are two subjects, check what else their pictures "
            "have in common."
        )
    return remarks


def kind(mask: ConceptMask, other: ConceptMask) -> str:
    """Which advice fits: it depends on where masks act and on joint steps, not on what they share."""
    if mask.where != other.where:
        return MIXED
    tuned = all("tuned_with" in m.provenance for m in (mask, other))
    if mask.where == "own tokens":
        return OWN_TUNED if tuned else OWN
    return EVERYWHERE_TUNED if tuned else EVERYWHERE
