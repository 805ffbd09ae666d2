"""Encoding and its ceilings on real 7 T patterns of finger movements."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm import ceilings, metrics
from neurofm.io import open_corpus
from neurofm.linear import VoxelwiseRidge, cross_validated, significance

pytestmark = pytest.mark.corpus
PENALTIES = np.logspace(-1, 3, 9)


@pytest.fixture
def fingers(corpora) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indicators of five fingers, responses without the mean of their run, runs."""
    opened = open_corpus("finger7t")
    runs = [opened.load(recording) for recording in opened.recordings(subjects=["1"])]
    y = np.concatenate([run.data.T - run.data.T.mean(0) for run in runs])
    label = [event.label for run in runs for event in run.events]
    x = (np.array(label)[:, None] == np.unique(label)).astype(float) - 0.2
    return x, y, np.repeat(np.arange(len(runs)), [len(run.events) for run in runs])


def test_voxels_that_repeat_themselves_are_those_that_are_predicted(fingers):
    x, y, runs = fingers
    found = cross_validated(VoxelwiseRidge(PENALTIES), x, y, runs)
    r = metrics.correlation_per_channel(y, found.predicted)
    ceiling = ceilings.repeats(y, x.argmax(1).tolist(), n_averaged=1)
    assert np.corrcoef(r, ceiling.r)[0, 1] > 0.8
    assert 0.05 < np.median(ceiling.r) < 0.4
    halves = ceilings.split_half(y, x.argmax(1).tolist(), n_splits=20)
    assert np.corrcoef(halves.fraction, ceiling.fraction)[0, 1] > 0.7
    assert metrics.two_way_identification(y, found.predicted) > 0.7


def test_fingers_put_in_another_order_predict_no_voxel(fingers):
    x, y, runs = fingers
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(np.flatnonzero(runs == run)) for run in set(runs)])
    passed = []
    for design in (x, x[order]):
        made = cross_validated(VoxelwiseRidge(PENALTIES), design, y, runs).predicted
        passed.append(significance(y, made, block=1, groups=runs, n_permutations=500).passed)
    assert passed[0].mean() > 0.08
    assert passed[1].mean() < 0.01
