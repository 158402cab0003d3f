"""Model libraries that the search can work in."""
