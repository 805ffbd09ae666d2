"""Where an animal is, from its neurons: ridge on binned spikes of a real recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

BIN_S, REACH = 0.25, 2  # s; bins before and after the one that is decoded


@pytest.mark.corpus
@pytest.mark.filterwarnings("ignore")
def test_position_on_a_track_is_decoded_from_spikes(corpora: Path) -> None:
    from neurofm.io import SpikeReader
    from neurofm.linear import VoxelwiseRidge, cross_validated

    video = "*.videoPositionTracking*"
    root = corpora / "spikes" / "linear-track"
    reader = SpikeReader("*.mat", dataset="track", root=root, bin_s=BIN_S, behaviour=[video])
    signal = reader.load(reader.recordings()[0])
    place = signal.data[-2:].T.astype(np.float64)  # x and y, pixels
    counts = np.sqrt(signal.data[:-2].T)
    around = np.concatenate([np.roll(counts, k, axis=0) for k in range(-REACH, REACH + 1)], axis=1)
    moving = np.linalg.norm(np.gradient(place, axis=0), axis=1) / BIN_S > 15  # pixels/s
    moving[:REACH] = moving[-REACH:] = False
    x, y = around[moving], place[moving]
    stretch = np.repeat(np.arange(5), -(-len(x) // 5))[: len(x)]

    found = cross_validated(VoxelwiseRidge(), x, y, groups=stretch)

    r2 = 1 - ((y - found.predicted) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    off, guess = (np.median(np.linalg.norm(y - p, axis=1)) for p in (found.predicted, y.mean(0)))
    # A ridge of one penalty reaches 0.242 and 0.402; guessing the mean is 139 pixels off.
    assert r2[0] > 0.38 and r2[1] > 0.402
    assert off < 0.65 * guess and 135 < guess < 145

    rng = np.random.default_rng(0)
    away = np.roll(y, len(y) // 2 + rng.integers(100), axis=0)
    wrong = cross_validated(VoxelwiseRidge(), x, away, groups=stretch).predicted
    assert (1 - ((away - wrong) ** 2).sum(0) / ((away - away.mean(0)) ** 2).sum(0) < 0.1).all()
