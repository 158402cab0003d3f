"""The sheet of labelled rows: labels stay beside their pictures."""

import numpy as np
import torch
from PIL import Image

from cones_ops.laboratory.picture_grid import CELL, GAP, LABEL, PAPER, GridRow, save_grid


def test_a_long_label_wraps_before_the_pictures(tmp_path):
    words = "a hta square and a bnk triangle and a olr star and a mfj circle"
    save_grid([GridRow("four", words, torch.zeros(1, 3, 64, 64))], tmp_path / "sheet.png", columns=1)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    inked = (sheet != PAPER).any(axis=-1)
    assert not inked[:, LABEL - 8 : LABEL - 1].any()
    second_line = inked[GAP + 54 : GAP + 68, GAP:LABEL]
    assert second_line.any() and inked[GAP : GAP + CELL, LABEL : LABEL + CELL].all()
