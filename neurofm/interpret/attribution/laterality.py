"""Which hemisphere the evidence comes from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurofm.shapes import Float


def lateralisation(
    values: Float[np.ndarray, " channel"],
    position: Float[np.ndarray, "channel 3"],
    *,
    names: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    midline_m: float = 0.01,
) -> float:
    """(right - left) / (right + left) of the mean magnitude: +1 all right, -1 all left.

    In the head frame x points to the right ear, so imagery of the left hand (right motor cortex)
    should be positive.

    Args:
        position: Metres, head frame; channels without one are left out.
        names: Of the channels, needed for `only`.
        only: Use these channels, such as those over the motor cortex.
        midline_m: Channels nearer to the midline belong to neither side. Metres.

    Raises:
        ValueError: No channel on one of the sides.
    """
    use = np.isfinite(position).all(1) & np.isfinite(values)
    if only is not None:
        use &= np.isin(np.asarray(names if names is not None else ()), list(only))
    left, right = use & (position[:, 0] < -midline_m), use & (position[:, 0] > midline_m)
    if not left.any() or not right.any():
        raise ValueError(
            f"lateralisation: {int(left.sum())} channels left and {int(right.sum())} right of the "
            "midline; both sides are needed. Are positions known, in metres, in the head frame?"
        )
    left_mean = float(np.abs(values[left]).mean())
    right_mean = float(np.abs(values[right]).mean())
    total = left_mean + right_mean
    return (right_mean - left_mean) / total if total > 0 else 0.0
