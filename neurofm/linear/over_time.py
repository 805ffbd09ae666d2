"""Linear maps at every moment of MEG and EEG responses.

Encoding is `VoxelwiseRidge` or `cross_validated` with responses `row channel time`: every channel
and time is a target of its own, and all share one decomposition of the features. Decoding needs a
map per time, from the channels at that time, and is here.

Axes: row = trial; channel; time; feature = what is decoded, such as a dimension of an embedding.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.linear.cross_validation import cross_validated
from neurofm.linear.ridge import VoxelwiseRidge
from neurofm.shapes import Float


@dataclass(frozen=True)
class DecodedOverTime:
    """Held-out predictions of features from the channels at each time.

    Args:
        predicted: Of every row by the fold that held it out.
        r: Correlation over rows, mean over folds; NaN for constant features.
    """

    predicted: Float[np.ndarray, "time row feature"]
    r: Float[np.ndarray, "time feature"]


def decode_over_time(
    model: VoxelwiseRidge,
    x: Float[np.ndarray, "row channel time"],
    y: Float[np.ndarray, "_ feature"],
    groups: Sequence[Hashable] | np.ndarray | None = None,
    *,
    folds: int | None = None,
    window: int = 1,
) -> DecodedOverTime:
    """Decode features at every time, with a penalty per time and feature.

    Args:
        model: Its settings.
        x: Responses.
        y: Features of the stimuli.
        groups: Run, or stimulus, of each row.
        folds: Outer folds, as in `cross_validated`.
        window: Neighbouring times (odd) whose channels are used together; at the ends fewer.
    """
    values = np.asarray(x)
    if values.ndim != 3 or window < 1 or window % 2 == 0:
        raise ValueError(
            f"decode_over_time: responses of shape {values.shape} and a window of {window}; "
            "expected row channel time and an odd number of times."
        )
    made, score = [], []
    for time in range(values.shape[2]):
        part = values[:, :, max(time - window // 2, 0) : time + window // 2 + 1]
        found = cross_validated(model, part.reshape(len(part), -1), y, groups, folds=folds)
        made.append(found.predicted)
        score.append(found.r)
    return DecodedOverTime(np.stack(made), np.stack(score))
