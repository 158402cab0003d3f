"""Our own wording of DreamBench's kinds of prompt, in prompts.txt: places, accessories, changed looks; 25 each.

`{}` stands for "sks dog". Objects are put in 20 places and changed 5 times; living subjects are put in 10 places,
dressed up 10 times and changed 5 times. Two subjects only share places, so that no word belongs to one of them alone.
"""

from __future__ import annotations

from pathlib import Path

_TEXT = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
_PLACES, _OBJECT_PLACES, _ACCESSORIES, _LOOKS, PAIR_PROMPTS = (
    tuple(section.splitlines()[1:])  # below its heading
    for section in _TEXT.split("\n\n")
)
OBJECT_PROMPTS = (*_PLACES, *_OBJECT_PLACES, *_LOOKS)
LIVE_PROMPTS = (*_PLACES, *_ACCESSORIES, *_LOOKS)
