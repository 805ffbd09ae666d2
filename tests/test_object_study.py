"""The 92-image data and its simulation: the same shape, and the answers that are known."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from neurofm.interpret import rsa
from neurofm.io import ObjectStudy, read_object_study, simulate_object_study


@pytest.fixture(scope="module")
def study() -> ObjectStudy:
    return simulate_object_study()


def test_simulation_has_the_shape_of_the_data(study: ObjectStudy) -> None:
    assert study.pictures.shape == (92, 64, 64, 3) and study.pictures.dtype == np.uint8
    assert len(study.people) == 4 and all(len(one) == 2 for one in study.sessions.values())
    assert sum(study.animate) == 48 and len(set(study.category)) == 6
    assert all(len(one.values) == 4186 for one in (study.monkey, *study.models.values()))


def test_simulated_people_and_monkey_share_categories(study: ObjectStudy) -> None:
    people = np.stack([one.values for one in study.people.values()])
    found = rsa.resample(study.monkey.values[None], people, "corr")
    assert 0.3 < found.scores[0, 0] < found.ceiling[0, 0] < 0.9
    animacy = rsa.class_rdm(study.animate, names=study.monkey.labels)
    assert rsa.compare_rdms(study.monkey, animacy, "rho-a") > 0.2


def test_a_selection_keeps_everything_together(study: ObjectStudy) -> None:
    some = study.select([3, 50, 7])
    assert some.category == tuple(study.category[i] for i in (3, 50, 7))
    assert some.monkey.labels == ("4", "51", "8")
    assert some.monkey.values[0] == study.monkey.square()[3, 50]
    np.testing.assert_array_equal(some.pictures, study.pictures[[3, 50, 7]])


def test_another_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="92_brainRDMs"):
        read_object_study(tmp_path)


@pytest.mark.corpus
def test_human_and_monkey_it_share_category_structure() -> None:
    folder = Path(os.environ.get("NEUROFM_DATA", "/nowhere")) / "rsa92"
    if not folder.is_dir():
        pytest.skip("needs rsa92 under $NEUROFM_DATA")
    study = read_object_study(folder)
    assert study.pictures.shape == (92, 175, 175, 3) and len(study.people) == 4
    mean = study.monkey.__class__(
        np.mean([one.values for one in study.people.values()], 0),
        study.monkey.labels,
        "correlation",
    )
    assert rsa.compare_rdms(mean, study.monkey, "corr") == pytest.approx(0.48, abs=0.05)
    animacy = study.models["animacy"]
    for one in (mean, study.monkey):
        assert rsa.compare_rdms(one, animacy, "rho-a") > 0.2
