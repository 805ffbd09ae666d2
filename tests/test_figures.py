"""Figures that all results share: labels, units, references and what cannot be drawn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from neurofm import figures
from neurofm.figures.style import told_apart
from neurofm.types import RDM, Result

TABLE = np.array([[0.0, 0.5, -0.2], [0.1, np.nan, 0.3]])


def test_a_matrix_says_its_unit_and_names_its_cells():
    inside = np.array([[True, True, False], [False, True, False]])
    drawn = figures.plot_matrix(
        TABLE, title="t", unit="r", rows=["a", "b"], columns=["x", "y", "z"], outlined=inside
    )
    axes, bar = drawn.axes
    assert bar.get_ylabel() == "r"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    low, high = axes.images[0].get_clim()
    assert low == -high == -0.5  # signed, so zero is in the middle
    assert {text.get_text() for text in axes.texts} >= {"0.5", "-0.2"}
    # Three cells in an L have eight unit edges around them.
    assert len(axes.collections[0].get_segments()) == 8


def test_outlines_follow_the_edges_of_one_cell():
    inside = np.zeros((2, 3), dtype=bool)
    inside[1, 2] = True
    axes = figures.plot_matrix(TABLE, title="t", unit="r", outlined=inside).axes[0]
    corners = np.concatenate(axes.collections[0].get_segments())
    assert set(map(tuple, corners)) == {(1.5, 0.5), (2.5, 0.5), (1.5, 1.5), (2.5, 1.5)}


def test_a_score_map_shows_the_best_row_under_its_ceiling():
    times = [0.0, 0.1, 0.2]
    drawn = figures.plot_score_map(
        TABLE,
        title="t",
        unit="r",
        rows=["one", "two"],
        columns=times,
        xlabel="time (s)",
        ceiling=(0.6, [0.7, 0.8, 0.9]),
        significant=np.isfinite(TABLE),
    )
    top, axes, _ = drawn.axes
    np.testing.assert_allclose(top.lines[0].get_ydata(), [0.1, 0.5, 0.3])
    assert axes.get_xlabel() == "time (s)"
    np.testing.assert_allclose(axes.images[0].get_extent(), [-0.05, 0.25, -0.5, 1.5])
    assert top.get_ylim()[1] >= 0.9


@pytest.mark.parametrize("labels", [3, 60])
def test_many_labels_are_thinned(labels):
    table = np.ones((labels, labels))
    names = [f"unit {i}" for i in range(labels)]
    axes = figures.plot_matrix(table, title="t", unit="u", rows=names, columns=names).axes[0]
    assert len(axes.get_xticks()) <= 8 or labels <= 24
    assert axes.get_yticklabels()[-1].get_text() == names[-1]


def test_an_rdm_is_drawn_from_any_of_its_forms():
    triangle = np.array([1.0, 2.0, 3.0])
    square = RDM(triangle, ("a", "b", "c"), "cosine").square()
    for form in (RDM(triangle, ("a", "b", "c"), "cosine"), square, triangle):
        image = figures.plot_rdm(form, title="t").axes[0].images[0].get_array()
        assert float(np.nanmax(image)) == 3.0
    with pytest.raises(ValueError, match="4 dissimilarities are no upper triangle"):
        figures.plot_rdm(np.ones(4), title="t")


def test_curves_carry_intervals_ceiling_and_significance():
    x = np.arange(5) / 10
    drawn = figures.plot_curves(
        {"a": (x, x, x - 1, x + 1), "b": (x, 2 * x)},
        title="t",
        ylabel="r",
        xlabel="s",
        ceiling=(1.0, 2.0),
        significant={"a": x > 0.2},
    )
    axes = drawn.axes[0]
    assert len(axes.collections) == 1
    assert axes.get_ylim()[1] >= 2.0
    assert {t.get_text() for t in axes.get_legend().get_texts()} == {"a", "b", "noise ceiling"}
    with pytest.raises(ValueError, match="one end"):
        figures.plot_curves({"a": (x, x, x)}, title="t", ylabel="r")


def test_spectra_mark_a_frequency_and_the_range_of_real_signals():
    f = np.linspace(0, 40, 21)
    axes = figures.plot_spectra(
        {"x": (f, f + 1), "real": (f, f + 1, f + 0.5, f + 2)},
        title="t",
        ylabel="µV²/Hz",
        mark=10.0,
        high=30,
    ).axes[0]
    assert "10 Hz" in {text.get_text() for text in axes.texts}
    assert axes.lines[0].get_xdata().max() <= 30


def test_traces_refuse_what_does_not_match():
    x = np.random.default_rng(0).normal(size=(2, 50))
    drawn = figures.plot_traces({"a": x, "b": x}, 10.0, names=["C3", "C4"], title="t")
    assert [t.get_text() for t in drawn.axes[0].get_yticklabels()] == ["C3", "C4"]
    with pytest.raises(ValueError, match="3 names"):
        figures.plot_traces({"a": x}, 10.0, names=["C3", "C4", "Cz"], title="t")
    with pytest.raises(ValueError, match="different shapes"):
        figures.plot_traces({"a": x, "b": x[:, :9]}, 10.0, names=["C3", "C4"], title="t")


def test_bars_stand_under_a_ceiling_with_intervals():
    drawn = figures.plot_bars(
        {"a": 0.2, "b": 0.4},
        title="t",
        unit="rho-a",
        intervals={"a": (0.1, 0.3), "b": (0.3, 0.5)},
        ceiling=(0.6, 0.7),
        chance=0.0,
        marks={"b": "*"},
    )
    axes = drawn.axes[0]
    assert [round(bar.get_height(), 3) for bar in axes.containers[0]] == [0.2, 0.4]
    assert {"*", "noise ceiling", "chance"} <= {text.get_text() for text in axes.texts}
    both = figures.plot_bars(
        {"one": {"a": 1.0}, "two": {"a": 2.0, "b": 3.0}}, title="t", unit="nats"
    )
    assert len(both.axes[0].patches) >= 3


def test_an_arrangement_refuses_labels_of_other_points():
    points = np.random.default_rng(0).normal(size=(4, 2))
    drawn = figures.plot_arrangement(
        points, title="t", labels="abcd", groups=["x", "x", "y", "y"], stress=0.123
    )
    assert "stress 0.12" in drawn.axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="3 labels for 4 points"):
        figures.plot_arrangement(points, title="t", labels="abc")


def test_layer_scores_take_results():
    detail = {"layer": "l", "reference": "IT", "null_low": -0.1, "null_high": 0.1}
    assert figures.plot_layer_scores([Result("l", 0.3, n=8, detail=detail)], title="t").axes


def test_marks_stand_inside_the_axes_at_the_far_ends_of_bars() -> None:
    bars, ends = {"up": 1.0, "down": -0.5}, {"up": (0.8, 1.2), "down": (-0.9, -0.4)}
    drawn = figures.plot_bars(
        bars, title="t", unit="u", intervals=ends, marks=dict.fromkeys(bars, "*")
    )
    drawn.canvas.draw()
    (axes,) = drawn.axes
    whole = axes.get_window_extent()
    stars = [text for text in axes.texts if text.get_text() == "*"]
    assert [text.xy[1] for text in stars] == [1.2, -0.9]
    for text in stars:
        box = text.get_window_extent()
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1


def test_long_names_of_sites_do_not_overlap() -> None:
    names = [f"model.transformer.blocks.{k}.attention.projection" for k in range(12)]
    names_alone = ["covariance of the signal", "network with random weights", "temporal block"]
    for given in (names, names_alone, [f"head:input[head={k}/8]" for k in range(8)]):
        drawn = figures.plot_bars(dict.fromkeys(given, 1.0), title="t", unit="u")
        drawn.canvas.draw()
        labels = drawn.axes[0].get_xticklabels()
        assert len({label.get_text() for label in labels}) == len(given)
        if not labels[0].get_rotation():
            boxes = [label.get_window_extent() for label in labels]
            assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
        assert all(label.get_text().count("\n") == 0 for label in labels if label.get_rotation())
    assert told_apart(names)[3] == "blocks.3"
    levels = ["0.5 of the noise ceiling", "1.5 of the noise ceiling"]
    assert told_apart(levels) == levels  # sentences are no paths
