"""Real functional images, read as their READMEs say and decoded as known."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from neurofm.data import CleanBold
from neurofm.io import (
    open_corpus,
    read_atlas,
)
from neurofm.io.quality import collect
from neurofm.types import Signal


@pytest.mark.corpus
def test_haxby_is_read_as_its_readme_says(corpora):
    opened = open_corpus("haxby2001_subset")
    recordings = opened.recordings()
    assert len(recordings) >= 9 and {r.subject for r in recordings} == {"001"}
    signal = opened.load(recordings[0])
    assert signal.data.shape == (6 + 129, 121) and signal.sfreq == 0.4
    labels = [event.label for event in signal.events]
    assert len(labels) == 8 == len(set(labels)) and {"face", "house", "cat"} <= set(labels)
    assert all(event.duration == 22.5 for event in signal.events)
    # Against nibabel: one voxel, percent of its mean.
    truth = nibabel.as_closest_canonical(nibabel.load(recordings[0].path)).get_fdata()
    name = signal.sensors.names[40]
    i, j, k = (int(part) for part in name[1:].split("-"))
    row = truth[i, j, k]
    np.testing.assert_allclose(signal.data[40], 100 * (row / row.mean() - 1), atol=1e-4)
    assert 0.1 < np.median(signal.data[6:].std(axis=1)) < 5


def block_patterns(signal: Signal) -> tuple[np.ndarray, list[str]]:
    """Mean of the volumes from 4 s after each block's onset to 4 s after its end."""
    times = np.arange(signal.data.shape[1]) / signal.sfreq
    rows = [
        signal.data[:, (times >= e.onset + 4) & (times < e.onset + e.duration + 4)].mean(axis=1)
        for e in signal.events
    ]
    return np.array(rows), [event.label for event in signal.events]


@pytest.mark.corpus
def test_categories_are_decoded_across_runs_of_haxby_as_known(corpora):
    """Shrinkage LDA on 530 voxels: 0.722 is known for these runs, chance is 0.125."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    from neurofm.data import StandardizeRun

    opened = open_corpus("haxby2001_slice")
    x, y, run = [], [], []
    with collect():
        for recording in opened.recordings()[:9]:
            signal = StandardizeRun()(CleanBold()(opened.load(recording)))
            assert len(signal.sensors) == 530
            rows, labels = block_patterns(signal)
            x.append(rows)
            y += labels
            run += [recording.run] * len(labels)
    x, y, run = np.concatenate(x), np.array(y), np.array(run)
    rng = np.random.default_rng(0)
    shuffled = np.concatenate([rng.permutation(y[run == r]) for r in np.unique(run)])

    def accuracy(target: np.ndarray) -> float:
        right = 0
        for held in np.unique(run):
            model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
            model.fit(x[run != held], target[run != held])
            right += int((model.predict(x[run == held]) == target[run == held]).sum())
        return right / len(target)

    assert accuracy(y) == pytest.approx(0.722, abs=0.05)
    assert accuracy(shuffled) < 0.3


@pytest.mark.corpus
def test_the_schaefer_atlas_is_read_and_brought_to_an_image(corpora):
    path = next((corpora / "atlas").glob("Schaefer*.nii.gz"))
    atlas = read_atlas(path)
    assert atlas.shape == (91, 109, 91) and atlas.numbers == tuple(range(1, 101))
    opened = open_corpus("haxby2001_subset")
    opened.reader.files |= {"mask": None, "atlas": f"atlas/{path.name}"}
    with collect() as problems:
        signal = opened.load(opened.recordings()[0])
    assert {p.code for p in problems} >= {"parcels_lost", "atlas_resampled"}
    assert 40 < len(signal.sensors) - 6 < 100 and np.isfinite(signal.data).all()
