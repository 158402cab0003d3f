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


# kind, colour, pattern, accessory | second, eyes, variant, build, mark
SUBJECTS: tuple[Subject, ...] = (
    Subject("sks", Character("cat", "orange", "striped", "scarf", "blue", "wide", "first", "wide", "none")),
    Subject("zwx", Character("robot", "blue", "plain", "bow", "yellow", "one", "second", "tall", "none")),
    Subject("hta", Character("mug", "pink", "spotted", "none", "green", "dots", "first", "wide", "cheeks")),
    Subject("bnk", Character("ghost", "white", "plain", "hat", "purple", "shades", "second", "tall", "none")),
    # the first four choose settings, the others are held out from every choice
    Subject("olr", Character("owl", "purple", "spotted", "none", "orange", "wide", "first", "wide", "none")),
    Subject("mfj", Character("fish", "green", "striped", "hat", "pink", "one", "first", "wide", "none")),
    Subject("qpd", Character("rocket", "red", "plain", "scarf", "white", "dots", "first", "tall", "patch")),
    Subject("vbn", Character("mushroom", "yellow", "spotted", "none", "red", "wide", "first", "wide", "cheeks")),
    Subject("ktr", Character("cactus", "green", "plain", "bow", "red", "dots", "second", "tall", "none")),
    Subject("wug", Character("house", "white", "striped", "none", "blue", "one", "first", "tall", "none")),
    Subject("dax", Character("cat", "white", "spotted", "bow", "pink", "dots", "second", "wide", "patch")),
    Subject("fep", Character("robot", "red", "striped", "none", "green", "shades", "first", "wide", "none")),
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
