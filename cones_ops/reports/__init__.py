"""Results as text and as figures, and comparisons of masks."""
