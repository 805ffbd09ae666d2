"""Figures of suites: what is drawn where, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from neurofm.report import (
    Pairs,
    Trend,
    plot_confusions,
    plot_cost,
    plot_critical_difference,
    plot_differences,
    plot_learning_curves,
    plot_people,
    plot_rank_table,
    plot_reliability,
)
from neurofm.report.ranks import _cliques
from neurofm.types import Result

SCORE = Result("a", 0.7, low=0.6, high=0.8, n=9, detail={"p_fdr": 0.01})


def words(figure):
    axes_texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return axes_texts + [text.get_text() for text in figure.texts]


def test_bars_join_ranks_closer_than_the_critical_difference_and_no_bar_is_inside_another():
    assert _cliques(np.array([1.0, 1.5, 2.4, 4.0]), 1.0) == [(0, 1), (1, 2)]
    assert _cliques(np.array([1.0, 1.5, 1.9]), 1.0) == [(0, 2)]
    assert _cliques(np.array([1.0, 3.0, 5.0]), 1.0) == []


def test_a_critical_difference_diagram_names_every_method_with_its_rank():
    drawn = words(plot_critical_difference("abc", [2.5, 1.0, 2.5], difference=0.8, title="t"))
    assert "1.00  b" in drawn and "2.50  a" in drawn and "c  2.50" in drawn
    assert "critical difference 0.80" in drawn
    with pytest.raises(ValueError, match="one rank per label"):
        plot_critical_difference("ab", [1.0], difference=1.0, title="t")


def test_a_rank_table_puts_the_best_first_and_who_misses_a_place_last():
    scores = np.array([[0.6, 0.6], [0.9, np.nan], [0.7, 0.8]])
    figure = plot_rank_table(
        scores, ["low", "gap", "high"], ["d, p", "d, q"], title="t", unit="accuracy (%)"
    )
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["high", "low", "gap"]
    assert "90.0" in words(figure) and words(figure).count("–") == 2
    less = plot_rank_table(scores[:, :1], list("abc"), ["d"], title="t", unit="nats", better=-1)
    assert less.axes[0].get_yticklabels()[0].get_text() == "a"
    with pytest.raises(ValueError, match="2 methods"):
        plot_rank_table(scores, ["a", "b"], ["p", "q"], title="t", unit="%")


def test_every_person_is_a_dot_at_both_scores_in_percent():
    pairs = Pairs([0.5, 0.6, 0.7], [0.6, 0.5, 0.9], SCORE)
    figure = plot_people({"m": pairs}, reference="r", quantity="accuracy (%)", title="t")
    dots = figure.axes[0].lines[-1]
    np.testing.assert_allclose(dots.get_xdata(), [50, 60, 70])
    np.testing.assert_allclose(dots.get_ydata(), [60, 50, 90])
    assert any("+70.0 [+60.0, +80.0]\np 0.010, 9 people" in text for text in words(figure))
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_people({}, reference="r", quantity="q", title="t")


def test_differences_that_survive_correction_are_filled():
    unsure = Result("b", 0.1, low=-0.1, high=0.2, n=9, detail={"p_fdr": 0.3})
    axes = plot_differences([SCORE, unsure], title="t", quantity="points").axes[0]
    markers = [line for line in axes.lines if line.get_marker() == "D"]
    assert markers[0].get_markerfacecolor() != "white"
    assert markers[1].get_markerfacecolor() == "white"


def test_confusions_show_shares_and_counts():
    figure = plot_confusions({"m": np.array([[3.0, 1.0], [0.0, 0.0]])}, ["x", "y"], title="t")
    assert {"75 %\n3", "25 %\n1", "0 %\n0"} <= set(words(figure))


def test_reliability_of_an_honest_decoder_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 40_000)
    right = rng.random(40_000) < confidence
    person = np.repeat(list("abcd"), 10_000).tolist()
    figure = plot_reliability(
        {"m": (confidence, right, person)}, title="t", lowest=0.5, errors={"m": 0.01}
    )
    line = figure.axes[0].lines[-1]
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata(), atol=2.5)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(100)
    assert "error 1.0 %" in words(figure)


def test_learning_curves_and_costs_are_drawn_over_logarithmic_axes():
    trend = Trend([5.0, 10.0], [SCORE, Result("a", 0.8)])
    curves = plot_learning_curves({"m": trend}, xlabel="people", ylabel="%", title="t", chance=0.5)
    axes = curves.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [70, 80])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "10"]
    cost = plot_cost({"m": (12.0, SCORE, 1_250_000)}, ylabel="%", title="t")
    assert cost.axes[0].get_xscale() == "log"
    assert cost.axes[0].get_legend().get_texts()[0].get_text() == "m (1.25 M)"
    many = {f"m{i}": Trend([5.0, 10.0], [SCORE, Result("a", 0.5 + i / 100)]) for i in range(9)}
    panels = plot_learning_curves(
        many | {"once": Trend([5.0], [SCORE])}, xlabel="people", ylabel="%", title="t"
    )
    shown = [axes for axes in panels.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == [f"m{i}" for i in range(8, -1, -1)]
    np.testing.assert_allclose(shown[0].lines[-1].get_ydata(), [70, 58])
    for draw in (plot_learning_curves, plot_cost):
        extra = {"xlabel": "x"} if draw is plot_learning_curves else {}
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({}, ylabel="%", title="t", **extra)
