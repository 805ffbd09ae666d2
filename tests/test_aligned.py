"""Alignment in front of decoders: what it removes, and what it looks at."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from neurofm.cards import build
from neurofm.data import EuclideanAlignment, RiemannianAlignment
from neurofm.evaluate import Aligned, csp_lda, entropy_lda, tangent_lr

BOTH = pytest.mark.parametrize("kind", [EuclideanAlignment, RiemannianAlignment])


@functools.cache
def people(seed: int = 0, n: int = 24) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three people who mix the same four sources differently; class 1 has more of the first."""
    rng = np.random.default_rng(seed)
    x, y, groups = [], [], []
    for person in "abc":
        mixing = np.eye(4) + 0.8 * rng.standard_normal((4, 4))
        label = np.arange(n) % 2
        source = rng.standard_normal((n, 4, 120))
        source[:, 0] *= np.where(label, 2.0, 0.7)[:, None]
        x.append(rng.uniform(1, 30) * mixing @ source)
        y.append(label)
        groups += [person] * n
    return np.concatenate(x), np.concatenate(y), groups


@BOTH
def test_mixing_of_channels_is_removed_up_to_a_rotation(kind):
    x = people()[0][:24]
    mixing = np.random.default_rng(3).standard_normal((4, 4))
    one, other = kind().fit_transform(x), kind().fit_transform(mixing @ x)
    rotation = np.linalg.lstsq(one[0].T, other[0].T, rcond=None)[0].T
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(rotation @ one, other, atol=1e-2)


@BOTH
def test_causal_alignment_ends_where_offline_alignment_is(kind):
    x = people()[0][:24]
    offline, causal = kind().fit_transform(x), kind(mode="causal").transform(x)
    np.testing.assert_allclose(causal[-1], offline[-1], atol=1e-3)
    assert np.abs(causal[0] - offline[0]).max() > 0.1


@BOTH
def test_causal_alignment_does_not_look_ahead(kind):
    x = people()[0][:24]
    changed = x.copy()
    changed[10:] *= 30
    one, other = (kind(mode="causal").transform(data)[:10] for data in (x, changed))
    np.testing.assert_array_equal(one, other)


@BOTH
def test_alignment_continued_from_its_state_is_that_of_one_pass(kind):
    x = people()[0][:24]
    whole = kind(mode="causal").transform(x)
    first = kind.from_state(kind(mode="causal").fit(x[:10]).state())
    np.testing.assert_allclose(first.transform(x[10:]), whole[10:], atol=1e-3)


def test_the_riemannian_mean_of_aligned_windows_is_the_identity():
    x = people()[0][:24]
    aligned = RiemannianAlignment().fit_transform(x)
    np.testing.assert_allclose(
        RiemannianAlignment().fit(aligned).references[""], np.eye(4), atol=1e-3
    )


def test_windows_with_artefacts_move_the_riemannian_mean_less():
    x = people()[0][:24].copy()
    clean = [kind().fit(x).references[""] for kind in (EuclideanAlignment, RiemannianAlignment)]
    x[5, 1] *= 50
    moved = [kind().fit(x).references[""] for kind in (EuclideanAlignment, RiemannianAlignment)]
    change = [m[1, 1] / c[1, 1] for m, c in zip(moved, clean, strict=True)]
    assert change[0] > 10
    assert change[1] < change[0] / 3


@BOTH
def test_average_reference_and_a_flat_channel_stay_at_zero_and_are_named(kind):
    x = people()[0][:24].copy()
    x[:, 2] = 0.0
    with pytest.warns(UserWarning, match="rank 3 of 4 channels .channels 2 are flat"):
        aligned = kind().fit_transform(x)
    np.testing.assert_allclose(aligned[:, 2], 0, atol=1e-6)
    x = people()[0][:24]
    x = x - x.mean(axis=1, keepdims=True)
    with pytest.warns(UserWarning, match="rank 3 of 4"):
        aligned = kind().fit_transform(x)
    assert np.abs(aligned).max() < 30
    np.testing.assert_allclose(aligned.sum(axis=1), 0, atol=1e-3)


@BOTH
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_constant_windows_before_others_become_zeros_causally_and_are_refused_alone(kind, level):
    x = people()[0][:24].copy()
    x[:2] = level
    aligned = kind(mode="causal").transform(x)
    assert not aligned[:2].any() and np.isfinite(aligned).all() and aligned[2].any()
    with pytest.raises(ValueError, match="4 channels of windows are constant"):
        kind().fit_transform(x[:2])


@BOTH
def test_windows_shorter_than_channels_are_aligned(kind):
    x = people()[0][:24, :, :3]
    aligned = kind().fit_transform(x)
    assert np.isfinite(aligned).all()


def test_missing_samples_are_named_by_window_and_channel():
    x = people()[0][:4].copy()
    x[2, 3, 5] = np.inf
    with pytest.raises(ValueError, match="window 2 contains NaN or infinity, first in channel 3"):
        RiemannianAlignment().fit(x)


@pytest.mark.parametrize("metric", ["euclidean", "riemannian"])
@pytest.mark.parametrize("mode", ["offline", "causal"])
def test_a_new_person_is_decoded_after_alignment(metric, mode):
    x, y, groups = people()
    decoder = Aligned(tangent_lr(), metric=metric, mode=mode)
    decoder.fit(x[:48], y[:48], groups=groups[:48])
    p = decoder.predict_proba(x[48:], groups=groups[48:])[:, 1]
    assert decoder.align == f"{metric} {mode}"
    assert roc_auc_score(y[48:], p) > 0.8


def test_training_alignment_sees_no_test_window_and_refuses_strangers():
    x, y, groups = people()
    decoder = Aligned(csp_lda(n_components=2), mode="train").fit(x[:40], y[:40], groups=groups[:40])
    alone = decoder.predict_proba(x[40:41], groups=["b"])
    together = decoder.predict_proba(x[40:48], groups=groups[40:48])
    np.testing.assert_allclose(alone[0], together[0])
    with pytest.raises(ValueError, match="group 'c' was fitted"):
        decoder.predict_proba(x[48:], groups=groups[48:])


def test_each_person_of_the_test_side_is_aligned_alone():
    x, y, groups = people()
    decoder = Aligned(csp_lda(n_components=2)).fit(x[:24], y[:24])
    both = decoder.predict_proba(x[24:], groups=groups[24:])
    np.testing.assert_allclose(both[:24], decoder.predict_proba(x[24:48]))
    assert decoder.predict(x[24:], groups=groups[24:]).tolist() == both.argmax(1).tolist()


def test_aligned_decoders_come_from_cards_and_hand_on_the_rate():
    x, y, groups = people()
    spec = {
        "class_path": "neurofm.evaluate.Aligned",
        "init_args": {
            "estimator": {
                "class_path": "neurofm.evaluate.entropy_lda",
                "init_args": {"bands": [[4.0, 20.0]]},
            },
            "mode": "causal",
        },
    }
    fitted = clone(build(spec)).fit(x, y, groups=groups, sfreq=100.0)
    same = Aligned(entropy_lda(bands=[(4.0, 20.0)], sfreq=100.0), mode="causal")
    same.fit(x, y, groups=groups)
    np.testing.assert_allclose(
        fitted.predict_proba(x, groups=groups), same.predict_proba(x, groups=groups)
    )


def test_unknown_ways_of_alignment_are_refused():
    x, y, _ = people()
    with pytest.raises(ValueError, match="mode 'later'; expected euclidean or riemannian, and"):
        Aligned(csp_lda(), mode="later").fit(x, y)  # type: ignore[arg-type]
