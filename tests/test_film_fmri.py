"""Simulated films: responses follow features as planted, late and with the noise that is said."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.data import ResponseData
from neurofm.io import SyntheticFilmReader, open_corpus
from neurofm.linear import VoxelwiseRidge


@pytest.fixture(scope="module")
def reader() -> SyntheticFilmReader:
    return SyntheticFilmReader(subjects=2, runs=6, segments=8, n_parcels=40, dim=8, rank=3)


def lagged(features: np.ndarray, volumes: int = 4) -> np.ndarray:
    """Means over a second, of the volumes around the one that answers five seconds later."""
    second = features.reshape(-1, 2, features.shape[-1]).mean(1)
    return np.concatenate([np.roll(second, k, 0) for k in range(-2, volumes)], 1)


def by_film(reader: SyntheticFilmReader, subject: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lagged features and responses of all films, and which film."""
    found = reader.responses(subject)
    films = np.array(found.run)
    x = np.concatenate(
        [
            lagged(reader.images([s for s, f in zip(found.stimulus, films, strict=True) if f == r]))
            for r in dict.fromkeys(found.run)
        ]
    )
    y = found.values.transpose(0, 2, 1).reshape(-1, reader.n_parcels)
    return x, y, np.repeat(films, reader.volumes)


def scores(reader: SyntheticFilmReader) -> np.ndarray:
    """Correlations in the test film of a ridge with delays; the first person's."""
    x, y, film = by_film(reader, "001")
    test = film == f"{reader.runs:02d}"
    ridge = VoxelwiseRidge(np.logspace(0, 5, 6))
    ridge.fit(x[~test].astype(np.float32), y[~test], groups=film[~test])
    said = ridge.predict(x[test].astype(np.float32))
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(said.T, y[test].T, strict=True)])


def test_one_kind_is_read_up_to_the_ceiling_and_products_are_not(
    reader: SyntheticFilmReader,
) -> None:
    truth = reader.truth()
    region, r = np.array(truth.region), scores(reader)
    single = np.isin(region, ("visual", "auditory", "language"))
    assert r[single].mean() > 0.8 * truth.ceiling()[single].mean()
    assert abs(r[region == "joint"].mean()) < 0.15
    assert abs(r[region == "none"].mean()) < 0.15
    assert (truth.ceiling()[region == "none"] == 0).all()


def test_noise_is_as_large_as_said(reader: SyntheticFilmReader) -> None:
    recording = reader.recordings()[0]
    found = reader.load(recording).data - reader.answers("001", "01")
    assert found.std() == pytest.approx(1.0, abs=0.03)
    assert reader.answers("001", "01").std(1) == pytest.approx(reader.truth().signal)


def test_segments_are_the_films_read_later_by_the_delay(reader: SyntheticFilmReader) -> None:
    found, series = reader.responses("002"), reader.load(reader.recordings()[6]).data
    delay, n = int(reader.delay_s), reader.volumes
    np.testing.assert_array_equal(found.values[3], series[:, delay + 3 * n : delay + 4 * n])
    assert found.start_s == 5 and found.values.shape == (48, 40, 50)
    assert reader.images(found.stimulus[:2]).shape == (2, 100, 24)


def test_people_are_alike_and_not_the_same(reader: SyntheticFilmReader) -> None:
    one, two = (reader.answers(subject, "01") for subject in ("001", "002"))
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(one[:10], two[:10], strict=True)]
    assert 0.5 < np.mean(r) < 0.999


def test_whole_films_are_left_out_and_the_card_says_what_there_is(
    reader: SyntheticFilmReader,
) -> None:
    data = ResponseData(
        "simulated_films",
        reader={k: getattr(reader, k) for k in ("subjects", "runs", "segments", "n_parcels")},
        split_by="run",
        test=["06"],
        validate=["05"],
        standardize="all",
        batch_size=8,
    )
    batch = next(iter(data.test_dataloader()))
    assert batch.stimulus.shape == (8, 100, 96) and batch.y.shape == (8, 40, 50)
    assert len(open_corpus("simulated_films").recordings()) == 96


@pytest.mark.parametrize(
    ("change", "said"),
    [({"runs": 1}, "two films"), ({"rank": 40}, "40 of 32"), ({"delay_s": 2.5}, "whole volumes")],
)
def test_impossible_films_are_refused(change: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SyntheticFilmReader(**change)  # type: ignore[arg-type]


def test_unknown_segments_are_refused(reader: SyntheticFilmReader) -> None:
    with pytest.raises(ValueError, match="film-01/segment-00"):
        reader.images(["house_03"])
