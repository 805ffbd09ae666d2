"""BrainTokenizer and BrainOmni against the plain implementation that the benchmark times."""

from __future__ import annotations

import pytest
from benchmarks.brainomni import Sides

SMALL = {
    "window_length": 64,
    "n_filters": 8,
    "ratios": (4, 2, 2),
    "n_dim": 32,
    "n_head": 2,
    "n_neuro": 4,
    "codebook_dim": 32,
    "codebook_size": 16,
    "num_quantizers": 2,
}


@pytest.fixture
def sides() -> Sides:
    language = {"lm_dim": 32, "lm_head": 4, "lm_depth": 2}
    shape = {"batch": 2, "channels": 5, "samples": 160}
    return Sides(**shape, dropout=0.0, size=SMALL, language=language)


@pytest.mark.parametrize("part", ["encode", "stage1", "stage2"])
def test_outputs_losses_and_gradients_agree(sides: Sides, part: str) -> None:
    found = sides.differences(part)
    assert max(found.values()) < 1e-3, found
    assert found.get("loss", 0.0) < 1e-5
