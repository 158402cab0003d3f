"""The notes on the canvas of the example workflows (Markdown)."""

from __future__ import annotations

FIND = """\
## Find a concept

**Run** does everything from left to right: it looks for the few weights (concept neurons) of the toy world's model \
that, when shut, make it draw a thing it has never seen, saves them as a small file, and samples with them.

- **Toy World** is a tiny model that ships with this pack. Nothing is downloaded, no graphics card is needed.
- **Toy Subject** has eight subjects. Choose another one, and change the identifier and the class word in \
*What to draw* and the name in *Save Concept Mask* to match.
- **Find Concept Neurons** shows its loss while it works; Cancel stops it within a step. Its curve says what share of \
weights it chose to shut, and why. The model itself is not changed.
"""

FIND_SAMPLE = """\
## Sample with it

Both samplers use the same seed and the same prompt; the only difference is *Apply Concept Masks*.

- At strength 0, or with the switch off, the picture is the one without the concept, bit for bit.
- The second time you press Run, only what you changed is done again: the search is not repeated.
- The file is now in `models/concept_masks`. The workflow *compose-two-concepts* loads it next to another one.
- For your own pictures see *find-a-concept-sd15*.
"""

COMPOSE = """\
## Compose two concepts

Two concept masks, found one without the other, in one picture. A mask is a list of weights to shut, so applying two \
is shutting both lists: no training, and their order does not matter.

- These masks are of the toy world. Make more with *find-a-concept* (press R to refresh the lists).
- Each slot of *Apply Concept Masks* has its own strength and switch. Chain a second node for more than eight.
- Name each subject by identifier and class word, as in "a sks star".

**What to expect.** Masks that act *everywhere* change how every word is drawn. One of them draws its subject well on \
its own; two in one picture let their colours run into each other, in a model this small more than in a large one. Try \
strengths between 0.5 and 1, and one mask at a time.
"""

SD15 = """\
## Your own subject

Wired for a Stable Diffusion 1.5 checkpoint, and right for other SD 1.x and 2.x checkpoints.

1. Choose your checkpoint.
2. Load 4 or 5 pictures of **one** subject: the same thing, different views and backgrounds. Remove or add *Load \
Image* nodes as you like.
3. Say what it is: a rare word plus its class, as in "sks dog", in the two prompts **and** in *Find Concept Neurons*.
4. Run. Less memory: lower *batch*. Searching takes 300 steps of *batch* noisy pictures; a graphics card is advisable.

No pictures of the class are needed: the unchanged model is the example. The mask is for this checkpoint; on another \
one *Apply Concept Masks* says so.
"""
