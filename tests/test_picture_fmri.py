"""Simulated voxels answer to what was planted, with the planted noise ceiling."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.io import SyntheticPictureFMRIReader, open_corpus
from neurofm.io.simulated.pictures import local_energy

SMALL = {"subjects": 2, "runs": 4, "n_train": 60, "n_test": 10, "n_voxels": 40, "size": 32}


@pytest.fixture(scope="module")
def reader() -> SyntheticPictureFMRIReader:
    return SyntheticPictureFMRIReader(**SMALL)


def test_every_picture_is_seen_in_as_many_runs_as_it_has_repeats(reader) -> None:
    found = reader.responses("001")
    assert found.values.shape == (70 * 3, 40)
    for trials in found.repeats().values():
        assert len({found.run[i] for i in trials}) == 3


def test_noise_has_variance_one_and_the_ceiling_is_as_planted() -> None:
    many = SyntheticPictureFMRIReader(**SMALL | {"n_train": 200, "n_voxels": 60})
    found, truth = many.responses("001"), many.truth("001")
    noise = found.values - many.answers("001", found.stimulus)
    run = np.array(found.run)
    for name in np.unique(run):
        noise[run == name] -= noise[run == name].mean(axis=0)
    assert noise.var(axis=0).mean() == pytest.approx(1.0, abs=0.04)
    answer = many.answers("001", many.train)
    np.testing.assert_allclose(answer.std(axis=0), truth.ncsnr, atol=1e-4)
    assert (truth.ncsnr[np.array(truth.region) == "none"] == 0).all()
    # A mean of three trials follows the answer as the ceiling says.
    trials = np.stack([found.repeats()[name] for name in many.train])
    centred = noise + many.answers("001", found.stimulus)
    r = [
        np.corrcoef(a, b)[0, 1]
        for a, b in zip(answer.T, centred[trials].mean(1).T, strict=True)
        if a.any()
    ]
    np.testing.assert_allclose(np.square(r), truth.ceiling(3)[: len(r)], atol=0.15)


def test_a_voxel_answers_to_contrast_in_its_receptive_field_alone(reader) -> None:
    truth = reader.truth("001")
    energy = local_energy(reader.images(reader.train), grid=8).mean(axis=(2, 3))
    answer = reader.answers("001", reader.train)
    hits = []
    for voxel in np.flatnonzero(np.array(truth.region) == "V1"):
        r = [np.corrcoef(answer[:, voxel], energy[:, place])[0, 1] for place in range(64)]
        best = np.array(divmod(int(np.argmax(r)), 8)) / 8 + 1 / 16
        hits.append(np.linalg.norm(best - truth.center[voxel]) < 0.15)
    assert np.mean(hits) > 0.7


def test_people_differ_and_runs_repeat(reader) -> None:
    first, again = reader.responses("001"), reader.responses("001")
    np.testing.assert_array_equal(first.values, again.values)
    assert np.abs(reader.truth("001").ncsnr - reader.truth("002").ncsnr).max() > 0.1
    signal = reader.load(reader.recordings()[0])
    np.testing.assert_array_equal(signal.data.T, first.values[: signal.data.shape[1]])
    places = {tuple(p) for p in first.sensors.position.round(6).tolist()}
    assert len(places) == 40 and first.sensors.frame == "mni"


def test_card_opens_and_wrong_arguments_are_named() -> None:
    assert len(open_corpus("simulated_picture_fmri").recordings()) == 12
    with pytest.raises(ValueError, match="9 repeats in 6 runs"):
        SyntheticPictureFMRIReader(repeats=9)


@pytest.mark.slow
def test_twenty_thousand_voxels() -> None:
    large = SyntheticPictureFMRIReader(
        subjects=1, runs=6, n_train=300, n_test=30, n_voxels=20_000, size=32
    )
    found = large.responses("001")
    assert found.values.shape == (990, 20_000)
    assert len({tuple(p) for p in found.sensors.position.round(6).tolist()}) == 20_000
