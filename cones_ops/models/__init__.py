"""How weights and words of a model are named and chosen."""
