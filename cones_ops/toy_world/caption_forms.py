"""The forms of a caption: how the phrases of a scene's characters become one sentence.

A form takes the places of a layout and gives a list of words in which an integer stands for the phrase of the
character at that place. Forms that do not say places mention the characters in reading order, so that every caption is
consistent with its picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from .world import rows

Words = list[str | int]
Places = Sequence[str]
Form = Callable[[Places], Words]

PLACE_WORDS = {
    "middle": "in the middle",
    "left": "on the left",
    "right": "on the right",
    "top": "at the top",
    "bottom": "at the bottom",
    "top left": "at the top left",
    "top right": "at the top right",
    "bottom left": "at the bottom left",
    "bottom right": "at the bottom right",
}


def _joined(parts: list[Words], *glue: str) -> Words:
    return parts[0] + list(chain.from_iterable([*glue, *part] for part in parts[1:]))


def _listed(numbers: list[int]) -> Words:
    """0 , 1 and 2"""
    if len(numbers) == 1:
        return [numbers[0]]
    return [*_joined([[number] for number in numbers[:-1]], ","), "and", numbers[-1]]


def _everybody(places: Places) -> list[int]:
    return list(range(len(places)))


def plain_list(places: Places) -> Words:
    """a cat , a mug and an owl"""
    return _listed(_everybody(places))


def all_and(places: Places) -> Words:
    """a cat and a mug and an owl"""
    return _joined([[number] for number in _everybody(places)], "and")


def commas(places: Places) -> Words:
    """a cat , a mug , an owl"""
    return _joined([[number] for number in _everybody(places)], ",")


def picture_of(places: Places) -> Words:
    """a picture of a cat , a mug and an owl"""
    return ["a", "picture", "of", *plain_list(places)]


def there_is(places: Places) -> Words:
    """there is a cat , a mug and an owl"""
    return ["there", "is", *plain_list(places)]


def placed(places: Places) -> Words:
    """a cat on the left , a mug on the right"""
    parts: list[Words] = [[i, *PLACE_WORDS[place].split()] for i, place in enumerate(places)]
    return _joined(parts, "and" if len(parts) == 2 else ",")


def place_first(places: Places) -> Words:
    """on the left a cat , on the right a mug"""
    return _joined([[*PLACE_WORDS[place].split(), i] for i, place in enumerate(places)], ",")


def short_place(places: Places) -> Words:
    """left a cat , right a mug; top left a cat , ..."""
    return _joined([[*place.split(), i] for i, place in enumerate(places)], ",")


def next_to(places: Places) -> Words:
    """a cat next to a mug; a cat next to a mug above an owl"""
    joined = [_joined([[number] for number in row], "next", "to") for row in rows(places)]
    return _joined(joined, "above") if len(places) > 1 else [0, "alone"]


def above(places: Places) -> Words:
    """a cat and a mug above an owl; a cat to the left of a mug"""
    if len(rows(places)) == 2:
        return _joined([_listed(row) for row in rows(places)], "above")
    return [0, "to", "the", "left", "of", 1] if len(places) == 2 else ["only", 0]


def below(places: Places) -> Words:
    """an owl below a cat and a mug; a mug to the right of a cat"""
    if len(rows(places)) == 2:
        return _joined([_listed(row) for row in reversed(rows(places))], "below")
    return [1, "to", "the", "right", "of", 0] if len(places) == 2 else ["just", 0]


def drawing_with(places: Places) -> Words:
    """a drawing of a cat with a mug and an owl"""
    rest = _everybody(places)[1:]
    return ["a", "drawing", "of", 0, *(["with", *_listed(rest)] if rest else [])]


FORMS: dict[str, Form] = {
    form.__name__: form
    for form in (
        plain_list,
        all_and,
        commas,
        picture_of,
        there_is,
        placed,
        place_first,
        short_place,
        next_to,
        above,
        below,
        drawing_with,
    )
}
PLACED_FORMS = ("placed", "place_first", "short_place")  # these say every place, in any order
HELD_OUT_FORMS = ("below", "drawing_with")  # the base model knows them; no search and no choice of settings uses them
SEARCH_FORMS = tuple(name for name in FORMS if name not in HELD_OUT_FORMS)
