"""DreamBench without weights: who is drawn, with which prompts, and what the scores are of given embeddings.

`protocol` reads a folder of subjects, `prompts` holds our own wording of the prompts, `scores` is the arithmetic.
`plan` lists the cells of a run, `cells` makes them with a model and the two `judges`, DINO and CLIP.
"""
