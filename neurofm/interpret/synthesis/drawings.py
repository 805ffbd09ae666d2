"""Figures of syntheses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, color, headline, styled
from neurofm.figures.topography import draw_topography

if TYPE_CHECKING:
    from neurofm.interpret.synthesis.multifaceted import Facets
    from neurofm.interpret.synthesis.result import Synthesis

_FEWEST, _SHOWN, _IMAGES = 4, 8, 6


@styled
def plot_synthesis(found: Synthesis) -> Figure:
    """Everything a synthesis found, beside what it is to be judged by."""
    if found.signals.ndim == 4:
        return _plot_images(found)
    known = found.sensors is not None
    mapped = known and _mapped(found)
    figure = Figure(figsize=(10.4, 5.4 if known else 2.9), layout="constrained")
    rows = figure.subplots(2 if known else 1, 3, squeeze=False)
    _traces(rows[0, 0], found)
    if known:
        _spectrum(rows[0, 1], found)
        if mapped:
            place = found.sensors.position  # type: ignore[union-attr]
            image = draw_topography(rows[0, 2], found.topography(), place, signed=False)
            figure.colorbar(image, ax=rows[0, 2], label=f"RMS ({found.unit})", shrink=0.7)
        else:
            _channels(rows[0, 2], found, found.topography(), None)
            rows[0, 2].set_ylabel(f"RMS ({found.unit})")
        rows[0, 2].set_title(f"at {found.peak_hz:.1f} Hz")
        _tuning(rows[1, 1], rows[1, 2], found)
    if known:
        _climb(rows[1, 0], found)
    else:
        _climb(rows[0, 1], found)
        rows[0, 2].set_axis_off()
    headline(figure, str(found))
    return figure


def _mapped(found: Synthesis) -> bool:
    return found.sensors is not None and (
        int(np.isfinite(found.sensors.position).all(1).sum()) >= _FEWEST
    )


def _traces(axes: Axes, found: Synthesis) -> None:
    x = found.signals[0]
    order = np.argsort(-x.std(-1), kind="stable")[:_SHOWN]
    order = np.sort(order)
    names = found.sensors.names if found.sensors is not None else ()
    labels = [names[i] if names else str(i) for i in order]
    time = np.arange(x.shape[-1]) / (found.sensors.sfreq if found.sensors is not None else 1.0)
    gap = 2.2 * float(np.abs(x).max()) or 1.0
    for row, i in enumerate(order):
        axes.plot(time, x[i] - row * gap, color=color(0), linewidth=1.0)
    axes.set_yticks([-row * gap for row in range(len(order))], labels)
    axes.grid(axis="y", visible=False)
    axes.set(
        xlabel="time (s)" if found.sensors is not None else "time (samples)",
        title=f"signal (rows {gap:.3g} {found.unit} apart)",
    )


def _spectrum(axes: Axes, found: Synthesis) -> None:
    frequency, power = found.spectrum()
    keep = frequency > 0
    if found.background is not None:
        mean = found.background.mean(0)[keep]
        axes.plot(frequency[keep], mean, color=MUTED, label="real windows")
        floor = mean.min() * 1e-2
    else:
        floor = float(power.max()) * 1e-6
    shown = np.maximum(power.mean(0)[keep], floor)
    axes.plot(frequency[keep], shown, color=color(0), label="synthesised")
    if found.control is not None:
        other = np.maximum(found.control.spectrum()[1].mean(0)[keep], floor)
        axes.plot(frequency[keep], other, color=color(1), lw=1.0, label=_name(found))
    axes.set_yscale("log")
    axes.set(xlabel="frequency (Hz)", ylabel=f"power density ({found.unit}²/Hz)")
    axes.set_title("spectrum, mean over channels")
    axes.legend(fontsize=7.5)


def _tuning(first: Axes, second: Axes, found: Synthesis) -> None:
    tuning = found.tuning
    if tuning is None:
        first.set_axis_off()
        second.set_axis_off()
        return
    first.errorbar(
        tuning.frequency, tuning.by_frequency, tuning.frequency_error, color=color(2), marker="."
    )
    first.axhline(0, color=MUTED, lw=0.8)
    first.set(xlabel="frequency of a tone (Hz)", ylabel="change of the objective")
    first.set_title("measured again with tones")
    _channels(second, found, tuning.by_channel, tuning.channel_error)
    second.set(ylabel="change of the objective", title=f"{tuning.best_hz:.1f} Hz tone, one channel")


def _channels(axes: Axes, found: Synthesis, values: np.ndarray, error: np.ndarray | None) -> None:
    n = len(values)
    axes.bar(np.arange(n), values, yerr=error, color=color(2 if error is not None else 0))
    names = found.sensors.names if found.sensors is not None else ()
    step = max(1, -(-n // 16))
    axes.set_xticks(range(0, n, step), [names[i] if names else str(i) for i in range(0, n, step)])
    if names:
        axes.tick_params(axis="x", rotation=90, labelsize=7)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("channel")


def _climb(axes: Axes, found: Synthesis) -> None:
    axes.plot(found.trace[:, 0], color=color(0), label="objective")
    if found.real.size:
        low, high = np.quantile(found.real, (0.01, 0.99))
        axes.axhspan(low, high, color=MUTED, alpha=0.25, lw=0, label="98 % of real windows")
    if found.control_values is not None:
        axes.axhline(found.control_values[0], color=color(1), ls=(0, (4, 3)), label=_name(found))
    axes.axhline(found.best, color=INK, lw=0.8, ls=":", label="without random changes")
    axes.set(xlabel="step", title=found.objective)
    axes.legend(fontsize=7.5)


def _name(found: Synthesis) -> str:
    return {"weights": "control: random weights", "unit": "control: another unit"}.get(
        found.control_kind, "control"
    )


def _plot_images(found: Synthesis) -> Figure:
    n = min(len(found.signals), _IMAGES)
    shown = [(f"{v:.3g}", x) for v, x in zip(found.values[:n], found.signals[:n], strict=True)]
    if found.control is not None and found.control_values is not None:
        shown.append((f"{_name(found)}\n{found.control_values[0]:.3g}", found.control.signals[0]))
    figure = Figure(figsize=(1.9 * len(shown) + 3.2, 2.8), layout="constrained")
    panels = figure.subplots(1, len(shown) + 1, width_ratios=[1.9] * len(shown) + [3.0])
    for axes, (title, image) in zip(panels, shown, strict=False):
        colours = image.shape[0] == 3
        drawn = image.transpose(1, 2, 0).clip(0, 1) if colours else image[0]
        axes.imshow(drawn, cmap=None if colours else "gray", interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(title, loc="center", fontsize=9)
    _climb(panels[-1], found)
    headline(figure, str(found))
    return figure


@styled
def plot_facets(found: Facets) -> Figure:
    """A row per facet: start, signal and spectrum."""
    n = len(found.facets)
    known = found.facets[0].sensors is not None
    figure = Figure(figsize=(10.4, 2.3 * n + 0.5), layout="constrained")
    rows = figure.subplots(n, 3, squeeze=False)
    for axes, facet, start, size in zip(rows, found.facets, found.starts, found.sizes, strict=True):
        _traces(axes[0], replace(facet, signals=start[None]))
        axes[0].set_title(f"start: mean of a group of {size} windows")
        _traces(axes[1], facet)
        axes[1].set_title(f"objective {facet.best:.3g}")
        if known:
            _spectrum(axes[2], facet)
        else:
            axes[2].set_axis_off()
    headline(figure, f"{n} facets of {found.facets[0].objective}; {found.dropped} windows left out")
    return figure
