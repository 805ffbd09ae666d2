"""Figures of retrieval: scores of methods beside chance, and over time.

Axes: person; part (of a window).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, PALETTE, styled
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval


def _band(values: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(values, n_resamples=2000) if len(values) > 1 else (values[0],) * 2


@styled
def plot_search_scores(
    scores: Mapping[str, Float[np.ndarray, " person"]],
    *,
    chance: float,
    title: str,
    name: str = "top-5 accuracy",
) -> Figure:
    """Mean of every method with its 95 % interval over people, and each person.

    Args:
        scores: Method to a score of each person, between 0 and 1.
        chance: Score of a guess.
        name: Of the score, with the number of candidates if the title does not say it.
    """
    figure = Figure(figsize=(1.6 + 1.1 * len(scores), 3.0))
    axes = figure.subplots()
    for i, values in enumerate(scores.values()):
        found = np.asarray(values, dtype=np.float64)
        low, high = _band(found)
        colour = PALETTE[i % len(PALETTE)]
        axes.bar(i, found.mean(), 0.6, color=colour, alpha=0.85)
        axes.plot([i, i], [low, high], color=INK, linewidth=1.6)
        spread = np.linspace(-0.16, 0.16, len(found)) if len(found) > 1 else np.zeros(1)
        axes.scatter(i + spread, found, s=14, color="white", edgecolor=INK, linewidth=0.8, zorder=3)
    axes.axhline(chance, color=MUTED, linestyle="--", linewidth=1.2, label=f"chance {chance:.3f}")
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_ylabel(f"{name} (share of searches)")
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1))
    axes.set_title(title)
    return figure


@styled
def plot_retrieval_over_time(
    seconds: Float[np.ndarray, " part"],
    scores: Mapping[str, Float[np.ndarray, "person part"]],
    *,
    chance: float,
    title: str,
    width_s: float,
    name: str = "top-5 accuracy",
) -> Figure:
    """Scores of decoders of parts of a window, with 95 % intervals over people.

    Args:
        seconds: Middle of each part after the stimulus (or its end, of parts that grow).
        scores: Name of a curve to a score of each person and part.
        chance: Score of a guess.
        width_s: Length of a part.
    """
    figure = Figure(figsize=(6.2, 3.0))
    axes = figure.subplots()
    for i, (curve, values) in enumerate(scores.items()):
        found = np.asarray(values, dtype=np.float64)
        band = np.array([_band(column) for column in found.T])
        colour = PALETTE[i % len(PALETTE)]
        axes.fill_between(1e3 * seconds, *band.T, color=colour, alpha=0.25, linewidth=0)
        axes.plot(1e3 * seconds, found.mean(0), color=colour, label=f"{curve} (n = {len(found)})")
    axes.axhline(chance, color=MUTED, linestyle="--", linewidth=1.2, label=f"chance {chance:.3f}")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel(f"middle of the {1e3 * width_s:.0f} ms decoded, ms after the stimulus")
    axes.set_ylabel(f"{name} (share of searches)")
    axes.set_ylim(0, 1)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)
    axes.set_title(title)
    return figure
