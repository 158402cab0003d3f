"""The drawn world and the small model that was trained on it: characters in scenes, captions, one file, a decoder.

Everything here is needed by the nodes. What trains and judges the model lies in `cones_ops.laboratory.next_world`.
"""
