"""Our own wording of DreamBench's kinds of prompt: places, accessories, changed looks; 25 each.

`{}` stands for "sks dog". Objects are put in 20 places and changed 5 times; living subjects are put in 10 places,
dressed up 10 times and changed 5 times. Two subjects only share places, so that no word belongs to one of them alone.
"""

from __future__ import annotations

_PLACES = (
    "a {} among the ferns of a rainforest",
    "a {} in deep fresh snow",
    "a {} on a sandy beach by the sea",
    "a {} on an old cobbled lane",
    "a {} lying on pink cloth",
    "a {} on wooden floorboards",
    "a {} with a city skyline behind it",
    "a {} with snowy mountains behind it",
    "a {} in front of a house painted blue",
    "a {} on a purple carpet in the woods",
)
_OBJECT_PLACES = (
    "a {} with a field of ripe wheat behind it",
    "a {} under a tree with autumn leaves",
    "a {} in front of the Eiffel Tower",
    "a {} drifting on a lake",
    "a {} afloat in a sea of milk",
    "a {} on a lawn surrounded by sunflowers",
    "a {} standing on a mirror",
    "a {} on the pavement of a busy street",
    "a {} on a dusty country road",
    "a {} on a white carpet",
)
_ACCESSORIES = (
    "a {} with a red hat on",
    "a {} with a Santa Claus hat on",
    "a {} with a scarf in rainbow colours",
    "a {} with a black top hat and a monocle",
    "a {} dressed as a chef",
    "a {} dressed as a firefighter",
    "a {} dressed as a police officer",
    "a {} with pink glasses on",
    "a {} in a yellow shirt",
    "a {} in a purple wizard's robe",
)
_LOOKS = (
    "a {} that is red all over",
    "a {} that is purple all over",
    "a {} with a glossy, shiny surface",
    "a {} that is dripping wet",
    "a {} in the shape of a cube",
)

OBJECT_PROMPTS = (*_PLACES, *_OBJECT_PLACES, *_LOOKS)
LIVE_PROMPTS = (*_PLACES, *_ACCESSORIES, *_LOOKS)
PAIR_PROMPTS = (
    "a {} and a {} among the ferns of a rainforest",
    "a {} and a {} in deep fresh snow",
    "a {} and a {} on a sandy beach by the sea",
    "a {} and a {} on an old cobbled lane",
    "a {} and a {} side by side on pink cloth",
    "a {} and a {} on wooden floorboards",
    "a {} and a {} with a city skyline behind them",
    "a {} and a {} with snowy mountains behind them",
    "a {} and a {} in front of a house painted blue",
    "a {} and a {} on a purple carpet in the woods",
    "a {} and a {} with a field of ripe wheat behind them",
    "a {} and a {} under a tree with autumn leaves",
    "a {} and a {} in front of the Eiffel Tower",
    "a {} and a {} on a wooden raft on a lake",
    "a {} next to a {} on a lawn surrounded by sunflowers",
    "a {} next to a {} on the pavement of a busy street",
    "a {} next to a {} on a dusty country road",
    "a {} next to a {} on a white carpet",
    "a {} next to a {} on a kitchen table",
    "a {} next to a {} on a park bench",
    "a {} beside a {} in a bright living room",
    "a {} beside a {} in the desert at sunset",
    "a {} beside a {} in front of a brick wall",
    "a {} beside a {} by a campfire at night",
    "a {} beside a {} on the deck of a ship",
)
