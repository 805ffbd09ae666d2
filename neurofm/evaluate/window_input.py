"""Windows as users of scikit-learn and MNE hold them, as a Batch.

An array says nothing of its channels, rate and unit, so these are stated once; MNE's Epochs say it
themselves.
Axes: window channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mne
import numpy as np
import torch

from neurofm.batch import Batch
from neurofm.io.electrodes import positions_of
from neurofm.io.epochs import signal_from_epochs
from neurofm.types import Recording, Sensors
from neurofm.units import UNITS, Kind, check_amplitude, si_factor


@dataclass(frozen=True)
class WindowInput:
    """What arrays of windows are.

    Args:
        sfreq: Hz; not needed for Epochs.
        channels: Names in order; unknown if not given.
        kinds: Of all channels, or one for each.
        unit: Of the numbers: "uV", "V", "fT" and the like; or "z" where each channel, or the whole
            recording, was standardized or whitened: amplitudes are then not looked at.
        montage: MNE template for the places of the channels; None for unknown places.
    """

    sfreq: float | None = None
    channels: Sequence[str] | None = None
    kinds: str | Sequence[str] = "eeg"
    unit: str = "uV"
    montage: str | None = "standard_1005"

    def batch(self, x: Any) -> Batch:
        """Windows with their sensors, in working units.

        Args:
            x: `window channel time`, MNE Epochs, or a list of Epochs (what scikit-learn makes of
                Epochs when it draws some of them).

        Raises:
            ValueError: Another number of axes or channels, no rate, values that are not finite, or
                amplitudes that are implausible in the unit.
        """
        epochs = as_epochs(x)
        if epochs is not None:
            return self._of_epochs(epochs)
        x = np.asarray(x)
        if x.ndim != 3 or 0 in x.shape:
            raise ValueError(
                f"windows of shape {x.shape}; expected (window, channel, time), none of them 0, or "
                "MNE Epochs."
            )
        if self.sfreq is None or not self.sfreq > 0:
            raise ValueError(f"sfreq is {self.sfreq}; windows as an array need their rate in Hz.")
        n = x.shape[1]
        if self.channels is not None and len(self.channels) != n:
            raise ValueError(f"windows of {n} channels, {len(self.channels)} names in `channels`.")
        names = tuple(self.channels or map(str, range(n)))
        kinds = [self.kinds] * n if isinstance(self.kinds, str) else list(self.kinds)
        unknown = sorted({kind for kind in kinds if kind.upper() not in Kind.__members__})
        if unknown or len(kinds) != n:
            raise ValueError(
                f"kinds of {len(kinds)} channels for {n}, or unknown: {unknown}; there are "
                f"{', '.join(Kind.__members__).lower()}."
            )
        kind = np.array([Kind[name.upper()] for name in kinds], dtype=np.int8)
        position = None
        if self.channels is not None and self.montage is not None:
            position = positions_of(names, self.montage)
        sensors = Sensors(
            names, kind, np.full((n, 3), np.nan) if position is None else position, np.zeros((n, 3))
        )
        if self.unit != "z":
            si = si_factor(self.unit, where="windows")
            scale = np.array([si * UNITS[Kind(int(k))].per_si for k in kind])
            x = x if (scale == 1).all() else x * scale[:, None]
        return self._made(x, sensors, float(self.sfreq), named=self.channels is not None)

    def _of_epochs(self, epochs: mne.BaseEpochs) -> Batch:
        if self.unit == "z":
            raise ValueError("Epochs hold volts or tesla; give standardized windows as an array.")
        signal = signal_from_epochs(epochs, Recording("epochs", "unknown"))
        if self.sfreq is not None and abs(signal.sfreq - self.sfreq) > 1e-3 * self.sfreq:
            raise ValueError(
                f"Epochs of {signal.sfreq:g} Hz, sfreq is {self.sfreq:g} Hz. Resample them, or "
                "leave sfreq out."
            )
        n = signal.details["epochs"]["n"]
        x = signal.data.reshape(len(signal.sensors), n, -1).swapaxes(0, 1)
        return self._made(x, signal.sensors, signal.sfreq, named=True)

    def _made(self, x: np.ndarray, sensors: Sensors, sfreq: float, *, named: bool) -> Batch:
        x = np.ascontiguousarray(x, dtype=np.float32)
        if not np.isfinite(x).all():
            bad = np.argwhere(~np.isfinite(x))[0]
            raise ValueError(
                f"window {bad[0]} holds NaN or infinity in channel {sensors.names[bad[1]]} (or "
                "numbers too large for float32). Leave such windows or channels out."
            )
        if self.unit != "z":
            self._check(x, sensors, sfreq)
        n, has = len(x), sensors.has_position
        place = torch.from_numpy(np.where(has[:, None], sensors.position, 0.0)).float()

        def spread(value: torch.Tensor) -> torch.Tensor:
            return value.expand(n, *value.shape).contiguous()

        return Batch(
            x=torch.from_numpy(x),
            channel_mask=torch.ones(x.shape[:2], dtype=torch.bool),
            kind=spread(torch.from_numpy(sensors.kind)),
            position=spread(place),
            orientation=spread(torch.from_numpy(sensors.orientation).float()),
            has_position=spread(torch.from_numpy(has)),
            sfreq=sfreq,
            onset=torch.zeros(n, dtype=torch.float64),
            subject=torch.zeros(n, dtype=torch.int64),
            recording=torch.zeros(n, dtype=torch.int64),
            unit="z" if self.unit == "z" else "physical",
            names=sensors.names if named else None,
        )

    def _check(self, x: np.ndarray, sensors: Sensors, sfreq: float) -> None:
        # Whole pieces of at most a second, so that no piece crosses from one window to the next.
        piece = min(max(round(sfreq), 2), x.shape[2])
        whole = x[..., : x.shape[2] // piece * piece].swapaxes(0, 1)
        try:
            check_amplitude(
                whole.reshape(len(sensors), -1), sensors.kind, sfreq=piece, where="windows"
            )
        except ValueError as error:
            raise ValueError(
                f"{error} For windows it is the argument `unit`, now {self.unit!r}: 'V' for arrays "
                "of MNE, 'uV' for those of MOABB, 'z' for standardized or whitened ones."
            ) from error


def as_epochs(x: Any) -> mne.BaseEpochs | None:
    """One object of epochs, joined if several are given; None for anything else."""
    if isinstance(x, mne.BaseEpochs):
        return x
    if isinstance(x, (list, tuple)) and x and all(isinstance(i, mne.BaseEpochs) for i in x):
        return mne.concatenate_epochs(list(x), add_offset=False, verbose="ERROR")
    return None
