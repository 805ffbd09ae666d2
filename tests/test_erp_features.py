"""Manual features of windows: closed forms, names, edges."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from neurofm.evaluate import FeatureClassifier, WindowFeatures
from neurofm.evaluate.erp_features import UNITS

SFREQ = 200.0
TIME = np.arange(200) / SFREQ


def features(signal: np.ndarray, *, sfreq: float = SFREQ) -> dict[str, float]:
    """Name to value, of one channel."""
    transform = WindowFeatures("all", sfreq=sfreq, channels=["Cz"])
    values = transform.fit_transform(np.asarray(signal, dtype=float)[None, None])[0]
    names = [name.removeprefix("Cz_") for name in transform.get_feature_names_out()]
    return dict(zip(names, values.tolist(), strict=True))


def test_counts_are_those_of_the_paper() -> None:
    assert len(UNITS["eeg"]) == 31
    assert len(UNITS["erp"]) == 91
    assert sum("segment" in name for name in UNITS["erp"]) == 75
    assert not set(UNITS["eeg"]) & set(UNITS["erp"])


@pytest.mark.parametrize(("chosen", "count"), [("eeg", 31), ("erp", 91), ("all", 122)])
def test_every_column_has_a_name_and_a_unit(chosen: str, count: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 50))
    transform = WindowFeatures(chosen, channels=["Fz", "Pz"])
    names = transform.fit(x).get_feature_names_out().tolist()
    assert transform.transform(x).shape == (3, 2 * count)
    assert len(set(names)) == len(transform.units()) == 2 * count
    assert names[count].startswith("Pz_")


def test_sine_has_its_power_and_frequency() -> None:
    found = features(6 * np.sin(2 * np.pi * 10 * TIME) + 5)
    assert found["mean"] == pytest.approx(5)
    assert found["std"] == pytest.approx(6 / np.sqrt(2))
    assert found["total_power"] == pytest.approx(18)
    assert found["alpha_power"] == pytest.approx(18)
    assert found["alpha_share"] == pytest.approx(1)
    assert found["theta_share"] == pytest.approx(0, abs=1e-12)
    for name in ("centroid", "median_freq", "peak_freq"):
        assert found[name] == pytest.approx(10)
    # A Hann window spreads a line over three bins, 1/6, 2/3, 1/6 of the power.
    assert found["bandwidth"] == pytest.approx(np.sqrt(1 / 3))
    entropy = -(np.log(2 / 3) * 2 / 3 + np.log(1 / 6) / 3) / np.log(100)
    assert found["spectral_entropy"] == pytest.approx(entropy)
    # One step turns a sine into a cosine of 2 sin(pi f / sfreq) times its amplitude.
    slope = 2 * np.sin(np.pi * 10 / SFREQ) * SFREQ
    assert found["mobility"] == pytest.approx(slope, rel=0.01)
    assert found["complexity"] == pytest.approx(1, rel=0.01)
    assert found["kurtosis"] == pytest.approx(-1.5)
    assert found["skewness"] == pytest.approx(0, abs=1e-9)


def test_ramp_rises_alike_in_every_segment() -> None:
    found = features(np.arange(200.0))
    assert found["mean_step"] == pytest.approx(1)
    assert found["level1_segment0_line_length"] == pytest.approx(199)
    for k in range(8):
        assert found[f"level8_segment{k}_mean"] == pytest.approx(25 * k + 12)
        assert found[f"level8_segment{k}_peak_to_peak"] == pytest.approx(24)
        assert found[f"level8_segment{k}_std"] == pytest.approx(np.sqrt((25**2 - 1) / 12))
    assert (found["positive_latency"], found["negative_latency"]) == (1, 0)
    assert found["permutation_entropy"] == 0
    assert found["amplitude_entropy"] == pytest.approx(1, abs=1e-3)
    assert found["mobility"] == pytest.approx(0, abs=1e-6)
    assert found["complexity"] == 0


def test_impulse_is_found_where_it_is() -> None:
    x = np.zeros(201)
    x[50] = 8
    found = features(x)
    assert (found["positive_peak"], found["positive_latency"]) == (8, 0.25)
    assert (found["negative_peak"], found["negative_latency"]) == (0, 0)
    assert found["level4_segment0_peak_to_peak"] == 0  # samples 0 to 49
    assert found["level4_segment1_rms"] == pytest.approx(8 / np.sqrt(50))
    # All frequencies alike, but for those that taking the mean off touches.
    assert found["flatness"] > 0.99
    assert found["spectral_entropy"] > 0.999


@pytest.mark.parametrize("n", [200, 201])
def test_total_power_of_noise_is_its_variance(n: int) -> None:
    x = np.random.default_rng(1).normal(scale=3, size=(400, 1, n))
    transform = WindowFeatures("eeg", sfreq=SFREQ).fit(x)
    power = transform.transform(x)[:, list(UNITS["eeg"]).index("total_power")]
    assert power.mean() == pytest.approx(9, rel=0.03)


def test_flat_channel_has_zeros_beside_its_level() -> None:
    found = features(np.full(200, 7.3))
    assert found.pop("mean") == pytest.approx(7.3)
    levels = {"median", "minimum", "maximum", "rms", "positive_peak", "negative_peak"}
    rest = [v for k, v in found.items() if k not in levels and not k.endswith(("mean", "_rms"))]
    assert np.abs(rest).max() == 0


def test_two_samples_are_enough() -> None:
    found = features(np.array([1.0, 3.0]))
    assert np.isfinite(list(found.values())).all()
    assert found["level8_segment0_mean"] == 1
    assert found["level8_segment7_mean"] == 3
    with pytest.raises(ValueError, match="at least two samples"):
        features(np.array([1.0]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_sample_is_named(bad: float) -> None:
    x = np.zeros((4, 3, 20))
    x[2, 1, 5] = bad
    with pytest.raises(ValueError, match=r"window 2, channel 1 has NaN or infinity"):
        WindowFeatures().fit(x)


def test_windows_do_not_depend_on_their_company(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).normal(size=(7, 3, 64))
    whole = WindowFeatures().fit_transform(x)
    monkeypatch.setattr("neurofm.evaluate.erp_features._BLOCK", 2 * 3 * 64)
    np.testing.assert_array_equal(WindowFeatures().fit_transform(x), whole)


def test_rate_moves_frequencies_and_not_their_shares() -> None:
    x = np.random.default_rng(3).normal(size=200)
    slow, fast = features(x, sfreq=100), features(x, sfreq=200)
    for name in ("centroid", "median_freq", "peak_freq", "bandwidth", "mobility"):
        assert fast[name] == pytest.approx(2 * slow[name])
    for name in ("complexity", "flatness", "spectral_entropy", "total_power"):
        assert fast[name] == pytest.approx(slow[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": "both"}, "expected 'eeg', 'erp' or 'all'"),
        ({"sfreq": 0.0}, "sfreq is 0"),
        ({"channels": ["Cz", "Pz"]}, "2 names for 1 channels"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowFeatures(**arguments).fit(np.zeros((1, 1, 8)))


def test_other_channels_than_fitted_are_refused() -> None:
    transform = WindowFeatures().fit(np.zeros((1, 2, 8)))
    with pytest.raises(ValueError, match="windows of 3 channels, fitted on 2"):
        transform.transform(np.zeros((1, 3, 8)))


def test_classifier_finds_a_late_wave_and_not_shuffled_labels() -> None:
    generator = np.random.default_rng(4)
    y = np.repeat([0, 1], [160, 40])
    x = generator.normal(scale=4, size=(200, 2, 64))
    x[y == 1, 0, 30:45] += 6
    train = np.arange(200) % 2 == 0

    def score(labels: np.ndarray) -> float:
        model = clone(FeatureClassifier("erp", seed=1)).fit(x[train], labels[train], sfreq=64.0)
        hit = model.predict(x[~train]) == labels[~train]
        return float(np.mean([hit[labels[~train] == k].mean() for k in (0, 1)]))

    assert score(y) > 0.9
    assert 0.3 < score(generator.permutation(y)) < 0.7


def test_rounding_behind_a_low_pass_does_not_make_a_spectrum_flat(
    rng: np.random.Generator,
) -> None:
    low = np.fft.rfft(rng.normal(size=(40, 200)) * 10)
    low[:, 30:] = 0  # nothing above 30 Hz
    smooth = np.fft.irfft(low, 200)
    rounded = np.round(smooth / 0.05) * 0.05  # µV, what 16 bits leave beside large artefacts
    flat = np.array([[features(x)["flatness"] for x in part] for part in (smooth, rounded)])
    assert np.abs(flat[0] - flat[1]).max() < 0.05 * flat[0].std()
