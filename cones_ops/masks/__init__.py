"""What a concept mask is, what can be done with masks, and their files."""
