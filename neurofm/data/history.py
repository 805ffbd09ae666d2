"""What a recording's history says of its signal: the band that filters left, and its unit.

Frequencies in Hz.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_BANDPASS = re.compile(r"bandpass ([\d.e+-]+?)-([\d.e+]+|Nyquist) Hz")
_RESAMPLE = re.compile(r"resample .* cut at ([\d.e+-]+) Hz")


def band_of(history: Sequence[str], *, sfreq: float) -> tuple[float, float] | None:
    """Lowest and highest frequency that the filters of a recording's history have left.

    Args:
        history: One line per step, see `Signal`.
        sfreq: Hz, of the recording as it is now.

    Returns:
        None where the history names no filter and no change of rate: then nobody knows.
    """
    low, high, known = 0.0, math.inf, False
    for line in history:
        if line.startswith("envelope "):  # another signal, slower than the band it was made of
            low, high, known = 0.0, math.inf, False
        elif found := _BANDPASS.match(line):
            low, known = max(low, float(found[1])), True
            high = high if found[2] == "Nyquist" else min(high, float(found[2]))
        elif found := _RESAMPLE.match(line):
            high, known = min(high, float(found[1])), True
    return (low, min(high, sfreq / 2)) if known else None


def unit_of(history: Sequence[str]) -> str:
    """ "z" if the last step that set a scale was a z-score of each channel, else "physical"."""
    return "z" if any(line.startswith("z-score per channel") for line in history) else "physical"
