"""Massive activations: a few numbers of a hidden state that are thousands of times the others.

They sit at fixed places, act like biases, draw attention to their tokens and spoil low-precision
arithmetic. Judge the raw residual stream: after a norm they are gone.

Source: Sun et al. 2024 (massive activations). The thresholds are the customary ones; in a small
model the absolute one may never fire, so the ratio by itself is given, too.
Axes: hidden states are `... token channel`; leading axes are layer, sample, or nothing. Each
`token channel` matrix is judged by its own median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from neurofm.interpret.arrays import takes_either
from neurofm.shapes import Bool, Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABS_MIN, RATIO_MIN, RATIO_ALONE = 100.0, 1000.0, 100.0
_TOP = 3


@dataclass(frozen=True)
class MassiveActivations:
    """What stands out of hidden states.

    Args:
        median: Of the magnitudes of each `token channel` matrix.
        top_ratio: The three largest magnitudes over that median.
        massive: Larger than both thresholds.
        outlier: More than `ratio_alone` medians, whatever its size.
        magnitude: Of everything.
        thresholds: Absolute minimum, minimum ratio, and the ratio of `outlier`.
    """

    median: Float[np.ndarray, "*lead"]
    top_ratio: Float[np.ndarray, "*lead top"]
    massive: Bool[np.ndarray, "*lead token channel"]
    outlier: Bool[np.ndarray, "*lead token channel"]
    magnitude: Float[np.ndarray, "*lead token channel"]
    thresholds: tuple[float, float, float] = (ABS_MIN, RATIO_MIN, RATIO_ALONE)

    def places(self, *, alone: bool = False) -> Int[np.ndarray, "place axis"]:
        """Index of each massive activation, such as layer, sample, token, channel.

        Args:
            alone: Of those that only the ratio calls outliers, too.
        """
        return np.argwhere(self.outlier if alone else self.massive)

    def constancy(self, *, axis: int = 1) -> Float[np.ndarray, "place column"]:
        """Is a place massive for every input alike?

        Args:
            axis: The one of samples.

        Returns:
            A row for each place that is an outlier in any sample: the index of its other axes,
            then the coefficient of variation of its magnitude over samples. Near 0 is a bias.
        """
        lead = self.magnitude.ndim - 2
        if not 0 <= axis < lead:
            raise ValueError(
                f"constancy: axis {axis} of {lead} before token and channel; expected the axis of "
                "samples. Give hidden states as layer sample token channel."
            )
        where = np.argwhere(self.outlier.any(axis))
        over = np.moveaxis(self.magnitude, axis, -1)[tuple(where.T)]
        mean = np.nanmean(over, 1) if len(over) else np.empty(0)
        spread = np.nanstd(over, 1) if len(over) else np.empty(0)
        return np.column_stack([where.astype(float), spread / mean])

    def plot(self) -> Figure:
        """The three largest ratios by layer."""
        from neurofm.interpret.monitoring.drawings import draw_massive

        return draw_massive(self)


@takes_either
def massive_activations(
    hidden: Float[np.ndarray, "*lead token channel"],
    *,
    abs_min: float | int = ABS_MIN,
    ratio_min: float | int = RATIO_MIN,
    ratio_alone: float | int = RATIO_ALONE,
    mask: Bool[np.ndarray, "*lead token"] | None = None,
) -> MassiveActivations:
    """Find activations beyond `abs_min` and beyond `ratio_min` medians of their hidden state.

    Args:
        hidden: Raw residual stream.
        mask: True where a token is real; others are left out (NaN in `magnitude`).

    Raises:
        ValueError: NaN or infinite activations, which are another problem (`not_finite`), or a
            hidden state without a real token.
    """
    values = np.asarray(hidden, dtype=np.float64)
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"massive_activations: shape {values.shape}; expected ... token channel, not empty."
        )
    if mask is not None:
        if mask.shape != values.shape[:-1] or not mask.any(-1).all():
            raise ValueError(
                f"massive_activations: mask of shape {mask.shape}; expected {values.shape[:-1]} "
                "with a real token in every hidden state."
            )
        values = np.where(mask[..., None], values, 0.0)
    if not np.isfinite(values).all():
        raise ValueError(
            f"massive_activations: {int((~np.isfinite(values)).sum())} of {values.size} "
            "activations are NaN or infinite. Find where they begin with not_finite."
        )
    size = np.abs(values)
    flat = size.reshape(*size.shape[:-2], -1)
    if mask is None:
        median = np.median(flat, -1)
    else:
        size = np.where(mask[..., None], size, np.nan)
        flat = size.reshape(flat.shape)
        median = np.nanmedian(flat, -1)
        flat = np.nan_to_num(flat, nan=-1.0)
    top = min(_TOP, flat.shape[-1])
    largest = -np.sort(-np.partition(flat, -top, axis=-1)[..., -top:], axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = largest / median[..., None]
    limit = median[..., None, None]
    return MassiveActivations(
        median=median,
        top_ratio=ratio,
        massive=(size > abs_min) & (size > ratio_min * limit),
        outlier=size > ratio_alone * limit,
        magnitude=size,
        thresholds=(float(abs_min), float(ratio_min), float(ratio_alone)),
    )


@takes_either
def attention_mass(
    attention: Float[np.ndarray, "*lead query key"], tokens: Sequence[int] | np.ndarray
) -> Float[np.ndarray, "*lead"]:
    """Share of attention that falls on some tokens, mean over the queries.

    Args:
        attention: Probabilities, each query's sum to 1.
        tokens: Positions of massive activations.
    """
    values = np.asarray(attention, dtype=np.float64)
    total = values.sum(-1)
    if not np.allclose(total, 1.0, atol=1e-3):
        raise ValueError(
            f"attention_mass: rows sum to {total.min():.3g} to {total.max():.3g}; expected "
            "probabilities, after the softmax."
        )
    return values[..., np.unique(np.asarray(tokens))].sum(-1).mean(-1)
