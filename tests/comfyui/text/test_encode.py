"""Encode Prompt with Concepts with the host's own tokenizers and text encoders: the stock tensors, and right places."""

from __future__ import annotations

import pytest
import torch
from cones_concept_neurons.cones_ops.errors import ConesError
from cones_concept_neurons.cones_ops.masks.concept_mask import ConceptMask
from cones_concept_neurons.nodes.encode import ConesEncodePrompt, concept_words
from cones_concept_neurons.nodes.host.text.encode import encode_prompt
from cones_concept_neurons.nodes.host.text.token_positions import KEY
from support.small_models import SKS, ZWX, small_clip

pytestmark = pytest.mark.slow  # the whole file: it builds models

KINDS = ["sd15", "sd2", "sdxl", "sd3", "sd3 without t5", "flux", "qwen"]
LONG = "a photo of " + "very " * 70 + "big things and a sks star on a lawn"  # two chunks of CLIP


@pytest.fixture(scope="module")
def clips():
    with torch.inference_mode():  # as the host loads models
        return {kind: small_clip(kind) for kind in KINDS}


def stock(clip, text):
    import nodes

    with torch.inference_mode():
        return nodes.CLIPTextEncode().encode(clip, text)[0]


def encoded(clip, text, *concepts, **settings):
    with torch.inference_mode():
        return encode_prompt(clip, text, concepts or (SKS,), **settings)


def spelled(clip, encoder, positions, offset=0):
    """What the tokenizer says of its tokens at some positions."""
    tokenizer = getattr(clip.tokenizer, {"l": "clip_l", "g": "clip_g", "h": "clip_h"}.get(encoder, encoder))
    flat = [token for chunk in clip.tokenize(clip.text)[encoder] for token, _ in chunk]
    return tokenizer.decode([flat[int(one) - offset] for one in positions]).strip()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a (sks star:1.3) and a BREAK (zwx) heart", "sks star", LONG, ""])
def test_the_tensors_are_those_of_the_stock_node(clips, kind, text):
    ours, theirs = encoded(clips[kind], text, SKS, ZWX).conditioning, stock(clips[kind], text)
    assert len(ours) == len(theirs) == 1
    assert torch.equal(ours[0][0], theirs[0][0])
    assert set(ours[0][1]) == {*theirs[0][1], KEY}
    for key, value in theirs[0][1].items():
        assert torch.equal(ours[0][1][key], value) if isinstance(value, torch.Tensor) else ours[0][1][key] == value


PROMPTS = [
    "a sks star on a lawn",
    "sks star",
    "one sks star, two Sks stars!",
    "a photo of (sks star:1.2) in the (blue) sky",
    LONG,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", PROMPTS)
def test_the_places_are_those_of_the_words(clips, kind, text):
    """The tokens there, decoded by the tokenizer itself, are the words; in text order, as often as they stand there."""
    clip, times = clips[kind], 2 if "two" in text else 1
    clip.text = text
    positions = encoded(clip, text).positions[SKS]
    length = stock(clip, text)[0][0].shape[1]
    sizes = {name: sum(len(chunk) for chunk in chunks) for name, chunks in clip.tokenize(text).items()}
    starts = {
        "sd15": {"l": 0},
        "sd2": {"h": 0},
        "sdxl": {"l": 0, "g": 0},
        "sd3": {"l": 0, "g": 0, "t5xxl": sizes.get("l", 0)},
        "sd3 without t5": {"l": 0, "g": 0},
        "flux": {"t5xxl": 0},
        "qwen": {"qwen25_7b": length - sizes.get("qwen25_7b", 0)},
    }[kind]
    for encoder, start in starts.items():
        here = [one for one in positions if start <= one < start + sizes[encoder]]
        if kind == "sd3" and encoder != "t5xxl":
            here = [one for one in here if one < starts["t5xxl"]]
        words = spelled(clip, encoder, here, start).lower().replace("stars", "star").split()
        assert "".join(words) == "sksstar" * times
    assert positions.max() < length


@pytest.mark.parametrize("kind", ["sd15", "sd2", "sdxl", "qwen"])
@pytest.mark.parametrize("text", PROMPTS[:4])
def test_the_encoded_text_changes_from_the_first_place_on(clips, kind, text):
    """Causal encoders: with another word there, nothing before it changes and it does."""
    first = encoded(clips[kind], text).positions[SKS][0]
    other = text.replace("sks", "zwx", 1)
    before, after = (stock(clips[kind], one)[0][0][0] for one in (text, other))
    same = min(len(before), len(after))
    changed = (before[:same] - after[:same]).abs().amax(-1) > 1e-6
    assert int(changed.nonzero()[0]) == int(first)


def test_which_tokens_count(clips):
    clip, text = clips["sd15"], "a sks star on a lawn"  # start a sks star on a lawn end end ...
    assert encoded(clip, text, words="identifier").positions[SKS].tolist()[-1] < 5
    ends = encoded(clip, text, words="identifier + class word + end").positions[SKS].tolist()
    own = encoded(clip, text).positions[SKS].tolist()
    assert ends[: len(own)] == own and ends[-1] == 76 and len(ends) == len(own) + 77 - 1 - len(own) - 4


def test_an_embedding_in_the_prompt(tmp_path, clips):
    from safetensors.torch import save_file

    clip = clips["sd15"]
    save_file({"emb_params": torch.randn(4, 32)}, tmp_path / "lawn.safetensors")
    tokenizer = clip.tokenizer.clip_l
    before = tokenizer.embedding_directory, tokenizer.embedding_size
    tokenizer.embedding_directory, tokenizer.embedding_size = [str(tmp_path)], 32
    try:
        behind = encoded(clip, "a sks star on embedding:lawn there").positions[SKS]
        after = encoded(clip, "on embedding:lawn a sks star").positions[SKS]
        itself = encoded(clip, "a embedding:lawn star", ("embedding:lawn", "star")).positions["embedding:lawn", "star"]
    finally:
        tokenizer.embedding_directory, tokenizer.embedding_size = before
    clip.text = "a sks star"
    assert spelled(clip, "l", behind).replace(" ", "") == "sksstar"
    assert (after - behind).tolist() == [5] * len(behind)  # on, and four vectors, instead of nothing
    assert itself.tolist() == [2, 3, 4, 5, 6]  # start a, four vectors, star


def test_a_text_encoder_that_is_not_known_is_refused(clips):
    class Strange:
        cond_stage_model = None

        def tokenize(self, text, return_word_ids=False):
            return {"one": [[(1, 1.0, 1)] * 5], "two": [[(1, 1.0, 1)] * 7]}

        def encode_from_tokens_scheduled(self, tokens):
            return [[torch.zeros(1, 9, 4), {}]]

    with pytest.raises(ConesError, match=r"gives 9 tokens for 5 of one, 7 of two"):
        encode_prompt(Strange(), "a sks star", [SKS])
    assert encode_prompt(Strange(), "a star", []).positions == {}
    with pytest.raises(ConesError, match="no CLIP"):
        encode_prompt(None, "a star", [SKS])


def test_the_node_reports_and_warns(clips, caplog):
    mask = ConceptMask({}, {"a.weight": (2, 2)}, *SKS, where="own tokens")
    with torch.inference_mode():
        out = ConesEncodePrompt.execute(clips["sd15"], "a sks star", concepts="zwx heart", mask_3=mask)
    conditioning, report = out.args
    assert set(conditioning[0][1][KEY].positions) == {SKS, ZWX}
    assert report.splitlines()[0].startswith("sks star: tokens 2, ")
    assert report.splitlines()[1].startswith("not in the prompt: zwx heart")
    (told,) = [record.message for record in caplog.records if record.name == "cones"]
    assert "zwx heart" in told and "sks" not in told.replace('"a sks star"', "")


def test_a_prompt_per_line(clips):
    lines = "a sks star\n\n  a star beside a sks star  \n"
    with torch.inference_mode():
        several = ConesEncodePrompt.execute(clips["sd15"], lines, concepts="sks star", prompt_per_line=True).args[0]
        one = ConesEncodePrompt.execute(clips["sd15"], lines, concepts="sks star").args[0]
    assert len(several) == 2 and len(one) == 1
    assert torch.equal(several[0][0], stock(clips["sd15"], "a sks star")[0][0])
    assert torch.equal(one[0][0], stock(clips["sd15"], lines)[0][0])
    with pytest.raises(ConesError, match="no line"):
        ConesEncodePrompt.execute(clips["sd15"], " \n", prompt_per_line=True)


def test_a_concept_is_known_by_its_words_in_any_case(clips):
    places = encoded(clips["sd15"], "an Old Tom cat", ("old", "tom cat")).conditioning[0][1][KEY]
    assert len(places.of(("old", "tom cat"))) > 0
    assert torch.equal(places.of(("Old tom", "cat")), places.of(("old", "tom cat")))
    assert not len(places.of(("old", "tom")))


def test_concepts_are_named_by_words():
    concepts = concept_words("sks star, zwx golden retriever\n,vbn")
    assert concepts == [("sks", "star"), ("zwx", "golden retriever"), ("vbn", "")]
    assert concept_words('"sks star"; zwx heart and vbn big cross') == [
        ("sks", "star"), ("zwx", "heart"), ("vbn", "big cross"),
    ]  # fmt: skip
    assert concept_words(" ") == []


PHRASE = "a sks star on the left and a zwx heart on a lawn"


@pytest.mark.parametrize(("kind", "encoder"), [("sd15", "l"), ("sd2", "h"), ("sdxl", "g"), ("qwen", "qwen25_7b")])
def test_phrases_in_encoders_that_see_only_what_is_before(clips, kind, encoder):
    clip = clips[kind]
    clip.text = PHRASE
    prompt = encoded(clip, PHRASE, SKS, ZWX, words="phrase")
    sizes = {name: sum(len(chunk) for chunk in chunks) for name, chunks in clip.tokenize(PHRASE).items()}
    start = prompt.length - sizes[encoder] if kind == "qwen" else 0
    own = spelled(clip, encoder, prompt.positions[SKS], start).replace(" ", "").lower()
    assert own == "sksstarontheleft"
    assert spelled(clip, encoder, prompt.positions[ZWX], start).replace(" ", "").lower() == "zwxheart"
    assert spelled(clip, encoder, prompt.tokens.others["lawn"], start).strip() == "lawn"
    assert torch.equal(prompt.conditioning[0][0], stock(clip, PHRASE)[0][0])


def test_an_encoder_that_sees_both_ways_owns_identifier_and_class_word(clips):
    clip = clips["flux"]
    named = encoded(clip, PHRASE, words="identifier + class word").positions[SKS]
    assert torch.equal(encoded(clip, PHRASE, words="phrase").positions[SKS], named)
    bracketed = encoded(clip, PHRASE.replace("a sks star on the left", "[a sks star on the left]"), words="phrase")
    assert len(bracketed.positions[SKS]) > len(named)


def test_brackets_do_not_reach_the_text_encoder(clips):
    clip, text = clips["sd15"], r"[a (sks star:1.2) with a moon] \[here\]"
    prompt = encoded(clip, text, words="phrase")
    assert torch.equal(prompt.conditioning[0][0], stock(clip, "a (sks star:1.2) with a moon [here]")[0][0])
    clip.text = prompt.text.text
    assert spelled(clip, "l", prompt.positions[SKS]).replace(" ", "") == "asksstarwithamoon"
    untouched = encoded(clip, text, words="identifier + class word")
    assert torch.equal(untouched.conditioning[0][0], stock(clip, text)[0][0])


def test_a_mask_acts_by_the_rule_it_was_found_by(clips):
    shapes = {"a.weight": (2, 2)}
    old = ConceptMask({}, shapes, *SKS, where="own tokens")
    new = ConceptMask({}, shapes, *ZWX, where="own tokens", own_words="phrase")
    text = "a sks star left and a zwx heart right"

    def rules(**settings):
        with torch.inference_mode():
            out = ConesEncodePrompt.execute(clips["sd15"], text, mask_1=old, mask_2=new, **settings)
        return out.args[0][0][1][KEY].rules

    assert rules() == rules(own_tokens="phrase") == {SKS: "identifier + class word", ZWX: "phrase"}
    assert rules(own_tokens="identifier") == {SKS: "identifier", ZWX: "phrase"}


@pytest.mark.parametrize(
    ("text", "concepts", "note"),
    [
        ("a sks, star", "sks star", '"sks" stands without "star" behind it'),
        ("a sks star", "sks", 'Write a class word, as in "sks cat": sks has no class word'),
        ("a sks red star", "sks star", ""),
    ],
)
def test_the_node_says_what_acts_alone(clips, caplog, text, concepts, note):
    with torch.inference_mode():
        report = ConesEncodePrompt.execute(clips["sd15"], text, concepts, "phrase").args[1]
    assert report.splitlines()[1:] == [record.message for record in caplog.records if record.name == "cones"]
    assert note in report and len(report.splitlines()) == 1 + bool(note)


@pytest.mark.parametrize("kind", ["sd15", "qwen"])
def test_other_words_of_the_text_are_found_later(clips, kind):
    prompt = encoded(clips[kind], "a circle and a sks star")
    tokens = prompt.conditioning[0][1][KEY]
    with torch.inference_mode():
        circle, star, missing = tokens.find("circle"), tokens.find("star"), tokens.find("tree")
    assert len(circle) and int(circle.max()) < int(tokens.of(SKS).min()) and not len(missing)
    assert set(star.tolist()) < set(tokens.of(SKS).tolist())
