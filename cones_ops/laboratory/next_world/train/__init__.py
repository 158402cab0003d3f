"""Training of the next world's parts; `python -m cones_ops.laboratory.next_world.train` runs them all."""
