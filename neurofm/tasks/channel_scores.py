"""Correlation of each channel over all held-out stimuli, batch by batch.

Sums are kept, not predictions: memory does not grow with the number of stimuli, and sums of several
processes add up.
Axes: person, channel; sums in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurofm.nn.processes import all_reduce, gather
from neurofm.shapes import Bool, Float, Int

_CONSTANT = 1e-12  # variance below this share of the mean square is rounding


@dataclass(frozen=True)
class Scores:
    """What correlations say.

    Args:
        r: Pearson; 0 where the prediction was constant, NaN where the response was, or was measured
            fewer than twice.
        unscored: Channels of people with measured responses that are NaN in `r`.
        constant: Channels whose prediction was constant.
    """

    r: Float[np.ndarray, "person channel"]
    unscored: int
    constant: int


class ChannelScores:
    """Gathers predictions and responses."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None  # person sum channel: n, p, y, pp, yy, py

    @torch.no_grad()
    def add(
        self,
        prediction: Float[Tensor, "batch channel *time"],
        y: Float[Tensor, "batch channel *time"],
        mask: Bool[Tensor, "batch channel"],
        subject: Int[Tensor, " batch"],
    ) -> None:
        """One batch; samples over time count like stimuli."""
        weight = mask.view(*mask.shape, *[1] * (y.ndim - 2)).expand_as(y)
        # Sums in double precision, on the CPU where a device has none.
        place = torch.device("cpu") if y.device.type == "mps" else y.device
        p, t = (v.to(place).double().masked_fill(~weight.to(place), 0.0) for v in (prediction, y))
        ones = weight.to(place).double()
        sums = torch.stack([ones, p, t, p * p, t * t, p * t], 1)
        sums = sums.flatten(3).sum(3) if sums.ndim > 3 else sums  # batch sum channel
        people = int(subject.max()) + 1
        before = self._sums
        total = sums.new_zeros(max(people, 0 if before is None else len(before)), *sums.shape[1:])
        if before is not None:
            total[: len(before)] = before
        self._sums = total.index_add(0, subject.to(place), sums)

    def result(self) -> Scores | None:
        """Correlations over everything that was added, in all processes; None if nothing was."""
        if self._sums is None:
            return None
        sums = self._sums
        people = int(gather(torch.tensor(len(sums), device=sums.device)).max())
        whole = sums.new_zeros(people, *sums.shape[1:])
        whole[: len(sums)] = sums
        all_reduce(whole)
        n, p, t, pp, tt, pt = whole.cpu().numpy().swapaxes(0, 1)
        measured = n > 0
        count = np.maximum(n, 1)
        var_p, var_t = pp / count - (p / count) ** 2, tt / count - (t / count) ** 2
        flat_p = var_p <= _CONSTANT * (pp / count + 1e-30)
        flat_t = (var_t <= _CONSTANT * (tt / count + 1e-30)) | (n < 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (pt / count - p * t / count**2) / np.sqrt(var_p * var_t)
        r = np.where(flat_t, np.nan, np.where(flat_p, 0.0, np.clip(r, -1, 1)))
        return Scores(
            r=r,
            unscored=int((flat_t & measured).sum()),
            constant=int((flat_p & measured & ~flat_t).sum()),
        )
