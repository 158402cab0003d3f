"""Texts and tables about searches and masks; reads them, changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from ..errors import listed
from ..masks.concept_mask import ConceptMask, intersection
from ..models.phrases import OWN_WORDS
from ..models.rare_words import with_article
from ..models.weight_names import SearchedWeight, searched_weights, words_for
from ..search.find import SearchResult
from ..search.joint import TuneResult


def summary_text(result: SearchResult) -> str:
    """What a user wants to know after a search, in a few lines; the first says what to type, or what to do."""
    if result.found:
        return f"FOUND. Type: {words_of(result.mask)}\n{facts_text(result)}"
    why = f"{result.mask.provenance['found']}: the held-out loss does not fall by two standard errors"
    return f"NOT FOUND. Use more steps or other pictures\n{why}\n{facts_text(result)}"


def words_of(mask: ConceptMask) -> str:
    """How a prompt names a mask's concept: "a sks cat"."""
    return with_article(f"{mask.identifier} {mask.class_word}".strip())


def facts_text(result: SearchResult) -> str:
    """How a search went, in a few lines."""
    mask, curve, chosen = result.mask, result.curve, result.curve.chosen_at
    facts = mask.provenance
    lines = [f"Acting {acting(mask)}, method {facts['method']}"]
    if "own_tokens" in facts:
        lines.append(f"own tokens: {facts['own_tokens']}")
    lines += [
        f"{mask.count} of {mask.size} neurons shut ({mask.density:.3%}), density chosen {facts['density_chosen']}",
        f"held-out loss {curve.losses[0]:.5f} -> {curve.losses[chosen]:.5f} "
        f"(gain {curve.gains[chosen]:.5f} +- {curve.standard_errors[chosen]:.5f})",
        f"{len(result.history)} steps, {result.seconds:.1f} s",
    ]
    if result.estimate:
        lines.append(f"expected before it: {result.estimate}")
    return "\n".join(lines)


def tuning_text(result: TuneResult, originals: Sequence[ConceptMask]) -> str:
    """What joint steps changed, in a few lines. originals: the masks before, in the same order."""
    lines = [
        f"{len(result.history)} joint steps on {len(originals)} masks, {result.seconds:.1f} s",
        f"joint held-out loss {result.before:.5f} -> {result.after:.5f} "
        f"(gain {result.gain:.5f} +- {result.standard_error:.5f})",
    ]
    if result.tuned:
        lines.insert(0, f"TUNED. Type: {' and '.join(map(words_of, result.masks))}")
    else:
        why = "The joint held-out loss does not fall by two standard errors; the masks are unchanged"
        lines[:0] = ["NOT TUNED. Use more steps, or pictures of the subjects together", why]
    for before, after in zip(originals, result.masks, strict=True):
        kept = intersection(before, after).count
        lines.append(
            f"'{after.identifier} {after.class_word}': {before.count} -> {after.count} neurons "
            f"({after.density:.3%}), {kept} of them as before"
        )
    return "\n".join(lines)


def inspection_text(mask: ConceptMask) -> str:
    """Where a mask's neurons are and how it was found, in plain words, a line per fact."""
    name = f"{mask.identifier} {mask.class_word}".strip() or "A concept without a name"
    lines = [f"{name}: {mask.count:,} of {mask.size:,} searched neurons ({mask.density:.3%}), acting {acting(mask)}"]
    if mask.count:
        lines += [_most_blocks(mask), _parts(mask)]
    facts = mask.provenance
    if "method" in facts:
        counts = [f"{facts[key]} {key}" for key in ("steps", "pictures") if key in facts]
        lines.append(", ".join([f"Found by {facts['method']}", *counts]))
    if {"held_out_before", "held_out_after"} <= set(facts):
        error = f" +- {facts['held_out_standard_error']}" if "held_out_standard_error" in facts else ""
        gain = f" (gain {facts['held_out_gain']}{error})" if "held_out_gain" in facts else ""
        lines.append(f"Held-out loss {facts['held_out_before']} -> {facts['held_out_after']}{gain}")
    if facts.get("found", "yes") != "yes":
        lines.append(f"NOT FOUND ({facts['found']}): shutting these neurons does not help on held-out noise")
    if "tuned_with" in facts:
        lines.append(f"Tuned together with {facts['tuned_with']} other(s), {facts.get('tuned_steps', '?')} joint steps")
    lines.append(f"For base weights {mask.fingerprint[:12] or 'unknown'}")
    return "\n".join(lines)


def count_by(mask: ConceptMask, key: Callable[[SearchedWeight], str]) -> dict[str, int]:
    """Neurons of each group of searched weights, by depth; `key` names a weight's group."""
    counts: dict[str, int] = {}
    for weight in searched_weights(mask.shapes):
        counts[key(weight)] = counts.get(key(weight), 0) + count_in(mask, weight.name)
    return counts


def count_in(mask: ConceptMask, *names: str) -> int:
    """How many neurons a mask has in weights."""
    return sum(mask.count_in(name) for name in names)


def acting(mask: ConceptMask) -> str:
    """Where a mask acts, in words."""
    if mask.where == "everywhere":
        return "everywhere"
    return "at its own tokens" + (f" ({mask.own_words})" if mask.own_words != OWN_WORDS[0] else "")


def _most_blocks(mask: ConceptMask, most: int = 3) -> str:
    counts = count_by(mask, lambda weight: words_for(weight.block))
    full = sorted((block for block in counts if counts[block]), key=lambda block: -counts[block])
    shares = ", ".join(f"{block} ({counts[block] / mask.count:.0%})" for block in full[:most])
    line = f"Most lie in {shares}" + (f"; {len(full) - most} more blocks" if len(full) > most else "")
    empty = [block for block in counts if not counts[block]]
    return line + (f"; none in {listed(empty)}" if empty else "")


def _parts(mask: ConceptMask) -> str:
    """K against V, with the share of their own weights, as they may differ in size."""
    counts = count_by(mask, lambda weight: weight.row)
    sizes = {row: 0 for row in counts}
    for weight in searched_weights(mask.shapes):
        sizes[weight.row] += prod(mask.shapes[weight.name])
    return "; ".join(
        f"{row}: {count:,} neurons ({count / mask.count:.0%}), {count / max(sizes[row], 1):.2%} of its weights"
        for row, count in counts.items()
    )


def layer_table(mask: ConceptMask) -> str:
    """Neurons and density of each searched weight, a line each, and of all."""
    rows = []
    for name, shape in mask.shapes.items():
        count = count_in(mask, name)
        rows.append(f"{name}: {count} of {prod(shape)} ({count / max(prod(shape), 1):.2%})")
    return "\n".join([*rows, f"all: {mask.count} of {mask.size} ({mask.density:.2%})"])
