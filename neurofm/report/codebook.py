"""Health of a tokenizer's code book over training, and what its codes keep of each frequency band.

Reads the metrics that `TrainTokenizer` logs: `STAGE/codebook_usage`, `_perplexity`, `_dead` and
`_size`, each also by level (`_level_1` is the coarsest), and `STAGE/explained_BAND` with `_low` and
`_high`, the ends of its interval over windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from neurofm.figures import plot_curves
from neurofm.figures.style import INK, color, single, styled
from neurofm.metrics import EEG_BANDS
from neurofm.report.report import Report

Curves = Mapping[str, tuple[list[float], list[float]]]
SIDES = ("train", "validate", "test")
_BANDS = {f"explained_{name}": name for name in EEG_BANDS}


def about_codes(metric: str) -> bool:
    """Whether a metric belongs to this section and not among the other curves."""
    quantity = metric.partition("/")[2]
    base = quantity.removesuffix("_low").removesuffix("_high")
    return quantity.startswith("codebook_") or base in _BANDS


def add_codebook(report: Report, curves: Curves) -> None:
    """Sections on the code book and on frequency bands, as far as the run logged them."""
    figures = [
        (figure, caption)
        for quantity, title, unit, caption in (
            ("usage", "Codes in use", "share of the codes (%)", "Codes seen in an epoch."),
            (
                "perplexity",
                "Perplexity of the codes",
                "perplexity (codes)",
                "How many equally frequent codes would say as much. Far below the number of codes, "
                "or falling, the code book is collapsing.",
            ),
            ("dead", "Dead codes", "codes never used", "Codes not seen in an epoch."),
        )
        for figure in _over_epochs(curves, quantity, title, unit)
    ]
    table = _last_epoch(curves)
    if table:
        report.add_section("Code book", table=table, figures=figures)
    explained = explained_bands(curves)
    if explained:
        table = [
            {"side": side, "band": name, "share": value, "low": low, "high": high}
            for side, bands in explained.items()
            for name, (value, low, high) in bands.items()
        ]
        caption = (
            "1 minus the power of the error over the power of the signal: 100 % is exact, 0 no "
            "better than silence. Every channel of every window counts alike; bands are cut to "
            "what the signal holds. Lines are 95 % intervals over windows, not over people. "
            "Training is the mean over the last epoch, while the codes still changed."
        )
        report.add_section(
            "Reconstruction by frequency band",
            figures=[(plot_explained(explained), caption)],
            table=table,
        )


def explained_bands(curves: Curves) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Side to band to the share kept in its last epoch and the ends of its interval.

    The share itself where there were too few windows for an interval.
    """
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for side in SIDES:
        for metric, name in _BANDS.items():
            key = f"{side}/{metric}"
            if key not in curves:
                continue
            value = curves[key][1][-1]
            low, high = (
                curves[f"{key}_{end}"][1][-1] if f"{key}_{end}" in curves else value
                for end in ("low", "high")
            )
            found.setdefault(side, {})[name] = (value, low, high)
    return found


def _last_epoch(curves: Curves) -> list[dict[str, Any]]:
    """Usage, perplexity and dead codes at the end, a row for each side and level."""
    rows = []
    for side in SIDES:
        start = f"{side}/codebook_usage"
        for key in sorted(key for key in curves if key.startswith(start)):
            level = key.removeprefix(start)
            if not level and f"{key}_level_1" in curves:
                continue
            found = {
                quantity: curves[f"{side}/codebook_{quantity}{level}"][1][-1]
                for quantity in ("perplexity", "dead")
                if f"{side}/codebook_{quantity}{level}" in curves
            }
            place = {"side": side, **({"level": level.rpartition("_")[2]} if level else {})}
            rows.append({**place, "in use (%)": 100 * curves[key][1][-1], **found})
    return rows


def _over_epochs(curves: Curves, quantity: str, title: str, unit: str) -> list[Figure]:
    """One figure of a quantity: by side, or by level where there are several; none if not logged.

    Of several levels the validation side is drawn, or the training side if there is no other.
    """
    factor = 100.0 if quantity == "usage" else 1.0
    sides = {"validate": "validation", "train": "training"}
    metric = f"codebook_{quantity}"
    chosen: dict[str, tuple[Any, Any]] = {}
    with_levels = [side for side in sides if f"{side}/{metric}_level_1" in curves]
    if with_levels:
        title = f"{title}, by level ({sides[with_levels[0]]})"
        start = f"{with_levels[0]}/{metric}_level_"
        levels = sorted(int(k.removeprefix(start)) for k in curves if k.startswith(start))
        chosen = {f"level {level}": curves[f"{start}{level}"] for level in levels}
    else:
        chosen = {
            name: curves[f"{side}/{metric}"]
            for side, name in reversed(sides.items())
            if f"{side}/{metric}" in curves
        }
    if not any(len(steps) > 1 for steps, _ in chosen.values()):
        return []  # one number each: the table has them
    scaled = {name: (steps, [factor * y for y in ys]) for name, (steps, ys) in chosen.items()}
    size = next((curves[k][1][-1] for k in curves if k.endswith("/codebook_size")), None)
    references = {f"all {size:.0f} codes alike": size} if size and quantity == "perplexity" else {}
    return [plot_curves(scaled, title=title, ylabel=unit, references=references)]


@styled
def plot_explained(
    explained: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    title: str = "Power of each band that the codes keep",
) -> Figure:
    """Share of each frequency band's power, a group of bars per band, with intervals.

    Args:
        explained: What was scored (side, model) to band to (share, low, high), as fractions.
    """
    bands = [name for name in EEG_BANDS if any(name in found for found in explained.values())]
    figure, axes = single(6.4, 3.2)
    width = 0.8 / len(explained)
    lowest = 0.0
    for i, (name, found) in enumerate(explained.items()):
        for column, band in enumerate(bands):
            if band not in found:
                continue
            value, low, high = (100 * number for number in found[band])
            place = column + (i - (len(explained) - 1) / 2) * width
            label = name if band == next(iter(found)) else None
            axes.bar(place, value, width * 0.9, color=color(i), label=label)
            axes.plot([place, place], [low, high], color=INK, linewidth=1.4)
            text = f"{value:.0f}"
            axes.annotate(
                text,
                (place, max(high, value, 0)),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
            lowest = min(lowest, low)
    labels = [f"{band}\n{EEG_BANDS[band][0]:g}-{EEG_BANDS[band][1]:g} Hz" for band in bands]
    axes.set_xticks(range(len(bands)), labels)
    axes.set_ylim(max(1.1 * lowest, -100), 112)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="frequency band", ylabel="power explained (%)", title=title)
    if len(explained) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure
