"""How large a signal is, by kind of channel: kept with a model, compared with new data.

The amplitude of a channel is the standard deviation of a window of it, in the unit of the batch.
Volts where microvolts are expected are a millionth: the comparison finds that in any few windows.
Axes: batch channel time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from neurofm.batch import Batch
from neurofm.units import UNITS, Kind

# Ratios beyond which data cannot be what a model was trained on: of many windows, and of one batch,
# in which an artefact or a silent stretch may be all there is.
FAR, FAR_IN_A_BATCH = 30.0, 3000.0
_NOT_STANDARD, _MANY = 3.0, 8  # amplitudes that are no 1; channels that are not all 1 by chance
_WINDOWS, _SAMPLES = 4, 512  # looked at in one batch
_KNOWN = {
    15: "tesla where femtotesla are expected",
    13: "tesla per metre where fT/cm are expected",
    6: "volts where microvolts are expected",
    3: "millivolts where microvolts are expected",
    -3: "nanovolts where microvolts are expected",
    -6: "microvolts that were multiplied by 1e6 twice",
}


def channel_amplitudes(batch: Batch, *, windows: int = _WINDOWS) -> dict[str, list[float]]:
    """Amplitude of the channels of a few windows, by lower-case kind; flat channels left out."""
    n, _, length = batch.x.shape
    chosen = np.unique(np.linspace(0, max(n - 1, 0), min(windows, n)).astype(int)).tolist()
    step = max(length // _SAMPLES, 1)
    x = batch.x.detach()[chosen, :, ::step].float()
    mask, kind = batch.channel_mask[chosen], batch.kind[chosen]
    size = torch.where(mask.unsqueeze(-1), x, 0).std(-1, correction=0)
    found: dict[str, list[float]] = {}
    for value in kind[mask].unique().tolist():
        sizes = size[mask & (kind == value)]
        own = sizes[(sizes > 0) & sizes.isfinite()].tolist()
        if own:
            found[Kind(value).name.lower()] = own
    return found


def summarize(found: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Median and spread (half the distance between the 16th and the 84th percentile) by kind."""
    return {
        kind: {
            "median": float(f"{np.median(values):.6g}"),
            "spread": float(f"{np.subtract(*np.percentile(values, (84, 16))) / 2:.6g}"),
            "n": len(values),
        }
        for kind, values in sorted(found.items())
    }


def check_amplitudes(
    found: Mapping[str, Sequence[float]],
    known: Mapping[str, Mapping[str, float]],
    *,
    model: str,
    what: str,
    far: float = FAR,
) -> None:
    """Stop if signals are of another order of magnitude than those a model was trained on.

    Args:
        found: From `channel_amplitudes`.
        known: From `summarize`, of the training data.
        model: Name for messages.
        what: "the batch" or "the data", for messages.
        far: Ratio of the medians from which on data are refused.

    Raises:
        ValueError: With both amplitudes, and the factor that would bring one to the other.
    """
    for kind, values in found.items():
        expected = float(known.get(kind, {}).get("median", 0.0))
        median = float(np.median(values))
        if expected > _NOT_STANDARD and _standardized(values):
            raise ValueError(
                f"{model}: {kind.upper()} channels of {what} are standardized (an amplitude of 1 "
                f"in every window), expected about {expected:.3g} as in training. Leave out the "
                "step that standardizes."
            )
        if expected <= 0 or median <= 0 or 1 / far <= median / expected <= far:
            continue
        exponent = -round(math.log10(median / expected))
        near = min(_KNOWN, key=lambda power: abs(power - exponent))
        # A recording differs from others by less than a factor of five.
        guess = f" They look like {_KNOWN[near]}." if abs(near - exponent) <= 1 else ""
        factor = near if guess else exponent
        unit = UNITS[Kind[kind.upper()]].name
        raise ValueError(
            f"{model}: {kind.upper()} channels of {what} have an amplitude of {median:.3g}, "
            f"expected about {expected:.3g} {unit} as in training ({median / expected:.1g} times "
            f"as large).{guess} Multiply by 1e{factor:+d}, or correct the unit in the dataset "
            "card, and leave out or add the step that sets the scale as in training."
        )


def _standardized(values: Sequence[float]) -> bool:
    return len(values) >= _MANY and all(abs(value - 1) < 0.1 for value in values)


def check_statistics(statistics: Any, *, where: str) -> None:
    """Stop if the field `statistics` of a file is not what `summarize` makes.

    Raises:
        ValueError: Unknown kind, a number missing, or not above 0.
    """
    given = statistics.get("amplitude") if isinstance(statistics, dict) else None
    if not isinstance(given, dict):
        raise ValueError(f"{where}: statistics: expected a mapping with `amplitude`.")
    for kind, values in given.items():
        if kind.upper() not in Kind.__members__:
            raise ValueError(f"{where}: statistics: amplitude of {kind!r}, which is no kind.")
        median = values.get("median") if isinstance(values, dict) else None
        if not isinstance(median, (int, float)) or not 0 < median < math.inf:
            raise ValueError(
                f"{where}: statistics: the median amplitude of {kind} is {median!r}, expected a "
                "number above 0."
            )
