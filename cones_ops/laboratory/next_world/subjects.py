"""The subjects: characters that no training scene holds, each with the rare word that is to name it.

Their parts are known to the base model; their kind with their pair of colours is not. Half of what makes a subject has
no word, so what appears under its identifier was implanted and not described.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...next_world.world import Character


@dataclass(frozen=True)
class Subject:
    """A character to implant, and the rare word that is to name it."""

    identifier: str
    character: Character

    @property
    def class_word(self) -> str:
        """The super-category in the prompt."""
        return self.character.kind

    @property
    def class_prompt(self) -> str:
        """The prompt without the identifier."""
        return f"{'an' if self.class_word[0] in 'aeio' else 'a'} {self.class_word}"

    @property
    def prompt(self) -> str:
        """What asks for the subject: identifier before class word."""
        return f"{'an' if self.identifier[0] in 'aeio' else 'a'} {self.identifier} {self.class_word}"


# kind, colour, accessory | second, eyes, variant
SUBJECTS: tuple[Subject, ...] = (
    Subject("sks", Character("cat", "orange", "hat", "blue", "wide", "first")),
    Subject("zwx", Character("robot", "blue", "bow", "yellow", "one", "second")),
    Subject("hta", Character("mug", "pink", "none", "green", "dots", "first")),
    Subject("bnk", Character("ghost", "white", "hat", "purple", "shades", "second")),
    # the first four choose settings, the others are held out from every choice
    Subject("olr", Character("owl", "purple", "none", "orange", "wide", "first")),
    Subject("mfj", Character("fish", "green", "hat", "pink", "one", "first")),
    Subject("qpd", Character("rocket", "red", "bow", "white", "dots", "first")),
    Subject("vbn", Character("mushroom", "yellow", "none", "red", "wide", "first")),
    Subject("ktr", Character("cactus", "green", "bow", "red", "dots", "second")),
    Subject("wug", Character("house", "white", "none", "blue", "one", "first")),
    Subject("dax", Character("cat", "white", "bow", "pink", "dots", "second")),
    Subject("fep", Character("robot", "red", "none", "green", "shades", "first")),
)
CHOOSING, HELD_OUT = SUBJECTS[:4], SUBJECTS[4:]

_KEPT_OUT = {(s.character.kind, frozenset((s.character.colour, s.character.second))) for s in SUBJECTS}


def in_training(character: Character) -> bool:
    """Whether training may show a character: not a subject's kind in the subject's pair of colours."""
    return (character.kind, frozenset((character.colour, character.second))) not in _KEPT_OUT


def subject(identifier: str) -> Subject:
    """The subject of an identifier; KeyError lists the known ones."""
    for candidate in SUBJECTS:
        if candidate.identifier == identifier:
            return candidate
    raise KeyError(f"no subject {identifier!r}; there are {', '.join(s.identifier for s in SUBJECTS)}")
