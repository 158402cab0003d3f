"""The only package of the pack that imports comfy.* and folder_paths: one module per service of the host."""
