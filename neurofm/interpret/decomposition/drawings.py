"""Figures of decompositions that are more than one of `neurofm.figures`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import color, headline, styled
from neurofm.figures.topography import draw_topography

if TYPE_CHECKING:
    from neurofm.interpret.decomposition.feature_cards import FeatureCard
    from neurofm.interpret.decomposition.neuron_roles import NeuronRoles
    from neurofm.interpret.decomposition.quality import Quality

_FEWEST = 4  # sensors of a map


@styled
def plot_card(card: FeatureCard) -> Figure:
    """Spectrum, topography and classes of one latent beside each other."""
    map_ = card.topography
    mapped = map_ is not None and card.position is not None
    mapped = mapped and int(np.isfinite(map_).sum()) >= _FEWEST  # type: ignore[arg-type]
    widths = [3.0, 2.2 * mapped, 2.4 * bool(card.classes)]
    widths = [width for width in widths if width]
    figure = Figure(figsize=(sum(widths) + 0.6, 2.9), layout="constrained")
    panels = iter(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    _spectra(next(panels), card)
    if mapped:
        axes = next(panels)
        image = draw_topography(axes, map_, card.position, signed=True)  # type: ignore[arg-type]
        axes.set_title(f"{card.peak_hz:.0f} Hz", loc="center")
        figure.colorbar(image, ax=axes, label="power against the rest (dB)", shrink=0.7)
    if card.classes:
        _areas(next(panels), card)
    headline(
        figure,
        f"Latent {card.latent}: speaks for {card.density:.1%} of tokens, {len(card.segments)} "
        f"segments of {card.segment_s:g} s, {card.n_subjects} people, specificity "
        f"{card.specificity:.2f}",
    )
    return figure


def _spectra(axes, card: FeatureCard) -> None:  # type: ignore[no-untyped-def]
    seen = (card.frequency > 0) & (card.background > 1e-6 * card.background.max())
    for i, (name, values) in enumerate(
        (("its segments", card.spectrum), ("rest", card.background))
    ):
        axes.plot(card.frequency[seen], values[seen], color=color(0 if i == 0 else 5), label=name)
    axes.axvline(card.peak_hz, color=color(1), lw=0.8)
    axes.set(yscale="log", xlabel="frequency (Hz)", ylabel=f"power density ({card.unit}²/Hz)")
    axes.legend()


def _areas(axes, card: FeatureCard) -> None:  # type: ignore[no-untyped-def]
    for row, (area, low, high, _) in enumerate(card.classes.values()):
        axes.plot([low, high], [row, row], color=color(0))
        axes.plot([area], [row], "o", color=color(0))
    axes.axvline(0.5, color=color(5), ls="--", lw=1)
    names = [f"{name}\nq = {q:.2g}" for name, (*_, q) in card.classes.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(names) - 0.4), xlabel="area under the curve")


@styled
def plot_quality(quality: Quality) -> Figure:
    """How often latents speak, and how alike their directions are."""
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    alive = quality.density[quality.density > 0]
    left.hist(np.log10(alive), bins=30, color=color(0))
    left.set(xlabel="log10 share of samples", ylabel="latents", title="How often latents speak")
    right.hist(quality.closest, bins=30, range=(-0.2, 1.0), color=color(0))
    right.axvline(0.9, color=color(1), ls="--", lw=1)
    right.set(xlabel="cosine with the closest other", ylabel="latents", title="How alike they are")
    headline(
        figure,
        f"{quality.unexplained:.1%} of the variance unexplained, {quality.dead:.1%} of "
        f"{len(quality.density)} latents silent, {quality.n_samples} samples",
    )
    return figure


@styled
def plot_roles(roles: NeuronRoles) -> Figure:
    """Histogram of the cosines of input and output weights."""
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.hist(roles.in_out, bins=40, range=(-1, 1), color=color(0))
    for edge in (-0.5, 0.5):
        axes.axvline(edge, color=color(1), ls="--", lw=1)
    axes.axvspan(-2 * roles.spread, 2 * roles.spread, color=color(5), alpha=0.2, lw=0)
    counts = ", ".join(f"{n} {name}" for name, n in roles.counts.items())
    axes.set(xlabel="cosine of input and output weights", ylabel="neurons")
    axes.set_title(f"{counts}; grey: random directions")
    return figure
