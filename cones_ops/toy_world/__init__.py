"""The toy world: Stable Diffusion in miniature, drawn, trained, judged and shipped by this repository.

Drawn scenes (`world`), their captions (`captions`), held-out subjects (`subjects`), a fixed patch transform that
makes 8x8 latents (`latents`), a word vocabulary (`vocabulary`), the shipped model file (`bundle`), and an exact
judge (`judge`). Everything else in the repository may be tested on it; nothing in the library core imports it.
"""
