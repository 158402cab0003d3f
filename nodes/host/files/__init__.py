"""Folders, files and what a mask file records about its base."""
