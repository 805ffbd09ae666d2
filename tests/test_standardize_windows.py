from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from neurofm.data import Standardize
from neurofm.units import Kind


def windows(seed: int = 0, n: int = 12, channels: int = 5, times: int = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.standard_normal((channels, channels)))[0]
    return 10 * mixing @ rng.standard_normal((n, channels, times))


def test_standardized_training_windows_have_mean_zero_and_unit_scale():
    x = windows() * np.array([1, 10, 100, 1, 1])[:, None] + 5
    result = Standardize().fit(x).transform(x)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result.mean((0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(result.std((0, 2)), 1, atol=1e-4)


def test_statistics_do_not_see_test_windows():
    train, test = windows(1), 1000 + windows(2)
    scaler = Standardize().fit(train)
    before = scaler.state()
    result = scaler.transform(test)
    assert scaler.state() == before
    assert result.mean() > 5  # the shift of the test side is still there


def test_scale_per_kind_keeps_relative_amplitudes():
    x = windows() * np.array([1, 10, 1, 1, 10])[:, None]
    kind = np.array([Kind.EEG, Kind.EEG, Kind.MAG, Kind.MAG, Kind.MAG], dtype=np.int8)
    scaler = Standardize("kind").fit(x, kind)
    result = scaler.transform(x, kind)
    before, after = x.std((0, 2)), result.std((0, 2))
    assert after[1] / after[0] == pytest.approx(before[1] / before[0], rel=1e-3)
    assert result[:, :2].std() == pytest.approx(1, rel=1e-3)
    assert result[:, 2:].std() == pytest.approx(1, rel=1e-3)
    again = Standardize.from_state(json.loads(json.dumps(scaler.state())))
    np.testing.assert_array_equal(again.transform(x, kind), result)
    with pytest.raises(ValueError, match="unknown kind"):
        scaler.transform(x, np.full(5, Kind.SEEG, dtype=np.int8))


def test_standardize_before_fit_or_with_missing_samples_is_refused():
    with pytest.raises(ValueError, match="fit on the training windows"):
        Standardize().transform(windows())
    x = windows()
    x[0, 1, 0] = np.nan
    with pytest.raises(ValueError, match="channel 1 contains NaN"):
        Standardize().fit(x)
    with pytest.raises(ValueError, match="kind of each of the 5"):
        Standardize("kind").fit(windows())


def test_constant_channel_comes_out_as_zero():
    x = windows()
    x[:, 2] = 3.0
    with pytest.warns(UserWarning, match="1 of 5 channels are constant"):
        scaler = Standardize().fit(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(scaler.transform(x)[:, 2], 0)
