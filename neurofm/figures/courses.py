"""Courses: values over training, layers or time with their intervals, spectra, traces of signals.

Axes: channel time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import signal as scipy_signal

from neurofm.figures.style import INK, MUTED, color, legend, single, styled
from neurofm.shapes import Float


@styled
def plot_curves(
    curves: Mapping[str, tuple[Any, ...]],
    *,
    title: str,
    ylabel: str,
    xlabel: str = "training step",
    references: Mapping[str, float | int] | None = None,
    ceiling: tuple[float | int, float | int] | None = None,
    significant: Mapping[str, Any] | None = None,
    log: bool = False,
) -> Figure:
    """Values over training, layers or time, with horizontal lines to judge them by.

    Args:
        curves: Name to (places, values), or to (places, values, low, high) with the ends of an
            interval; lists or arrays.
        ylabel: With its unit, such as "loss (nats per code)".
        references: Name to value: entropy of the codes, chance.
        ceiling: Lower and upper noise ceiling, a band.
        significant: Name of a curve to its moments that exceed chance (bool), bars at the bottom.
        log: Logarithmic vertical axis.
    """
    if not curves:
        raise ValueError(f"plot_curves: no curve to draw for {title!r}.")
    figure, axes = single()
    whole = True
    for i, (name, (steps, values, *ends)) in enumerate(curves.items()):
        if len(ends) not in (0, 2):
            raise ValueError(f"plot_curves: {name!r} has one end of its interval; give both.")
        marker = "o" if len(steps) <= 12 else None
        axes.plot(steps, values, color=color(i), label=name, marker=marker, markersize=3.5)
        if ends:
            low, high = (np.asarray(end, dtype=float) for end in ends)
            axes.fill_between(steps, low, high, color=color(i), alpha=0.18, linewidth=0)
        whole &= bool(np.all(np.asarray(steps, dtype=float) % 1 == 0))
    for name, value in (references or {}).items():
        axes.axhline(value, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label=name)
    if ceiling is not None:
        axes.axhspan(*ceiling, color=MUTED, alpha=0.25, linewidth=0, label="noise ceiling")
    if log:
        axes.set_yscale("log")
    _bars(axes, curves, significant or {})
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
    legend(axes, len(curves) + len(references or {}) + (ceiling is not None))
    return figure


@styled
def plot_spectrum(
    signals: Mapping[str, Float[np.ndarray, "channel time"]],
    sfreq: float | int,
    *,
    title: str,
    unit: str = "µV",
    high: float | int | None = None,
    bands: Mapping[str, tuple[float | int, float | int]] | None = None,
) -> Figure:
    """Power spectral density, mean over channels (Welch, 2-s windows).

    Args:
        signals: Name to recording; they may differ in length.
        sfreq: Hz.
        high: Highest frequency drawn, Hz.
        bands: Name to edges in Hz, shaded.
    """
    spectra: dict[str, tuple[Any, ...]] = {}
    for name, x in signals.items():
        n = min(round(2 * sfreq), x.shape[-1])
        frequency, power = scipy_signal.welch(x, sfreq, nperseg=n)
        spectra[name] = (frequency, power.mean(0))
    high = high or sfreq / 2
    return plot_spectra(
        spectra, title=title, ylabel=f"power density ({unit}²/Hz)", high=high, bands=bands
    )


@styled
def plot_spectra(
    spectra: Mapping[str, tuple[Any, ...]],
    *,
    title: str,
    ylabel: str,
    high: float | int | None = None,
    bands: Mapping[str, tuple[float | int, float | int]] | None = None,
    mark: float | int | None = None,
    log: bool = True,
) -> Figure:
    """Spectra that are known already.

    Args:
        spectra: Name to (Hz, values), or to (Hz, values, low, high) with the ends of a range, such
            as that of real signals.
        ylabel: With its unit.
        high: Highest frequency drawn, Hz.
        bands: Name to edges in Hz, shaded.
        mark: A vertical line, such as the frequency a unit prefers, Hz.
        log: Logarithmic vertical axis, for power.
    """
    if not spectra:
        raise ValueError(f"plot_spectra: no spectrum to draw for {title!r}.")
    figure, axes = single(6.4, 3.4)
    for i, (name, (frequency, values, *ends)) in enumerate(spectra.items()):
        frequency = np.asarray(frequency, dtype=float)
        keep = (frequency > 0) if log else (frequency >= 0)
        keep &= frequency <= (high or np.inf)
        values, *ends = (np.asarray(each, dtype=float)[keep] for each in (values, *ends))
        axes.plot(frequency[keep], values, color=color(i), label=name)
        if len(ends) == 2:
            axes.fill_between(
                frequency[keep], ends[0], ends[1], color=color(i), alpha=0.18, linewidth=0
            )
    if log:
        axes.set_yscale("log")
    for i, (name, (low, upper)) in enumerate((bands or {}).items()):
        axes.axvspan(low, upper, color=MUTED, alpha=0.14 if i % 2 else 0.07, linewidth=0, zorder=0)
        axes.annotate(
            name,
            ((low + upper) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -3),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7.5,
            color=MUTED,
            rotation=90 if upper - low < 6 else 0,
        )
    if mark is not None:
        axes.axvline(mark, color=INK, linestyle=(0, (4, 3)), linewidth=1.0)
        axes.annotate(
            f"{mark:.3g} Hz",
            (mark, 0.98),
            xycoords=("data", "axes fraction"),
            xytext=(4, 0),
            textcoords="offset points",
            va="top",
            fontsize=8.5,
        )
    axes.set_xlim(left=0)
    axes.set(xlabel="frequency (Hz)", ylabel=ylabel, title=title)
    legend(axes, len(spectra))
    return figure


@styled
def plot_traces(
    signals: Mapping[str, Float[np.ndarray, "channel time"]],
    sfreq: float | int,
    *,
    names: Sequence[str],
    title: str,
    unit: str = "µV",
    start_s: float | int = 0.0,
) -> Figure:
    """Signals over each other, channel below channel, with one scale bar for all.

    Args:
        signals: Name to signal, all of one shape; the first is drawn in grey if there are several.
        sfreq: Hz.
        names: Of the channels drawn; up to eight are readable.
        unit: Of all arrays.
        start_s: Of the first sample.
    """
    shapes = {name: np.shape(x) for name, x in signals.items()}
    if not signals or any(s != (len(names), *s[1:]) or len(s) != 2 for s in shapes.values()):
        raise ValueError(
            f"plot_traces: {shapes} signals for {len(names)} names; expected (channel, time) each."
        )
    if len(set(shapes.values())) > 1:
        raise ValueError(f"plot_traces: signals of different shapes: {shapes}; they must agree.")
    n_times = next(iter(shapes.values()))[1]
    time = start_s + np.arange(n_times) / sfreq
    # One distance for all channels, so that amplitudes compare.
    spread = [
        float(np.percentile(np.abs(x - np.median(x, 1, keepdims=True)), 99.5))
        for x in signals.values()
    ]
    gap = 2.2 * (spread[0] or max(spread) or 1 / 2.2)
    figure, axes = single(7.6, 1.1 + 0.62 * len(names))
    middle = np.median(next(iter(signals.values())), 1)
    for i, (name, x) in enumerate(signals.items()):
        shade = MUTED if i == 0 and len(signals) > 1 else color(i)
        for row, course in enumerate(x):
            label = name if row == 0 else None
            width = 1.0 if i == 0 else 1.3
            place = course - middle[row] - row * gap
            axes.plot(time, place, color=shade, linewidth=width, label=label)
    axes.set_yticks([-row * gap for row in range(len(names))], list(names))
    axes.set_ylim(-(len(names) - 0.35) * gap, 0.75 * gap)
    axes.set_xlim(start_s, start_s + n_times / sfreq)
    _scale_bar(axes, _round_scale(gap / 2), unit)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="time (s)", ylabel=f"channel (amplitude in {unit})")
    axes.set_title(title, pad=20 if len(signals) > 1 else 6)
    if len(signals) > 1:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.1)
    return figure


def _scale_bar(axes: Axes, height: float, unit: str) -> None:
    across = axes.get_yaxis_transform()
    axes.plot(
        [1.012, 1.012],
        [0, -height],
        color=INK,
        linewidth=2.5,
        clip_on=False,
        transform=across,
        solid_capstyle="butt",
    )
    axes.text(1.022, -height / 2, f"{height:g} {unit}", transform=across, va="center", fontsize=8.5)


def _round_scale(value: float) -> float:
    """The largest 1, 2 or 5 times a power of ten below a value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value * 1.0001))


def _bars(
    axes: Axes, curves: Mapping[str, tuple[Any, ...]], significant: Mapping[str, Any]
) -> None:
    bottom, top = axes.get_ylim()
    for i, (name, (steps, *_)) in enumerate(curves.items()):
        if name in significant:
            place = bottom - (0.04 + 0.035 * i) * (top - bottom)
            bar = np.where(np.asarray(significant[name], dtype=bool), place, np.nan)
            style: Any = {"lw": 3.5, "solid_capstyle": "butt", "marker": "|", "ms": 3}
            axes.plot(steps, bar, color=color(i), **style)
