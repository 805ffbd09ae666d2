"""Figures of attributions: scalp maps, channel by time, band by time, courses."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from neurofm.figures import plot_bars, plot_curves, plot_matrix, plot_topographies
from neurofm.interpret.attribution.evidence import Attribution

KINDS = {
    "scalp": ("channel",),
    "channel time": ("channel", "time"),
    "region time": ("region", "time"),
    "band time": ("band", "time"),
    "time": ("time",),
    "band": ("band",),
    "channel": ("channel",),
    "region": ("region",),
}


def plot_attribution(attribution: Attribution, what: str | None = None) -> Figure:
    """See `Attribution.plot`."""
    possible = [k for k, axes in KINDS.items() if set(axes) <= set(attribution.axes)]
    sensors = attribution.sensors
    if "scalp" in possible and (sensors is None or np.isfinite(sensors.position).all(1).sum() < 4):
        possible.remove("scalp")
    if what is None:
        what = possible[0]
    if what not in possible:
        raise ValueError(f"Attribution.plot: {what!r} is not one of {possible} for this result.")
    n = len(attribution.target)
    title = f"{attribution.method}, {n} window{'s' if n != 1 else ''}"
    if what == "scalp":
        keep = ("channel", "band") if "band" in attribution.axes else ("channel",)
        values = _mean(attribution, keep)
        assert sensors is not None
        columns = {b: values[:, i] for i, b in enumerate(attribution.bands)}
        maps = columns if "band" in keep else {"all frequencies": values}
        names = sensors.names or None
        return plot_topographies(maps, sensors.position, unit="logit", title=title, names=names)
    values = _mean(attribution, KINDS[what])
    if " " in what:
        row, column = KINDS[what]
        return plot_matrix(
            values,
            title=title,
            unit="logit",
            rows=_labels(attribution, row),
            columns=_labels(attribution, column),
            xlabel=_axis(attribution, column),
            ylabel=_axis(attribution, row),
        )
    labels = _labels(attribution, what)
    if what == "time" or labels is None:
        places = np.arange(len(values)) if labels is None else np.asarray(labels, dtype=float)
        return plot_curves(
            {"mean evidence": (places, values)},
            title=title,
            ylabel="logit",
            xlabel=_axis(attribution, what),
            references={"none": 0.0},
        )
    return plot_bars(dict(zip(labels, values.tolist(), strict=True)), title=title, unit="logit")


def _mean(attribution: Attribution, keep: tuple[str, ...]) -> np.ndarray:
    rest = [axis for axis in attribution.axes[1:] if axis not in keep]
    kept = attribution.over(*rest)
    values = kept.values.detach().double().mean(0).cpu().numpy()
    return np.transpose(values, [kept.axes[1:].index(axis) for axis in keep])


def _labels(attribution: Attribution, axis: str) -> list[Any] | None:
    sensors = attribution.sensors
    if axis == "band":
        return list(attribution.bands)
    if axis == "region":
        return list(attribution.regions)
    if axis == "channel":
        return list(sensors.names) if sensors is not None and sensors.names else None
    n = attribution.values.shape[attribution.axes.index("time")]
    return None if sensors is None else [round(i / sensors.sfreq, 4) for i in range(n)]


def _axis(attribution: Attribution, axis: str) -> str:
    if axis == "time":
        return "sample" if attribution.sensors is None else "time (s)"
    return axis
