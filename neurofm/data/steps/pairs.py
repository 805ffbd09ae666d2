"""ElectrodePairs: differences of named scalp electrodes, the bipolar montages of clinical EEG.

`Bipolar` pairs neighbouring contacts of a shaft by their numbers; here pairs are named.
Axes: channel time.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from neurofm.cards import configured
from neurofm.data.steps.step import noted
from neurofm.types import Sensors, Signal
from neurofm.units import Kind

# Source: the montage of the Temple University corpora, in the order in which TFM-Tokenizer, BIOT
# and others number channels.
DOUBLE_BANANA = (
    *("FP1-F7", "F7-T3", "T3-T5", "T5-O1", "FP2-F8", "F8-T4", "T4-T6", "T6-O2"),
    *("FP1-F3", "F3-C3", "C3-P3", "P3-O1", "FP2-F4", "F4-C4", "C4-P4", "P4-O2"),
)
# Old and new names of the same four electrodes.
_SAME = MappingProxyType({"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"})


@configured
@dataclass(frozen=True)
class ElectrodePairs:
    """The channel A-B is electrode A minus electrode B, in the order given.

    Names are compared without regard to case, and T3, T4, T5, T6 mean T7, T8, P7, P8. A pair lies
    in the middle between its electrodes. Channels that are no EEG stay, after the pairs.

    Args:
        pairs: Names joined by "-"; the sixteen of the longitudinal ("double banana") montage
            if not given.
    """

    pairs: Sequence[str] = DOUBLE_BANANA

    def __post_init__(self) -> None:
        wrong = [pair for pair in self.pairs if len(_parts(pair)) != 2 or not all(_parts(pair))]
        if wrong or not self.pairs:
            raise ValueError(
                f"ElectrodePairs: {wrong[0] if wrong else 'nothing'!r} is no pair of two names "
                "joined by '-', such as F7-T3."
            )

    def __call__(self, signal: Signal) -> Signal:
        """The pairs.

        Raises:
            ValueError: An electrode is missing; the message lists near misses.
        """
        eeg = np.flatnonzero(signal.sensors.kind == Kind.EEG)
        place = {_folded(signal.sensors.names[i]): int(i) for i in eeg}
        wanted = [[_folded(part) for part in _parts(pair)] for pair in self.pairs]
        missing = list(dict.fromkeys(name for pair in wanted for name in pair if name not in place))
        if missing:
            near = difflib.get_close_matches(missing[0], place, n=3)
            names = [signal.sensors.names[place[name]] for name in near]
            raise ValueError(
                f"{signal.recording.id}: ElectrodePairs: no EEG channel {', '.join(missing)}."
                + (f" Did you mean {', '.join(names)}?" if names else "")
                + " Rename channels with `rename` in the card's reader, or give other `pairs`."
            )
        first, second = np.array([[place[name] for name in pair] for pair in wanted]).T
        rest = np.setdiff1d(np.arange(len(signal.sensors)), eeg)
        data = np.concatenate([signal.data[first] - signal.data[second], signal.data[rest]])
        sensors = paired(signal.sensors, self.pairs, first, second, rest)
        line = f"{len(self.pairs)} pairs of {len(eeg)} electrodes"
        return noted(replace(signal, sensors=sensors, data=data), data, line)


def paired(
    sensors: Sensors,
    names: Sequence[str],
    first: np.ndarray,
    second: np.ndarray,
    rest: np.ndarray,
) -> Sensors:
    """Sensors of differences, in the middle between two, and the `rest` after them.

    A pair has a region if its two sensors have the same.
    """
    middle = (sensors.position[first] + sensors.position[second]) / 2
    region: tuple[str, ...] = ()
    if sensors.region:
        both = zip(first, second, strict=True)
        region = tuple(
            sensors.region[i] if sensors.region[i] == sensors.region[j] else "" for i, j in both
        ) + tuple(sensors.region[i] for i in rest)
    return Sensors(
        names=(*names, *(sensors.names[i] for i in rest)),
        kind=sensors.kind[np.concatenate([first, rest])],
        position=np.concatenate([middle, sensors.position[rest]]),
        orientation=sensors.orientation[np.concatenate([first, rest])],
        frame=sensors.frame,
        region=region,
    )


def _parts(pair: str) -> list[str]:
    return [part.strip() for part in pair.split("-")]


def _folded(name: str) -> str:
    upper = name.strip(" .").upper()
    return _SAME.get(upper, upper)
