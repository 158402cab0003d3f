"""diffusers pipelines as a host: search a UNet, apply masks to it, sample. Importing this does not import diffusers.

pipeline = load("stable-diffusion-v1-5")
dog = find(pipeline, Concept("sks", "dog", read_pictures("pictures/dog"))).mask
sample(pipeline, ["a photo of a sks dog on the beach"], [(dog, 1.0)])[0].save("dog.png")
"""

from .apply_masks import applied
from .concepts import Concept, find, load, read_pictures, sample, tune
from .prompts import prompt

__all__ = ["Concept", "applied", "find", "load", "prompt", "read_pictures", "sample", "tune"]
