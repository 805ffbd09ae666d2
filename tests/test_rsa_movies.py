"""RDMs over time and at every place, against loops over RDMs and planted answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from neurofm.interpret import rsa

N, RUNS, CHANNELS, TIMES = 6, 3, 5, 8
CONDITIONS = list(range(N)) * RUNS
RUN = np.repeat(range(RUNS), N).tolist()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def epochs(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N * RUNS, CHANNELS, TIMES))


def test_a_movie_is_an_rdm_at_every_moment(epochs: np.ndarray) -> None:
    noise = np.diag([1.0, 2, 3, 4, 5])
    film = rsa.movie(epochs, CONDITIONS, RUN, noise=noise, times=np.arange(TIMES) / 100)
    for t in (0, 5):
        one = rsa.crossnobis(epochs[:, :, t], CONDITIONS, RUN, noise=noise)
        np.testing.assert_allclose(film.values[t], one.values, atol=1e-12)
    assert film.at(0.052).values is not None and film.times[5] == 0.05
    plain = rsa.movie(epochs, CONDITIONS, metric="correlation")
    means = epochs.reshape(RUNS, N, CHANNELS, TIMES).mean(0)
    np.testing.assert_allclose(plain.values[2], rsa.rdm(means[:, :, 2]).values, atol=1e-12)


@pytest.mark.parametrize("how", ["concat", "mean"])
def test_windows_are_further_channels_or_an_average(how: str, epochs: np.ndarray) -> None:
    film = rsa.movie(epochs, CONDITIONS, RUN, window=3, step=2, how=how)
    part = epochs[:, :, 2:5]
    flat = part.mean(2) if how == "mean" else part.reshape(len(part), -1)
    np.testing.assert_allclose(film.values[1], rsa.crossnobis(flat, CONDITIONS, RUN).values)
    assert film.times.tolist() == [1, 3, 5]


def test_noise_may_change_over_time(epochs: np.ndarray) -> None:
    noise = np.stack([(1 + t) * np.eye(CHANNELS) for t in range(TIMES)])
    film = rsa.movie(epochs, CONDITIONS, RUN, noise=noise)
    white = rsa.movie(epochs, CONDITIONS, RUN)
    np.testing.assert_allclose(film.values * np.arange(1, TIMES + 1)[:, None], white.values)


def test_generalised_distances_hold_crossnobis_on_their_diagonal(epochs: np.ndarray) -> None:
    noise = np.diag([1.0, 2, 3, 4, 5])
    found = rsa.generalised_crossnobis(epochs, CONDITIONS, RUN, noise=noise)
    film = rsa.movie(epochs, CONDITIONS, RUN, noise=noise)
    np.testing.assert_allclose(np.einsum("ttp->tp", found), film.values, atol=1e-12)
    np.testing.assert_allclose(found, found.swapaxes(0, 1))
    one_way = rsa.generalised_crossnobis(epochs, CONDITIONS, RUN, symmetric=False)
    by_run = epochs.reshape(RUNS, N, CHANNELS, TIMES)
    expected = np.mean(
        [
            (np.delete(by_run, f, 0)[:, 0, :, 1] - np.delete(by_run, f, 0)[:, 3, :, 1]).mean(0)
            @ (by_run[f, 0, :, 6] - by_run[f, 3, :, 6])
            for f in range(RUNS)
        ]
    )
    np.testing.assert_allclose(one_way[1, 6, 2], expected / CHANNELS)


def test_the_time_of_a_planted_code_is_found(rng: np.random.Generator) -> None:
    code = rng.normal(size=(20, 8))
    model = rsa.rdm(code, "euclidean")
    strength = np.exp(-((np.arange(30) - 12) ** 2) / 18)
    films = {}
    for person in range(5):
        noise = rng.normal(size=(40, 8, 30))
        trials = np.tile(code, (2, 1))[:, :, None] * strength + 0.7 * noise
        films[f"p{person}"] = rsa.movie(
            trials, list(range(20)) * 2, [0] * 20 + [1] * 20, times=np.arange(30) / 100
        )
    others = [rsa.rdm(rng.normal(size=(20, 8)), "euclidean") for _ in range(9)]
    # Flips over people say nothing of other stimuli: a model that resembles by chance is found.
    unlike = min(others, key=lambda one: rsa.compare_rdms(one, model, "corr"))
    layers = {"early": unlike, "late": model}
    found = rsa.compare_over_time(layers, films, generator=rng, method="corr", n_permutations=64)
    assert found.test is not None
    assert found.test.significant()[1, 10:15].all() and not found.test.significant()[0].any()
    onset = found.latencies(generator=rng, kind="onset")[1]
    peak = found.latencies(generator=rng)[1]
    assert abs(peak.value - 0.12) <= 0.02 and peak.low <= peak.value <= peak.high
    assert 0.05 <= onset.value < peak.value and peak.unit == "s"
    assert found.plot().axes and found.test.plot().axes
    film = films["p0"]
    assert film.plot().axes and film.plot(model, method="corr").axes
    assert film.compare(model, "corr").argmax() in range(9, 16)


def test_onset_and_peak_of_a_known_course(rng: np.random.Generator) -> None:
    course = np.tile([9.0, 0, 0, 1, 4, 8, 3, 0], (3, 1))
    times = np.arange(-1, 7) / 10
    about = {"generator": rng, "after": 0, "n_bootstrap": 9}
    assert rsa.latency(course, times, kind="onset", **about).value == pytest.approx(0.3)
    assert rsa.latency(course, times, kind="peak", **about).value == pytest.approx(0.4)
    assert np.isnan(rsa.latency(-course - 1, times, **about).value)
    with pytest.raises(ValueError, match="no moment after 3"):
        rsa.latency(course, times, generator=rng, after=3)


def test_bad_movies_are_named(epochs: np.ndarray, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"expected \(trial, channel, time\)"):
        rsa.movie(epochs[0], CONDITIONS, RUN)
    with pytest.raises(ValueError, match="`runs` belong to"):
        rsa.movie(epochs, CONDITIONS)
    with pytest.raises(ValueError, match="at least two runs"):
        rsa.movie(epochs, CONDITIONS, [0] * len(RUN))
    with pytest.raises(ValueError, match="condition 0 does not occur in run 1"):
        rsa.movie(epochs, CONDITIONS, np.where(np.array(CONDITIONS) == 0, 0, RUN).tolist())
    with pytest.raises(ValueError, match="windows of 9 samples"):
        rsa.movie(epochs, CONDITIONS, RUN, window=9)
    film = rsa.movie(epochs, CONDITIONS, RUN)
    with pytest.raises(ValueError, match="expected the same in the same order"):
        film.compare(rsa.rdm(rng.normal(size=(N, 3)), labels=list("abcdef")))


def neighbourhoods(rng: np.random.Generator) -> tuple[np.ndarray, rsa.Neighbourhoods]:
    mask = rng.random((5, 5, 5)) > 0.2
    return mask, rsa.volume_spheres(mask, radius=2, min_places=4)


def one_by_one(around: rsa.Neighbourhoods) -> list[np.ndarray]:
    return np.split(around.incidence.indices, around.incidence.indptr[1:-1])


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_searchlight_is_a_loop_over_rdms(metric: str, rng, monkeypatch) -> None:
    mask, around = neighbourhoods(rng)
    x = 100 + rng.normal(size=(6, int(mask.sum())))
    found = rsa.searchlight_rdms(x, around, metric=metric)
    loop = [rsa.rdm(x[:, inside], metric).values for inside in one_by_one(around)]
    np.testing.assert_allclose(found, loop, atol=1e-11)
    monkeypatch.setattr("neurofm.interpret.rsa.searchlight._BLOCK", 1)
    np.testing.assert_allclose(
        rsa.searchlight_rdms(x, around, metric=metric), found, rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("diagonal", [False, True])
def test_whitened_searchlight_is_a_loop_over_crossnobis(diagonal: bool, rng) -> None:
    mask, around = neighbourhoods(rng)
    x, noise = rng.normal(size=(3, 5, mask.sum())), rng.normal(size=(30, mask.sum()))
    found = rsa.searchlight_rdms(x, around, metric="crossnobis", residuals=noise, diagonal=diagonal)
    kind = "diag" if diagonal else "shrinkage_diag"
    for inside, got in list(zip(one_by_one(around), found, strict=True))[::9]:
        covariance = rsa.noise_covariance(noise[:, inside], kind)
        expected = rsa.crossnobis_distances(x[:, :, inside], noise=covariance)
        np.testing.assert_allclose(got, expected, atol=1e-11)


def test_a_planted_place_is_found(rng: np.random.Generator) -> None:
    mask = np.ones((7, 7, 3), dtype=bool)
    model = rsa.class_rdm([0, 0, 0, 0, 1, 1, 1, 1])
    x = rng.normal(size=(8, *mask.shape))
    planted = 2 * rng.normal(size=(3, 3, 3))
    x[:4, 1:4, 1:4, :] += planted
    x[4:, 1:4, 1:4, :] -= planted
    around = rsa.volume_spheres(mask, radius_mm=3, affine=np.diag([2.0, 2, 2, 1]))
    found = rsa.searchlight_rsa(x[:, mask], model.values, around, method="rho-a")
    volume = found.volume(mask)
    assert volume[2, 2].min() > 0.5 > 0.3 > np.nanmean(volume[5:, 5:])
    assert found.peak().value == np.nanmax(found.scores)
    assert found.plot(mask).axes
    loop = [rsa.rdm(x[:, mask][:, one]).values for one in one_by_one(around)]
    np.testing.assert_allclose(
        found.scores, rsa.compare(np.stack(loop), model.values[None], "rho-a")[:, 0]
    )


def test_a_centre_without_distances_takes_none_from_others(rng: np.random.Generator) -> None:
    around = rsa.sensor_neighbours(np.eye(6, k=1), min_places=3)
    x = rng.normal(size=(5, 6))
    model = rng.normal(size=10)
    whole = rsa.searchlight_rsa(x, model, around).scores
    x[2, :3] = 1.0  # constant around the second sensor
    found = rsa.searchlight_rsa(x, model, around).scores
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[3:], whole[3:])


def test_spheres_discs_and_sensors() -> None:
    mask = np.ones((3, 3, 3), dtype=bool)
    assert rsa.volume_spheres(mask, radius=1.0, min_places=1).sizes.tolist() == [1] * 27
    touching = rsa.volume_spheres(mask, radius_mm=2, affine=np.diag([2.0, 2, 2, 1]), min_places=7)
    assert touching.centre.tolist() == [13] and touching.dropped == 26
    # A strip folded back on itself: ends are near in space, far along the surface.
    along = np.array([[x, y, 0.0] for x in range(4) for y in (0, 1)])
    back = along + np.array([0, 0, 0.5])
    vertices = np.concatenate([along, back[::-1]])
    faces = [[i, i + 1, i + 2] for i in range(len(vertices) - 2)]
    discs = rsa.surface_discs(vertices, np.array(faces), radius=1.5, min_places=1)
    assert discs.incidence[[0], [15]] == 0 and discs.incidence[[0], [2]] == 1
    chain = sparse.diags_array([1.0], offsets=[1], shape=(5, 5))
    assert rsa.sensor_neighbours(chain).sizes.tolist() == [2, 3, 3, 3, 2]
    assert rsa.sensor_neighbours(chain, order=2).sizes.tolist() == [3, 4, 5, 4, 3]
    assert np.isnan(touching.spread(np.ones(1))[0]) and touching.spread(np.ones(1))[13] == 1


def test_bad_searchlights_are_named(rng: np.random.Generator) -> None:
    mask, around = neighbourhoods(rng)
    x = rng.normal(size=(6, int(mask.sum())))
    with pytest.raises(ValueError, match="no centre has 99 places"):
        rsa.volume_spheres(mask, radius=2, min_places=99)
    with pytest.raises(ValueError, match="radius_mm` with `affine"):
        rsa.volume_spheres(mask, radius_mm=2)
    with pytest.raises(ValueError, match="Take both"):
        rsa.searchlight_rdms(x[:, 1:], around)
    with pytest.raises(ValueError, match="crossnobis needs"):
        rsa.searchlight_rdms(x, around, metric="crossnobis")
    with pytest.raises(ValueError, match="takes no `residuals`"):
        rsa.searchlight_rdms(x, around, residuals=x)
    x[0, 0] = np.inf
    with pytest.raises(ValueError, match="1 values are infinite"):
        rsa.searchlight_rdms(x, around)
