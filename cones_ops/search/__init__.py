"""From pictures to a concept mask: the objective, the search methods, the choice of density."""
