"""Which tokens of a prompt belong to which concept."""
