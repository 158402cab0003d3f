"""The words of a prompt that speak of a concept, in the text alone: any case, plurals, weights as in "(sks:1.2) cat".

The phrase of a concept is its identifier and class word, the words between them, and what follows directly and says
what it does, wears or holds ("wearing a red hat") or where in the picture it is ("on the left"). Square brackets around
a concept say it instead: "[a sks dog with a red collar]". English; in other languages the phrase ends earlier.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ConesError

OwnWords = Literal["identifier + class word", "identifier", "identifier + class word + end", "phrase"]
OWN_WORDS: tuple[OwnWords, ...] = get_args(OwnWords)  # the first: of masks whose file names no rule
PHRASE: OwnWords = "phrase"  # the rule of new searches
Span = tuple[int, int]  # start and end in a text

_LETTER = r"[0-9A-Za-z\u00c0-\u024f]"  # what continues a Latin word; other scripts write words without gaps
_EMBEDDING = re.compile(r"embedding:\S+", re.IGNORECASE)  # the host's textual inversions: a file name, not words
_WEIGHT = r":\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?\s*(?=\))"
_BETWEEN = re.compile(rf"(?:[\s()-]|{_WEIGHT})*", re.IGNORECASE)  # between two words that stand together
_WORD = re.compile(rf"{_WEIGHT}|(?P<word>[^\W_]+(?:['\u2019-][^\W_]+)*)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([\[\]])")
_BRACKET = re.compile(r"(?<!\\)\[((?:[^\[\]\\]|\\.)*)\]")

_ARTICLES = "a an the this that these those his her its their my your our one two three four some"
_SMALL_WORDS = """and or but nor with without of on in at to by for from into onto over under above below beside besides
between behind before near next as is are was were while among around across along through against beyond like than
during including being"""
_ENDS = {*_ARTICLES.split(), *_SMALL_WORDS.split()}  # words that never belong to a thing's name
_POSITION = "(?:far|upper|lower|top|bottom|left|right|middle|center|centre|foreground|front)"
_POSITIONS = rf"{_POSITION}(?:\s+{_POSITION})*(?:\s+(?:side|corner|half|edge))?"
_NO_THING_FOLLOWS = rf"(?!{_LETTER})(?!\s+(?:{_ARTICLES.replace(' ', '|')})\b)"  # "on the left a cat" speaks of the cat
_PLACE = re.compile(rf"(?:(?:on|at|in|to)\s+(?:the\s+)?)?{_POSITIONS}{_NO_THING_FOLLOWS}", re.IGNORECASE)
_DOES = re.compile(r"(?!(?:during|including|being)\b)[a-z]{2,}ing\b", re.IGNORECASE)
_HAS = re.compile(r"(?:wearing|holding|carrying)\b(?:[\s()]+(?:a|an|the|his|her|its|their)\b)?", re.IGNORECASE)
_MOST_WORDS = 3  # between identifier and class word, and of what is worn or held
_PLACE_WORDS = set(f"{_POSITION[3:-1]}|side|corner|half|edge".split("|"))


@dataclass(frozen=True)
class PromptText:
    """What the text encoder gets of a prompt, and what the user put in brackets: spans of it."""

    text: str
    brackets: tuple[Span, ...] = ()


def read_brackets(text: str, identifiers: Sequence[str]) -> PromptText:
    r"""A prompt without the brackets around concepts; "\[" is a bracket, and so are those around other words.

    ConesError for a pair of brackets around two concepts.
    """
    plain, spans, end = "", [], 0
    for match in _BRACKET.finditer(text):
        inside = _ESCAPED.sub(r"\1", match[1])
        named = [name for name in identifiers if _names(name).search(_words_apart(inside))]
        if len(named) > 1:
            raise ConesError(f"[{inside}] holds {' and '.join(named)}; put brackets around one concept each")
        plain += _ESCAPED.sub(r"\1", text[end : match.start()])
        if named:
            spans.append((len(plain), len(plain) + len(inside)))
        plain += inside if named else f"[{inside}]"
        end = match.end()
    return PromptText(plain + _ESCAPED.sub(r"\1", text[end:]), tuple(spans))


def own_spans(
    text: str | PromptText, identifier: str, class_word: str = "", words: OwnWords = OWN_WORDS[0]
) -> list[Span]:
    """The spans of a concept's own words, in order: each identifier, and what belongs to it by the rule `words`."""
    prompt = PromptText(text) if isinstance(text, str) else text
    plain = _words_apart(prompt.text)
    files = [] if "embedding:" in identifier.lower() else [match.span() for match in _EMBEDDING.finditer(prompt.text)]
    spans: dict[Span, None] = {}
    for match in _names(identifier).finditer(plain):
        if any(start < match.end() and match.start() < end for start, end in files):
            continue
        bracket = [span for span in prompt.brackets if span[0] <= match.start() and match.end() <= span[1]]
        if bracket:
            spans |= dict.fromkeys(_words(plain, *bracket[0]))
        else:
            spans |= dict.fromkeys([match.span(), *_belonging(plain, match.end(), class_word, words)])
    return sorted(spans)


def own_text(text: str | PromptText, spans: Sequence[Span]) -> str:
    """Own words as a user reads them: those of one phrase in a row, phrases divided by " | "."""
    plain = text if isinstance(text, str) else text.text
    parts: list[str] = []
    end = None
    for start, stop in spans:
        joined = end is not None and _BETWEEN.fullmatch(_words_apart(plain), end, start)
        parts[-1:] = [f"{parts[-1]} {plain[start:stop]}"] if joined else [*parts[-1:], plain[start:stop]]
        end = stop
    return " | ".join(parts)


def other_things(text: str | PromptText, own: Sequence[Span]) -> list[Span]:
    """The other things that a prompt names: runs of words that are nobody's own, between small words and commas.

    "a sks cat on the left and a blue mug on a grey background": "blue mug", "grey background".
    """
    plain = text if isinstance(text, str) else text.text
    things: list[Span] = []
    before = None  # where the run ends so far
    for start, stop in _words(plain, 0, len(plain)):
        word = plain[start:stop].lower()
        if word in _ENDS | _PLACE_WORDS or any(first < stop and start < last for first, last in own):
            before = None
        elif before is not None and _BETWEEN.fullmatch(plain, before, start):
            things[-1] = (things[-1][0], stop)
            before = stop
        else:
            things.append((start, stop))
            before = stop
    return things


def class_word_apart(text: str | PromptText, identifier: str, class_word: str, words: OwnWords) -> bool:
    """Whether an identifier outside brackets stands where no class word belongs to it, and so acts alone."""
    prompt = PromptText(text) if isinstance(text, str) else text
    most = _MOST_WORDS if words == PHRASE else 0
    return any(
        not _class_word(_words_apart(prompt.text), end, class_word, most)
        for start, end in own_spans(prompt.text, identifier, "", "identifier")
        if words != "identifier" and not any(first <= start and end <= last for first, last in prompt.brackets)
    )


def _belonging(plain: str, position: int, class_word: str, words: OwnWords) -> list[Span]:
    """The spans that belong to the identifier that ends at `position`."""
    if words == "identifier":
        return []
    spans = _class_word(plain, position, class_word, _MOST_WORDS if words == PHRASE else 0)
    if words != PHRASE:
        return spans
    return [*spans, *_following(plain, spans[-1][1] if spans else position)]


def _class_word(plain: str, position: int, class_word: str, most: int) -> list[Span]:
    """The class word after an identifier and at most `most` words between, as spans; none if it is not there."""
    classes = _alternatives(class_word, plural=True)
    between: list[Span] = []
    while classes:
        position = _skipped(plain, position)
        if match := classes.match(plain, position):
            return [*between, match.span()]
        word = _WORD.match(plain, position)
        if len(between) == most or word is None or word["word"].lower() in _ENDS:
            break
        between.append(word.span())
        position = word.end()
    return []


def _following(plain: str, position: int) -> list[Span]:
    """What stands directly behind and says what the thing does, wears or holds, or where it is."""
    spans: list[Span] = []
    while True:
        start = _skipped(plain, position)
        if match := _HAS.match(plain, start):
            end = match.end()
            for _ in range(_MOST_WORDS):
                word = _WORD.match(plain, _skipped(plain, end))
                if word is None or word["word"].lower() in _ENDS or _DOES.match(word["word"]):
                    break
                if _PLACE.match(plain, word.start()):
                    break
                end = word.end()
        elif match := _PLACE.match(plain, start) or _DOES.match(plain, start):
            end = match.end()
        else:
            return spans
        spans += _words(plain, start, end)
        position = end


def _skipped(plain: str, position: int) -> int:
    match = _BETWEEN.match(plain, position)
    assert match  # of any length
    return match.end()


def _words(plain: str, start: int, end: int) -> Iterator[Span]:
    """The spans of the words between two positions, without weights and file names."""
    files = [match.span() for match in _EMBEDDING.finditer(plain)]
    for match in _WORD.finditer(plain, start, end):
        if match["word"] and not any(first <= match.start() < last for first, last in files):
            yield match.span()


def _words_apart(text: str) -> str:
    """The text, as long as it is, with underscores as gaps between words ("hatsune_miku")."""
    return text.replace("_", " ")


def _names(identifier: str) -> re.Pattern[str]:
    """The pattern of an identifier; ConesError for one that has no word, or only everyday words."""
    names = _alternatives(_words_apart(identifier))
    if names is None:
        raise ConesError(f"the identifier {identifier!r} has no word; name the concept with at least one")
    if common := [part for part in identifier.lower().split("+") if part.split() and set(part.split()) <= _ENDS]:
        raise ConesError(
            f"the identifier {common[0].strip()!r} is an everyday word that most prompts contain; "
            'name the concept with a rare word, such as "sks"'
        )
    return names


def _alternatives(words: str, plural: bool = False) -> re.Pattern[str] | None:
    """Any of the phrases joined by "+", as whole words; None if there is no word at all."""
    phrases = sorted((phrase.split() for phrase in words.split("+") if phrase.split()), key=len, reverse=True)
    if not phrases:
        return None
    return re.compile("|".join(_whole(phrase, plural) for phrase in phrases), re.IGNORECASE)


def _whole(phrase: Sequence[str], plural: bool) -> str:
    """Pattern of a phrase that begins and ends where its words do."""
    word = r"\s+".join(map(re.escape, phrase))
    many = f"(?:{word}(?:s|es)?|{word[:-1]}ies)" if word.endswith("y") else f"{word}(?:s|es)?"
    begins = rf"(?<!{_LETTER})" if re.match(_LETTER, phrase[0]) else ""
    ends = rf"(?!{_LETTER})" if re.match(_LETTER, phrase[-1][-1]) else ""
    return begins + (many if plural else word) + ends
