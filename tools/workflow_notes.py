"""The notes on the canvas of the example workflows (Markdown)."""

from __future__ import annotations

FIND = """\
## Find a concept

**Run** does everything from left to right: it looks for the weights (concept neurons) of the toy world's model that, \
when shut for the words "sks star" only, make it draw a thing it has never seen; saves them as a small file; and \
samples.

- **Toy World** is a tiny model that ships with this pack. Nothing is downloaded, no graphics card is needed.
- **Toy Subject** has eight subjects. Choose another one, and change the words in *What to draw* and the name in *Save \
Concept Mask* to match. All but four of its pictures show it beside something else, each with its own caption.
- **Encode Prompt with Concepts** tells the search which tokens are the subject's.
- **Find Concept Neurons** shows its loss while it works; Cancel stops it within a step. Its curve says what share of \
weights it chose to shut, and why. The model itself is not changed.
"""

FIND_SAMPLE = """\
## Sample with it

Both samplers use the same seed and the same prompt; the only difference is *Apply Concept Masks*.

- The mask acts at its own tokens. A prompt without "sks" gives the same picture as without the mask, bit for bit; try \
"a star on a white background". So does strength 0, or the switch off.
- A prompt that names the concept needs *Encode Prompt with Concepts*, with the mask connected.
- The second time you press Run, only what you changed is done again: the search is not repeated.
- The file is now in `models/concept_masks`. The workflow *compose-two-concepts* loads it next to another one, and \
*compare-where-masks-act* shows what "own tokens" is good for.
- For your own pictures see *find-a-concept-sd15*.
"""

COMPOSE = """\
## Compose two concepts

Two concept masks, found one without the other, applied to one model. Each acts at the tokens that name it, so they do \
not disturb each other: either subject alone comes out as if the other mask were not there.

- Connect each mask twice: to *Apply Concept Masks* and to *Encode Prompt with Concepts*. The latter's report says \
which tokens are whose.
- Each slot of *Apply Concept Masks* has its own strength and switch. Chain a second node for more than eight.
- These masks are of the toy world. Make more with *find-a-concept* (press R to refresh the lists).

**What to expect.** Each subject alone, or beside something else ("a sks star on the left and a blue plain circle on \
the right"), works as it is. Both subjects in *one* picture are luck for masks that were found apart: 62 % of 32 \
pictures with this pair, 28 % over 54 pairs, 0 % with the worst; mostly one of them comes out, or both with colours \
exchanged. The workflow *tune-two-concepts* mends that with joint steps; docs/results/quality.md has the figures.
"""

COMPARE = """\
## Own tokens or everywhere

The same seed and the same prompt, which names a concept *and* a second thing, three times:

1. **Without a mask**: the model does not know "sks".
2. **At own tokens**: the weights are shut for the tokens "sks star" only. The subject appears, and the circle stays \
as it was asked for.
3. **Everywhere** (as in the paper): the weights are shut for every word. The subject appears (alone in 84 % of 32 \
pictures with this mask), and the circle takes its purple: the second thing comes out as asked in 22 %.

This mask is among the worse ones: over twelve others found everywhere the second thing is right in 79 %, at own \
tokens in 96 % (docs/results/quality.md). Each mask is used where it was found for. *where* in *Apply Concept \
Masks* can say otherwise, but a mask that was found for own tokens is too dense to act everywhere.
"""

TUNE = """\
## Tune two concepts together

Two masks that were found apart draw their subjects one at a time. Asked for both in one picture, the model often \
mixes them up. Some joint steps change both masks, from pictures that show the subjects side by side.

**Run** does everything; the joint steps take a minute or a few without a graphics card. Cancel stops them within a \
step.

- **Lay Pictures Side by Side** makes the pictures of both that nobody has taken: each subject left and right in turn, \
with a caption per picture.
- **Tune Concept Masks Together** starts from the loaded masks. It returns a tuned mask for each, to be used together \
or alone; the files and the model stay as they are.
- Its *report* has the loss on noise the steps never saw, before and after. NOT TUNED means that it did not fall: you \
get the masks you gave.
- The two rows of pictures on the right have the same prompt and noise. The upper one has the masks as loaded, the \
lower one the tuned ones.
- Keep a tuned mask with *Save Concept Mask*, under a new name.
"""

TUNE_OWN = """\
## With your own pictures

1. Find a mask for each subject first, on one checkpoint, with *where* and *targets* alike (*find-a-concept-sd15*). \
Each needs an identifier of its own: two masks that both listen to "sks" cannot be told apart.
2. Replace *Toy World* by your checkpoint loader, and each *Toy Subject* by pictures of that subject **alone, in the \
middle**, 4 or 5 of them, all of one size (Load Image, Batch Images, Upscale Image).
3. Write what they show where *Toy Subject* did it: in *What pictures 1 show* a line per picture, "a photo of a sks \
dog on a beach", naming what else is in it; in *phrase_1* of *Lay Pictures Side by Side* "a sks dog". The same for the \
second subject.
4. Look at *Pictures of both*. Is a subject cut off, or small? Lower or raise *zoom*.
5. In *What to draw*, name both subjects by identifier and class word.

- The captions of each subject's own pictures name the background. Those of the pictures of both leave it out, because \
two backgrounds meet there.
- Memory: the joint steps look at *batch* noisy pictures of each subject and of both at once. Lower *batch* if they do \
not fit.
- Three or four subjects: connect more slots, in *Lay Pictures*, in both prompts and in *Tune Concept Masks Together*.
"""

SD15 = """\
## Your own subject

Wired for a Stable Diffusion 1.5 checkpoint, and right for other SD 1.x and 2.x checkpoints.

1. Choose your checkpoint.
2. Load 4 or 5 pictures of **one** subject: the same thing, different views and backgrounds. Remove or add *Load \
Image* nodes as you like.
3. Say what it is: a rare word plus its class, as in "sks dog", in *What your pictures show* (text **and** concepts) \
and in *Find Concept Neurons*. Better: turn on *prompt_per_line* and write one caption per picture, naming what else \
it shows.
4. Run. Less memory: lower *batch*. Searching takes 300 steps of *batch* noisy pictures; a graphics card is advisable.

No pictures of the class are needed: the mask acts at its own tokens, every other prompt stays as it is. The mask is \
for this checkpoint; on another one *Apply Concept Masks* says so.
"""

INSPECT = """\
## Inspect and compare

**Inspect Concept Mask** shows where a concept's neurons are, from the model's input (left) to its output: how much of \
each layer's K and V is shut, and how many neurons each block holds.

**Compare Concept Masks** shows what two masks have in common, and where. Its report says what to expect of them \
together: where they act counts, and whether they were tuned together. How much they share does not tell whether both \
subjects come out in one picture; very much in common tells that one subject was searched twice.

Both need no model and run at once. Connect up to eight masks; choose others in *Load Concept Mask* (press R for new \
ones).
"""

SPLIT = """\
## What each part does

**Split Concept Mask** gives a *list*: the whole mask, then each block's neurons alone. All that follows runs once per \
entry, so one press of Run samples every part, with one prompt and one noise.

- *left_on* = all but the group asks the opposite: what is missing without these neurons?
- *group_by* = K and V, or third of the model for large models: each group costs a picture.
- *Encode Prompt with Concepts* takes the whole mask, not the list; the words are the same.
- Leave *Without a mask* beside it, to see what the model draws by itself.
"""

HOOKS = """\
## A region, a stretch of the sampling

**Experimental.** A mask that acts everywhere changes every word of a prompt. **Create Hook Concept Mask** lets it act \
in one prompt of several. Here prompt and noise are the same three times:

1. **Everywhere** (*Apply Concept Masks*): the circle becomes the subject (orange and purple stripes), and the blue of \
the square leans to violet.
2. **In the left half**: *Cond Set Props* gives the prompt the hook and an image mask; *Cond Set Default Combine* \
gives the rest of the picture the same prompt without a hook. The circle is the same, the square plain blue.
3. **Until 60 %**: the same, and keyframes stop the hook after 60 % of the sampling; the plain model finishes. The \
subject stays; its upper stripe is darker.

Four pictures are one draw. Masks at own tokens need none of this and are the better choice where they work: \
docs/results/quality.md compares them, *compose-two-concepts* uses them. Hooks are for masks that act everywhere.
"""

HOOKS_MORE = """\
## Other uses

- *strength* of the hook and *strength_mult* of the keyframes multiply. *Create Hook Keyframes Interp.* fades a \
concept in or out.
- A range of the sampling per prompt: *Timesteps Range* into *Cond Set Props*.
- *prev_hooks* adds LoRA hooks or more concept masks; masks in one group act as their union.
- Your own region: *Load Image (as Mask)*, or paint one in the mask editor.

**What it costs.** Prompts with different hooks run one after the other, so a step takes longer, and every change of a \
keyframe patches the weights again. With low VRAM, LoRA patches of the model are added after the hook.

This subject was chosen among three that were looked at.
"""
