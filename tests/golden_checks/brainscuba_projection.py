"""The projection onto natural images against tests/golden/brainscuba_projection."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from neurofm.reconstruct import project_onto_images

Tensors = dict[str, Tensor]
# The README's: rounding of the original's float32 scores is multiplied by up to 150.
ATOL, RTOL = 2e-5, 1e-4


def check(fixture: Any) -> tuple[Tensors, Tensors]:
    """Every output; its name says by what the scores are multiplied."""
    given, expected = fixture.tensors("inputs"), fixture.tensors("outputs")
    got = {}
    for name in expected:
        multiplier = re.fullmatch(r"projected_temp(\d+(?:\.\d+)?)", name)
        if multiplier is not None:
            got[name] = project_onto_images(
                given["voxel_weights"],
                given["image_embeddings"],
                temperature=1 / float(multiplier[1]),
                chunk=3,
            )
    return expected, got
