"""The toy world: Stable Diffusion in miniature, drawn, trained, judged and shipped by this repository.

Drawn characters in scenes (`world`, `drawing`), captions in words (`captions`), held-out subjects (`subjects`), 8x8
latents and a decoder (`patches`, `decoder`), a word vocabulary (`vocabulary`) and the shipped model file (`bundle`).
Everything here is needed by the nodes; what trains and judges the model lies in `cones_ops.laboratory`.
"""
