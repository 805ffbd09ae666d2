"""Activation patching: which places carry what makes a network answer as it does?

Two runs of paired windows: *clean* shows the behaviour, *corrupt* does not. Denoising runs the
corrupt windows with one clean value inserted: is the place sufficient? Noising runs the clean
windows with one corrupt value: is it necessary? The two disagree where a network combines places by
"and" or "or". An effect of 1 restores (denoising) or removes (noising) the whole difference.

Source: Meng et al. 2022 (causal tracing); Zhang and Nanda 2024 (metrics, directions).
Axes: site window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.causal.runs import (
    ROWS,
    Edit,
    Metric,
    Run,
    array_of,
    contrast,
    each_run,
    edits_of,
    logit_difference,
    probability,
    rows_of,
    same_windows,
    score_of,
    values_at,
)
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Insert = Literal["resample", "mean", "zero"]
SMALLEST = 1e-6  # difference of the two runs below which an effect means nothing


@dataclass(frozen=True)
class Patching:
    """Effect of inserting another run's value at each site.

    Args:
        names: Of the sites.
        effect: Share of the difference between the runs; NaN where the runs do not differ.
        score: Metric of the patched runs.
        clean: Metric of the clean run.
        corrupt: Metric of the corrupt run.
        direction: "denoise" or "noise".
        probability: The wanted class's probability in the patched runs, if outputs are logits.
    """

    names: tuple[str, ...]
    effect: Float[np.ndarray, "site window"]
    score: Float[np.ndarray, "site window"]
    clean: Float[np.ndarray, " window"]
    corrupt: Float[np.ndarray, " window"]
    direction: str
    probability: Float[np.ndarray, "site window"] | None = None

    def __getitem__(self, name: str) -> Float[np.ndarray, " window"]:
        return self.effect[self.names.index(name)]

    @property
    def mean(self) -> Float[np.ndarray, " site"]:
        """Mean effect over the windows where it is defined."""
        defined = np.isfinite(self.effect)
        total = np.where(defined, self.effect, 0).sum(1)
        return np.divide(
            total, defined.sum(1), out=np.full(len(total), np.nan), where=defined.any(1)
        )

    def interval(self, name: str) -> tuple[float, float]:
        """95 % interval of the mean effect over windows; NaN for fewer than two."""
        values = self[name][np.isfinite(self[name])]
        if len(values) < 2:
            return float("nan"), float("nan")
        return bootstrap_interval(values)

    def plot(self) -> Figure:
        """Mean effects: site by token if all sites are tokens, otherwise bars with intervals."""
        from neurofm.figures import plot_bars, plot_matrix

        title = (
            f"{self.direction.capitalize().removesuffix('e')}ing, {self.effect.shape[1]} windows"
        )
        unit = "effect (share of clean - corrupt)"
        split = [re.fullmatch(r"(.*)\[(token|channel|head)=(\d+)(/\d+)?\]", k) for k in self.names]
        if all(split) and len(split) > 1:
            found = [(m[1], int(m[3])) for m in split if m]
            rows, columns = list(dict.fromkeys(r for r, _ in found)), sorted({c for _, c in found})
            table = np.full((len(rows), len(columns)), np.nan)
            for (row, column), value in zip(found, self.mean, strict=True):
                table[rows.index(row), columns.index(column)] = value
            axis = split[0][2] if split[0] else ""
            return plot_matrix(
                table, title=title, unit=unit, rows=rows, columns=columns, xlabel=axis, signed=True
            )
        largest = np.argsort(-np.abs(np.nan_to_num(self.mean)), kind="stable")[:24]
        shown = [self.names[k] for k in sorted(largest)]
        return plot_bars(
            {name: float(np.nanmean(self[name])) for name in shown},
            title=title,
            unit=unit,
            intervals={name: self.interval(name) for name in shown},
        )


@torch.no_grad()
def activation_patching(
    model: nn.Module,
    clean: Any,
    corrupt: Any,
    sites: Sequence[str | Edit],
    *,
    run: Run | None = None,
    metric: Metric | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    insert: Insert = "resample",
    rows: int = ROWS,
) -> Patching:
    """Patch one site after another and measure how much of the behaviour comes or goes.

    Args:
        clean: Windows with the behaviour, a Batch or tensor.
        corrupt: As many windows without it, pairs of the clean ones; see `corruptions`.
        sites: Of any granularity: `blocks.1`, `blocks.1[token=3]`,
            `blocks.1.project:input[head=0/8]`, or `Edit`s such as those of `directions`.
        metric: Of the output of `run`. If not given, the logit of the class chosen in the clean run
            minus that of its best rival in the corrupt run; never the probability, which saturates
            and is returned beside it.
        insert: The other run's value, its mean over windows, or zero.
        rows: Windows times sites in one pass; results do not depend on it.
    """
    same_windows(clean, corrupt)
    if direction not in ("denoise", "noise"):
        raise ValueError(f"activation_patching: direction={direction!r}; denoise or noise.")
    if insert not in ("resample", "mean", "zero"):
        raise ValueError(f"activation_patching: insert={insert!r}; resample, mean or zero.")
    edits = edits_of(sites, "activation_patching")
    names = list(dict.fromkeys(edit.site for edit in edits))
    base, other = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    out_other, values = values_at(model, other, names, run=run)
    out_base, _ = values_at(model, base, [], run=run)
    out_clean, out_corrupt = (
        rows_of(out, len(clean))
        for out in ((out_other, out_base) if direction == "denoise" else (out_base, out_other))
    )
    also: Metric | None = None
    if metric is None:
        wanted, rival = contrast(out_clean, out_corrupt)
        metric, also = logit_difference(wanted, rival), probability(wanted)
    if insert == "mean":
        values = {k: [v.mean(0, keepdim=True).expand_as(v) for v in c] for k, c in values.items()}
    elif insert == "zero":
        values = {k: [torch.zeros_like(v) for v in c] for k, c in values.items()}
    full, none = score_of(metric, out_clean), score_of(metric, out_corrupt)
    scores, chances = [], []
    for out in each_run(model, base, edits, values, run=run, rows=rows):
        scores.append(score_of(metric, out))
        if also is not None:
            chances.append(also(out))
    score = torch.stack(scores)
    return Patching(
        names=tuple(map(str, edits)),
        effect=effect(score, full, none, direction),
        score=array_of(score),
        clean=array_of(full),
        corrupt=array_of(none),
        direction=direction,
        probability=array_of(torch.stack(chances)) if chances else None,
    )


def effect(score: Tensor, clean: Tensor, corrupt: Tensor, direction: str) -> np.ndarray:
    """Share of the difference between the runs that a patch makes up for, or takes away."""
    whole = clean - corrupt
    whole = torch.where(whole.abs() < SMALLEST, torch.nan, whole)
    moved = score - corrupt if direction == "denoise" else clean - score
    return array_of(moved / whole)


def each(site: str, axis: str, n: int) -> list[str]:
    """Sites of every token, channel, unit or head there: `each("blocks.1", "token", 40)`."""
    return [
        f"{site}[{axis}={k}/{n}]" if axis == "head" else f"{site}[{axis}={k}]" for k in range(n)
    ]
