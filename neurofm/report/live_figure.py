"""A stream's predictions as a picture: probabilities over time with events, and latencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures.style import INK, MUTED, color, styled
from neurofm.shapes import Float
from neurofm.types import Event


@styled
def plot_stream(
    time_s: Float[np.ndarray, " window"],
    probability: Float[np.ndarray, "window class"],
    latency_s: Float[np.ndarray, " window"],
    *,
    labels: Sequence[str],
    events: Sequence[Event] = (),
    window_s: float = 0.0,
    title: str = "",
) -> Figure:
    """Probability of each class at the end of every window; below, how long predictions took.

    Args:
        time_s: End of each window, seconds.
        latency_s: Seconds.
        events: Those of the classes, until the last window, are drawn as bars in their colour, from
            the onset on for the length of a window.
        window_s: Seconds.
    """
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(2.4, 1))
    for event in events:
        if event.label in labels and event.onset < time_s[-1]:
            shade = color(list(labels).index(event.label))
            above.axvspan(
                event.onset, event.onset + window_s, ymin=0.93, color=shade, alpha=0.6, lw=0
            )
    gap = 3 * np.median(np.diff(time_s)) if len(time_s) > 1 else np.inf
    broken = np.flatnonzero(np.diff(time_s) > gap) + 1
    for k, label in enumerate(labels):
        at, p = np.insert(time_s, broken, np.nan), np.insert(probability[:, k], broken, np.nan)
        above.plot(at, p, color=color(k), label=label)
    above.axhline(1 / len(labels), color=MUTED, lw=0.8, ls="--")
    above.set(ylim=(0, 1.08), xlabel="end of the window, s", ylabel="probability", title=title)
    above.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="class (bars: events)")
    ms = 1000 * latency_s
    below.hist(ms, bins=40, color=MUTED)
    for percent, style in ((50, "-"), (99, "--")):
        value = float(np.percentile(ms, percent))
        below.axvline(value, color=INK, lw=1.2, ls=style, label=f"p{percent} {value:.1f} ms")
    below.set(xlabel="from the last sample to the prediction, ms", ylabel="predictions")
    below.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
