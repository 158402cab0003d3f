"""DreamBench without weights: who is drawn, with which prompts, and what the scores are of given embeddings.

`protocol` reads a folder of subjects, `prompts` holds our own wording of the prompts, `scores` is the arithmetic.
`cones bench dreambench` (cli_dreambench) puts a model and the two judges, DINO and CLIP, to it.
"""

from __future__ import annotations

from .protocol import Protocol, Subject, read_pairs, read_protocol

__all__ = ["Protocol", "Subject", "read_pairs", "read_protocol"]
