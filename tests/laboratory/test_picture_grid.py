"""The sheet of labelled rows: labels stay beside their pictures."""

import numpy as np
import torch
from PIL import Image

from cones_ops.laboratory.picture_grid import CELL, GAP, LABEL, PAPER, GridRow, save_grid


def test_a_long_label_wraps_before_the_pictures(tmp_path):
    words = "a hta mug and a bnk ghost and a olr owl and a mfj fish on a beach"
    save_grid([GridRow("four", words, torch.zeros(1, 3, 96, 96))], tmp_path / "sheet.png", columns=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    inked = (sheet != PAPER).any(axis=-1)
    assert not inked[:, LABEL - 8 : LABEL - 1].any()
    second_line = inked[GAP + 54 : GAP + 68, GAP:LABEL]
    assert second_line.any() and inked[GAP : GAP + CELL, LABEL : LABEL + CELL].all()
