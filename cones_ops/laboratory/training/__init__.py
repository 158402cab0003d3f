"""Training of the toy world's parts; `python -m cones_ops.laboratory.training` runs them all."""
