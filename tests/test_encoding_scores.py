"""Scores over the ceiling, their intervals, receptive fields and the figures of both."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.evaluate import score_encoding
from neurofm.report import (
    plot_against_ceiling,
    plot_fields,
    plot_pictures,
    plot_region_scores,
    plot_shares,
)
from neurofm.stimuli import gabor_layout, receptive_fields
from neurofm.types import Result


def planted(n=400, channels=30, *, signal=1.0, noise=1.0, seed=0):
    """Responses whose signal is known, and the largest correlation with them."""
    rng = np.random.default_rng(seed)
    truth = signal * rng.standard_normal((n, channels))
    ceiling = np.full(channels, signal / np.hypot(signal, noise))
    return truth, truth + noise * rng.standard_normal((n, channels)), ceiling


def test_the_true_signal_reaches_the_ceiling():
    truth, true, ceiling = planted()
    region = ["a"] * 10 + ["b"] * 20
    found = score_encoding(true, truth, ceiling, region=region)
    for name, count in (("a", 10), ("b", 20), ("all", 30)):
        result = found.regions[name]
        assert result.low < 1 < result.high and result.value == pytest.approx(1, abs=0.06)
        assert result.n == 400 and result.detail["channels"] == count and result.ceiling == 1
    other = score_encoding(true, np.random.default_rng(9).standard_normal(true.shape), ceiling)
    assert other.regions["all"].low < 0 < other.regions["all"].high


def test_intervals_hold_as_often_as_they_say():
    hits = 0
    for seed in range(40):
        truth, true, ceiling = planted(n=80, channels=1, seed=seed)
        result = score_encoding(true, truth, ceiling, n_bootstrap=200).regions["all"]
        hits += result.low <= 1 <= result.high
    assert hits >= 34


def test_low_ceilings_and_constant_channels_are_not_divided_by():
    truth, true, ceiling = planted(channels=4)
    ceiling = ceiling * [1, 0.1, 1, 1]
    true[:, 2] = 3
    found = score_encoding(true, truth, ceiling, region=["a", "b", "a", ""])
    assert np.isnan(found.normalised).tolist() == [False, True, True, False]
    assert found.regions["b"].detail == {"channels": 0, "of": 1}
    assert np.isnan(found.regions["b"].value) and found.regions["all"].detail["channels"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predicted": np.zeros((400, 29))}, r"predictions \(400, 29\)"),
        ({"ceiling": np.ones(3)}, r"ceiling \(3,\)"),
        ({"region": ["a"]}, "1 regions for 30 channels"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    truth, true, ceiling = planted()
    given = {"true": true, "predicted": truth, "ceiling": ceiling} | change
    with pytest.raises(ValueError, match=words):
        score_encoding(**given)


def test_planted_fields_are_found():
    layout = gabor_layout()
    rng = np.random.default_rng(0)
    center, angle = rng.uniform(0.15, 0.85, (12, 2)), rng.integers(0, 4, 12) * np.pi / 4
    apart = (layout.row[:, None] - center[:, 0]) ** 2 + (layout.column[:, None] - center[:, 1]) ** 2
    tuned = np.exp(3 * (np.cos(2 * (layout.orientation[:, None] - angle)) - 1))
    weights = np.exp(-0.5 * apart / 0.1**2) * tuned + 0.02 * rng.standard_normal(apart.shape)
    found = receptive_fields(weights, layout)
    assert np.linalg.norm(found.center - center, axis=1).max() < 0.08
    turn = np.abs(np.angle(np.exp(2j * (found.orientation - angle)))) / 2
    assert turn.max() < 0.2 and found.selectivity.min() > 0.5
    with pytest.raises(ValueError, match="weights for"):
        receptive_fields(weights[:-1], layout)


def test_figures_show_units_and_values():
    result = {
        "V1": Result("V1", 0.8, low=0.7, high=0.9),
        "V4": Result("V4", 0.5, low=0.3, high=0.6),
    }
    (axes,) = plot_region_scores({"gabor": result, "colour": result}, title="x").axes
    assert axes.get_ylabel() == "r / noise ceiling" and len(axes.containers) == 2
    with pytest.raises(ValueError, match="no model"):
        plot_region_scores({}, title="x")
    region = ["V1", "V1", "V4"]
    shares = {"a": np.array([0.1, 0.3, 0.2]), "b": np.array([0.0, 0.2, -0.1])}
    (axes,) = plot_shares(shares, region, title="x").axes
    assert "%" in axes.get_ylabel()
    assert [round(bar.get_height()) for bar in axes.containers[0]] == [20, 20]
    r, sure = np.array([0.1, 0.5, 0.3]), np.array([False, True, True])
    (axes,) = plot_against_ceiling(r, np.ones(3), sure, region, title="x").axes
    assert "r" in axes.get_xlabel() and len(axes.lines) == 6
    pictures = np.random.default_rng(0).random((3, 3, 8, 8))
    assert len(plot_pictures(pictures, ["a", "b", "c"], title="x", columns=2).axes) == 4
    fields = plot_fields(pictures[:, 0], np.full((3, 2), 0.5), title="x", planted=np.zeros((3, 2)))
    assert len(fields.axes) == 3
