"""Training of the toy world's model and of its judge."""
