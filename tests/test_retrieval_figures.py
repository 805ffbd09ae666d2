"""Figures of retrieval show every person, intervals and chance."""

from __future__ import annotations

import numpy as np

from neurofm.report import plot_retrieval_over_time, plot_search_scores


def test_bars_show_means_people_and_chance(tmp_path) -> None:
    scores = {"network": np.array([0.4, 0.5, 0.6]), "ridge": np.array([0.3])}
    figure = plot_search_scores(scores, chance=0.1, title="3 people, set of 50")
    (axes,) = figure.axes
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.3]
    assert [len(points.get_offsets()) for points in axes.collections] == [3, 1]
    assert axes.get_legend().get_texts()[0].get_text() == "chance 0.100"
    assert axes.get_ylabel() == "top-5 accuracy (share of searches)"
    figure.savefig(tmp_path / "bars.png")


def test_curves_have_a_band_over_people() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 0.8, (5, 7))
    figure = plot_retrieval_over_time(
        np.linspace(-0.1, 0.5, 7), {"ridge": values}, chance=0.1, title="x", width_s=0.25
    )
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), values.mean(0))
    np.testing.assert_allclose(axes.lines[0].get_xdata()[[0, -1]], [-100, 500])
    assert len(axes.collections) == 1 and "250 ms" in axes.get_xlabel()
    assert "(n = 5)" in axes.get_legend().get_texts()[0].get_text()
