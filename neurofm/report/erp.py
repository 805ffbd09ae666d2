"""Evoked responses: the average of each class with its interval, and where classes differ.

Axes: window channel time; class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.signal import find_peaks
from scipy.stats import t as student

from neurofm.figures.style import INK, MUTED, color, styled
from neurofm.figures.topography import draw_map, limits_of, project
from neurofm.shapes import Float, Int

_APART_S = 0.08  # of two peaks
_PANELS = 6
_PLACES = 8  # fewer do not say what lies between them


@dataclass(frozen=True)
class Evoked:
    """Averages of each class.

    Args:
        classes: Names.
        time: Seconds from the event.
        mean: Microvolts.
        low: Lower end of the 95 % interval of the mean.
        high: Upper end.
        n: Units that were averaged, for each class.
        unit: What they are, "windows" or "people".
    """

    classes: tuple[str, ...]
    time: Float[np.ndarray, " time"]
    mean: Float[np.ndarray, "class channel time"]
    low: Float[np.ndarray, "class channel time"]
    high: Float[np.ndarray, "class channel time"]
    n: tuple[int, ...]
    unit: str

    @property
    def difference(self) -> Float[np.ndarray, "channel time"]:
        """Last class minus first."""
        return self.mean[-1] - self.mean[0]

    def peaks(self, count: int = 3) -> list[int]:
        """Samples after the event at which the difference is largest over all channels, in order.

        At most `count`, at least 80 ms apart.
        """
        size = np.sqrt((self.difference**2).mean(0)) * (self.time > 0)
        step = float(self.time[1] - self.time[0])
        found, _ = find_peaks(size, distance=max(1, round(_APART_S / step)))
        if not len(found):
            found = np.array([int(size.argmax())])
        return sorted(found[np.argsort(-size[found])][:count].tolist())


def average_evoked(
    x: Float[np.ndarray, "window channel time"],
    y: Int[np.ndarray, " window"],
    *,
    classes: Sequence[str],
    sfreq: float,
    offset_s: float,
    subject: Sequence[Any] | None = None,
) -> Evoked:
    """Average windows by class, the mean before the event taken off each channel.

    Args:
        x: Microvolts.
        y: Position of each window's class among `classes`.
        sfreq: Hz.
        offset_s: Of a window's first sample after the event, seconds; negative = before it.
        subject: Of each window: people are averaged first, and the interval is over people.
            Without, or with fewer than three people, it is over windows.

    Raises:
        ValueError: Fewer than two classes, or fewer than two windows of one.
    """
    counts = [int((y == k).sum()) for k in range(len(classes))]
    if len(classes) < 2 or min(counts) < 2 or len(x) != len(y):
        found = dict(zip(classes, counts, strict=True))
        raise ValueError(
            f"average_evoked: {len(x)} windows, by class {found}; expected two or more classes "
            "with at least two windows each."
        )
    time = offset_s + np.arange(x.shape[2]) / sfreq
    x = np.asarray(x, dtype=np.float64)
    before = time < 0
    if before.any():
        x = x - x[..., before].mean(-1, keepdims=True)
    people = [] if subject is None else list(dict.fromkeys(subject))
    by_person = len(people) > 2
    means, widths, n = [], [], []
    for k in range(len(classes)):
        own = x[y == k]
        if by_person:
            who = np.array(list(subject or ()))[y == k]
            own = np.stack([own[who == name].mean(0) for name in people if (who == name).any()])
        means.append(own.mean(0))
        spread = own.std(0, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan * own[0]
        widths.append(student.ppf(0.975, max(len(own) - 1, 1)) * spread)
        n.append(len(own))
    mean, width = np.stack(means), np.stack(widths)
    unit = "people" if by_person else "windows"
    return Evoked(tuple(classes), time, mean, mean - width, mean + width, tuple(n), unit)


@styled
def plot_evoked(
    evoked: Evoked,
    *,
    names: Sequence[str],
    position: Float[np.ndarray, "channel 3"] | None = None,
    title: str,
    channels: Sequence[str] | None = None,
    maps: int = 3,
) -> Figure:
    """Averages over time in a few channels, and maps of the difference at its peaks.

    Bands are 95 % intervals of the mean. Dotted lines are those peaks.

    Args:
        names: Of the channels.
        position: Metres, head frame; without it, or with fewer than eight places, no maps are
            drawn.
        title: Of the figure; says how many people.
        channels: To draw; those that differ most at the largest peak if not given, at most six.
        maps: How many, 0 for none.

    Raises:
        ValueError: A channel that does not exist.
    """
    unknown = [name for name in channels or () if name not in names]
    if unknown or len(names) != evoked.mean.shape[1]:
        raise ValueError(
            f"plot_evoked: no channel {', '.join(unknown) or 'names for all'}; there are "
            f"{evoked.mean.shape[1]}: {', '.join(names)}."
        )
    peaks = evoked.peaks(max(maps, 1))
    if channels is None:
        size = np.abs(evoked.difference[:, peaks]).max(1)
        chosen = sorted(np.argsort(-size)[:_PANELS].tolist())
    else:
        chosen = [list(names).index(name) for name in channels]
    known = np.zeros(len(names), bool) if position is None else np.isfinite(position).all(1)
    drawn = peaks[:maps] if known.sum() >= _PLACES else []
    columns = 2 if len(chosen) == 4 else min(len(chosen), 3)
    rows = -(-len(chosen) // columns)
    figure = Figure(
        figsize=(2.9 * columns + 0.6, 2.0 * rows + (2.4 if drawn else 0) + 0.5),
        layout="constrained",
    )
    parts: Any = figure.subfigures(
        2 if drawn else 1, 1, height_ratios=[2.0 * rows, 2.4][: 1 + bool(drawn)]
    )
    top, bottom = parts if drawn else (parts, None)
    panels = top.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, channel in zip(panels.ravel(), chosen, strict=False):
        for k, name in enumerate(evoked.classes):
            label = f"{name.replace('_', ' ')} ({evoked.n[k]} {evoked.unit})"
            milliseconds = 1e3 * evoked.time
            axes.plot(milliseconds, evoked.mean[k, channel], color=color(k), label=label)
            low, high = evoked.low[k, channel], evoked.high[k, channel]
            axes.fill_between(milliseconds, low, high, color=color(k), alpha=0.2, lw=0)
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.axhline(0, color=MUTED, lw=0.8)
        for sample in peaks[:maps]:
            axes.axvline(1e3 * evoked.time[sample], color=INK, lw=0.8, ls=":")
        axes.set_title(names[channel])
    for axes in panels.ravel()[len(chosen) :]:
        axes.set_axis_off()
    for axes in panels[-1]:
        axes.set_xlabel("time after the event, ms")
    for axes in panels[:, 0]:
        axes.set_ylabel("µV")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    top.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    top.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    if bottom is not None and position is not None:
        _maps(bottom, evoked, drawn, position, known)
    return figure


def _maps(
    figure: Any,
    evoked: Evoked,
    drawn: Sequence[int],
    position: np.ndarray,
    known: np.ndarray,
) -> None:
    values = evoked.difference[known][:, drawn]
    limits = limits_of(values, True)
    place = project(position[known])
    panels = figure.subplots(1, len(drawn), squeeze=False)[0]
    image: Any = None
    for axes, sample, own in zip(panels, drawn, values.T, strict=True):
        image = draw_map(axes, own, place, limits, True, [])
        axes.set_title(f"{1e3 * evoked.time[sample]:.0f} ms", loc="center")
    last, first = (evoked.classes[k].replace("_", " ") for k in (-1, 0))
    figure.colorbar(image, ax=list(panels), label=f"{last} - {first}, µV", shrink=0.8, pad=0.02)
