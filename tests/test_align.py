from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from neurofm.data import EuclideanAlignment

GOLDEN = Path(__file__).parent / "golden"


def windows(seed: int = 0, n: int = 12, channels: int = 5, times: int = 100) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # Orthogonal times a gain per channel: never near to singular.
    mixing = np.linalg.qr(rng.standard_normal((channels, channels)))[0]
    mixing *= rng.uniform(0.5, 2, channels)
    return 10 * mixing @ rng.standard_normal((n, channels, times))


def mean_covariance(x: np.ndarray) -> np.ndarray:
    return np.mean([np.cov(window) for window in x], axis=0)


@pytest.mark.golden
def test_offline_alignment_equals_mirepnet():
    expected = load_file(GOLDEN / "mirepnet" / "preprocessing.safetensors")
    aligned = EuclideanAlignment().fit_transform(expected["x"])
    assert aligned.dtype == np.float32
    # float32 rounding of values of a few units
    np.testing.assert_allclose(aligned, expected["ea"], rtol=2e-7, atol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize(("mode", "key"), [("offline", "offline"), ("causal", "online")])
def test_alignment_equals_dbconformer(mode: Literal["offline", "causal"], key: str):
    expected = load_file(
        GOLDEN / "dbconformer_alignment" / "fixture_euclidean_alignment.safetensors"
    )
    alignment = EuclideanAlignment(mode=mode)
    aligned = alignment.fit_transform(expected["in.x"])
    np.testing.assert_allclose(aligned, expected[f"out.{key}"], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        alignment.references[""], expected["out.final_reference"], rtol=1e-6, atol=1e-8
    )


def test_aligned_twice_is_offline_and_then_online_for_each_group():
    x, groups = np.concatenate([windows(1), 7 * windows(2)]), ["a"] * 12 + ["b"] * 12
    once = EuclideanAlignment().fit_transform(x, groups)
    again = EuclideanAlignment(mode="causal").fit_transform(once, groups)
    twice = EuclideanAlignment(mode="twice").fit_transform(x, groups)
    np.testing.assert_array_equal(twice, again)
    assert np.abs(twice - once).max() > 0.1  # the first trials are whitened by themselves
    fitted = EuclideanAlignment(mode="twice").fit(x, groups)
    np.testing.assert_array_equal(fitted.transform(x[:3], groups[:3]), twice[:3])
    with pytest.raises(ValueError, match="before anything was fitted"):
        EuclideanAlignment(mode="twice").transform(x)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), channels=st.integers(1, 8))
def test_mean_covariance_of_aligned_windows_is_the_identity(seed: int, channels: int):
    aligned = EuclideanAlignment().fit_transform(windows(seed, channels=channels))
    np.testing.assert_allclose(mean_covariance(aligned), np.eye(channels), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_spectra_of_aligned_covariances_do_not_depend_on_the_mixing(seed: int):
    x = windows(seed)
    rng = np.random.default_rng(seed + 1)
    mixing = np.linalg.qr(rng.standard_normal((5, 5)))[0] * rng.uniform(0.5, 2, 5)
    one = EuclideanAlignment().fit_transform(x)
    other = EuclideanAlignment().fit_transform(mixing @ x)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(
            np.linalg.eigvalsh(np.cov(a)), np.linalg.eigvalsh(np.cov(b)), rtol=1e-3, atol=1e-4
        )


def test_each_group_is_aligned_with_its_own_reference():
    x = np.concatenate([windows(1), 7 * windows(2)])
    groups = ["a"] * 12 + ["b"] * 12
    aligned = EuclideanAlignment().fit_transform(x, groups)
    np.testing.assert_array_equal(aligned[:12], EuclideanAlignment().fit_transform(x[:12]))
    np.testing.assert_array_equal(aligned[12:], EuclideanAlignment().fit_transform(x[12:]))


def test_order_of_interleaved_groups_does_not_matter_offline():
    x = np.concatenate([windows(1), 7 * windows(2)])
    groups = np.array(["a"] * 12 + ["b"] * 12)
    order = np.random.default_rng(0).permutation(24)
    aligned = EuclideanAlignment().fit_transform(x, groups.tolist())
    shuffled = EuclideanAlignment().fit_transform(x[order], groups[order].tolist())
    np.testing.assert_allclose(shuffled, aligned[order], atol=1e-5)


def test_test_windows_do_not_change_an_offline_fit():
    train, test = windows(1), windows(2)
    alignment = EuclideanAlignment().fit(train)
    before = json.dumps(alignment.state())
    first = alignment.transform(test)
    alignment.transform(1000 * test)
    assert json.dumps(alignment.state()) == before
    np.testing.assert_array_equal(alignment.transform(test), first)


def test_causal_alignment_never_looks_ahead():
    x = windows(3)
    whole = EuclideanAlignment(mode="causal").transform(x)
    changed = x.copy()
    changed[6:] *= 50
    np.testing.assert_array_equal(
        EuclideanAlignment(mode="causal").transform(changed)[:6], whole[:6]
    )


def test_causal_alignment_in_two_parts_equals_one_pass():
    x = windows(3)
    whole = EuclideanAlignment(mode="causal").transform(x)
    parts = EuclideanAlignment(mode="causal")
    first = parts.transform(x[:5])
    parts.update(x[:5])
    np.testing.assert_allclose(np.concatenate([first, parts.transform(x[5:])]), whole, atol=1e-5)


def test_average_reference_is_aligned_without_blowing_up_and_announced_once():
    x = windows(4).astype(np.float32)
    x -= x.mean(1, keepdims=True)
    alignment = EuclideanAlignment()
    with pytest.warns(UserWarning, match="rank 4 of 5") as caught:
        aligned = alignment.fit_transform(x)
        alignment.transform(x)
    assert len(caught) == 1
    np.testing.assert_allclose(
        np.linalg.eigvalsh(mean_covariance(aligned)), [0, 1, 1, 1, 1], atol=1e-4
    )


def test_alignment_before_fit_is_refused_with_what_is_known():
    alignment = EuclideanAlignment().fit(windows(), ["a"] * 12)
    with pytest.raises(ValueError, match=r"group 'b' was fitted \(fitted: 'a'\)"):
        alignment.transform(windows(), ["b"] * 12)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.full((3, 2, 10), np.nan), "window 0 contains NaN"),
        (np.ones((3, 2, 10)), "constant"),
        (np.ones((3, 2, 1)), "1 samples"),
        (np.ones((0, 2, 10)), "no windows"),
    ],
)
def test_windows_that_cannot_be_aligned_are_refused(x: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        EuclideanAlignment().fit_transform(x)


def test_other_montage_than_fitted_is_refused():
    with pytest.raises(ValueError, match="fitted on 5 channels, got 4"):
        EuclideanAlignment().fit(windows()).transform(windows(channels=4))


def test_alignment_state_survives_json():
    alignment = EuclideanAlignment().fit(windows(), ["a"] * 6 + ["b"] * 6)
    again = EuclideanAlignment.from_state(json.loads(json.dumps(alignment.state())))
    groups = ["b"] * 12
    np.testing.assert_array_equal(
        again.transform(windows(5), groups), alignment.transform(windows(5), groups)
    )
