"""Scenes as pictures: the pen, the characters and their faces, the backgrounds."""
