"""Which weights are searched: the K and V projections of attention layers, by canonical name and shape.

A rule reads a weight's name: what its layer attends to ("text": the text alone, as in cross-attention and the text's
half of joint attention; "joint": text and picture in one sequence; "self": the picture, or the text among itself), how
K and V lie in it, and where the text's tokens stand in what the layer reads. K and V that share a weight with Q are
targets of their own, named after their rows: `layers.0.attention.qkv.weight[64:96]`. Rules know modules, not families.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Literal, get_args

from ..errors import ConesError, listed
from .weight_names import weight_and_rows

TargetChoice = Literal["text K+V", "text V", "text K", "text + self K+V"]
TARGET_CHOICES: tuple[TargetChoice, ...] = get_args(TargetChoice)
Kind = Literal["text", "joint", "self"]
Role = Literal["k", "v"]
TextAt = Literal["start", "end"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TextLayout:
    """How the text lies in a layer's input: at which end, among further tokens or alone, all prompts in one row."""

    at: TextAt = "start"
    further: bool = False
    one_row: bool = False


ALONE, FIRST, LAST = TextLayout(), TextLayout(further=True), TextLayout("end", further=True)


@dataclass(frozen=True)
class Rule:
    """pattern: of a weight's name without `.weight`, with a group "k" or "v" where it is one of them alone.

    layout: "one" (the whole weight is K or V), "kv" and "qkv" (in this order; grouped queries too), "qkv first"
    (further rows after them). text: how the text lies in the layer's input; None where that is not known.
    unless: weights of the same block with which the rule does not fit.
    """

    pattern: str
    kind: Kind
    layout: Literal["one", "kv", "qkv", "qkv first"] = "one"
    text: TextLayout | None = None
    unless: tuple[str, ...] = ()


# the first that fits a name is its rule
RULES = (
    Rule(r"single_stream_blocks\.\d+\.block\.attn1\.to_(?P<one>[kv])", "joint"),
    Rule(r"attn1\.to_(?P<one>[kv])_t", "text"),
    Rule(r"attn2\.to_(?P<one>[kv])", "text", text=ALONE),
    Rule(r"attn\.add_(?P<one>[kv])_proj", "text", text=ALONE),
    Rule(r"cross_attn\.(?P<one>[kv])(?:_proj)?", "text", text=ALONE),
    Rule(r"cross_attn\.kv_linear", "text", "kv", TextLayout(one_row=True)),
    Rule(r"attn2\.kv_proj", "text", "kv", FIRST),  # before the text of another encoder
    Rule(r"context_block\.attn\.qkv|txt_attn\.qkv|attn\.txt_attn_qkv", "text", "qkv", ALONE),
    Rule(r"double_layers\.\d+\.attn\.w1(?P<one>[kv])", "text", text=LAST),  # after tokens of its own
    Rule(r"layers\.\d+\.attention\.qkv", "joint", "qkv", FIRST),
    Rule(r"layers\.\d+\.self_attention\.to_(?P<one>[kv])", "joint", text=LAST),
    Rule(r"blocks\.\d+\.attn\.w(?P<one>[kv])", "joint", text=FIRST),
    Rule(
        r"transformer_blocks\.\d+\.attn\.to_(?P<one>[kv])",  # the picture's half where the text has layers of its own
        "joint",
        text=FIRST,
        unless=("attn.add_k_proj", "cross_attn.to_k", "cross_attn.add_k_proj", "attn2.to_k"),
    ),
    Rule(r"single_blocks\.\d+\.linear1", "joint", "qkv first"),
    Rule(r"single_layers\.\d+\.attn\.w1(?P<one>[kv])", "joint"),
    Rule(r"attn1\.to_(?P<one>[kv])|attn\.to_(?P<two>[kv])|self_attn\.(?P<three>[kv])(?:_proj)?", "self"),
    Rule(r"double_layers\.\d+\.attn\.w2(?P<one>[kv])", "self"),
    Rule(
        r"x_block\.attn2?\.qkv|img_attn\.qkv|attn\.img_attn_qkv|blocks\.\d+\.attn\.qkv|attn1\.Wqkv|self_attn\.qkv|"
        r"(?:noise|context)_refiner\.\d+\.attention\.qkv",
        "self",
        "qkv",
    ),
)
_COMPILED = tuple((re.compile(rf"(?:.*\.)?(?:{rule.pattern})"), rule) for rule in RULES)
_PROJECTION = re.compile(r"(?:qkv|to_k|to_key|k_proj|wk|kv|to_qkv)(?:_\w+)?\.weight$")
_OUT = ("out", "proj", "out_proj")  # what follows the attention: its input is as wide as Q


@dataclass(frozen=True)
class Target:
    """One K or one V projection: `name` is canonical, shape (out, in)."""

    name: str
    shape: tuple[int, ...]
    role: Role
    kind: Kind


def own_tokens_at(name: str, names: Container[str] = ()) -> TextAt | None:
    """Where the text's tokens stand in what a target reads; None if it has no tokens to tell apart.

    names: of the model's weights; without them a name that depends on others counts as one that reads the text.
    """
    match = _rule(weight_and_rows(name)[0], names)
    return match[1].text.at if match and match[1].text else None


@cache
def text_layout(name: str) -> TextLayout | None:
    """How the text lies in what a target with own tokens reads, by its name."""
    match = _rule(weight_and_rows(name)[0])
    return match[1].text if match else None


def targets(names_to_shapes: Shapes) -> list[Target]:
    """Every K and V projection among the weights, by name. ConesError where a rule fits a weight of another shape."""
    return sorted((t for name in names_to_shapes for t in _targets(name, names_to_shapes)), key=lambda t: t.name)


def part_shapes(names_to_shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the targets that share a weight with others."""
    return {t.name: t.shape for t in targets(names_to_shapes) if t.name not in names_to_shapes}


def select_targets(names_to_shapes: Shapes, choice: TargetChoice = "text K+V") -> list[str]:
    """The names to search, sorted. Text choices take joint layers only in models where no layer reads the text alone.

    ConesError for an unknown choice or a model without such weights.
    """
    if choice not in TARGET_CHOICES:
        raise ConesError(f"targets {choice!r} are not known; choose one of {', '.join(TARGET_CHOICES)}")
    every = targets(names_to_shapes)
    kinds: set[Kind] = {"text", "joint", "self"}
    if choice != "text + self K+V":
        kinds = {"text"} if any(t.kind == "text" for t in every) else {"joint"}
    roles = {"text K": "k", "text V": "v"}.get(choice, "kv")
    names = [t.name for t in every if t.kind in kinds and t.role in roles]
    if not names or all(target.kind == "self" for target in every):
        raise ConesError(f"{_unknown(names_to_shapes)}; docs/reference/models.md lists the model families that work")
    return names


def _unknown(names_to_shapes: Shapes) -> str:
    """What to say of a model of which no layer is known to read the text."""
    projections = [name for name, shape in names_to_shapes.items() if len(shape) == 2 and _PROJECTION.search(name)]
    layers = f" such as {listed(projections, 3)}" if projections else ""
    return (
        f"none of the model's {len(names_to_shapes)} parameters is known as a K or V projection that reads the text "
        f"(attn2.to_k.weight, txt_attn.qkv.weight and the like). It has {len(projections)} attention projections"
        f"{layers}, but where the text is in their input is not known"
    )


def _rule(weight: str, names: Container[str] = ()) -> tuple[re.Match[str], Rule] | None:
    """The first rule that fits a weight's name, with the match."""
    block = weight.rpartition(".attn.")[0]
    for match, rule in _rules(weight):
        if not any(f"{block}.{other}.weight" in names for other in rule.unless):
            return match, rule
    return None


@cache
def _rules(weight: str) -> tuple[tuple[re.Match[str], Rule], ...]:
    if not weight.endswith(".weight"):
        return ()
    path = weight.removesuffix(".weight")
    return tuple((match, rule) for pattern, rule in _COMPILED if (match := pattern.fullmatch(path)))


def _targets(weight: str, shapes: Shapes) -> Iterator[Target]:
    fits = _rule(weight, shapes)
    if fits is None:
        return
    match, rule = fits
    shape = tuple(shapes[weight])
    if len(shape) != 2:
        raise ConesError(f"{weight} should be a K or V projection, a matrix, but has shape {shape}")
    if rule.layout == "one":
        yield Target(weight, shape, "k" if "k" in match.groupdict().values() else "v", rule.kind)
        return
    fused: dict[Role, tuple[int, int]] = dict(zip(get_args(Role), _rows(weight, shapes, rule), strict=True))
    for role, (start, stop) in fused.items():
        yield Target(f"{weight}[{start}:{stop}]", (stop - start, shape[1]), role, rule.kind)


def _rows(weight: str, shapes: Shapes, rule: Rule) -> tuple[tuple[int, int], tuple[int, int]]:
    """[start, stop) of K's rows and of V's."""
    out, width = shapes[weight]
    if rule.layout == "qkv first":
        return (width, 2 * width), (2 * width, 3 * width)
    q = 0 if rule.layout == "kv" else _query_rows(weight, shapes)
    each, rest = divmod(out - q, 2)
    if each <= 0 or rest:
        raise ConesError(f"{weight}: {out} rows cannot hold {q} of Q and as many of K as of V")
    return (q, q + each), (q + each, out)


def _query_rows(weight: str, shapes: Shapes) -> int:
    """As many as the projection after the attention reads; a third where there is none."""
    parent = weight.removesuffix(".weight").rpartition(".")[0]
    after = (shapes.get(f"{parent}.{name}.weight") for name in _OUT)
    return next((shape[1] for shape in after if shape), shapes[weight][0] // 3)


def size_of(names: list[str], shapes: Shapes) -> int:
    """How many entries the named weights have together."""
    return sum(prod(shapes[name]) for name in names)
