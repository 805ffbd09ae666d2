"""A reader whose channels are brain parcels: recordings of sensors, seen through a source estimate.

Axes: channel = parcel, time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from neurofm.io.formats import SUFFIXES, open_raw
from neurofm.io.integrity import check_file
from neurofm.io.readers import ENTITIES, compile_pattern, find_recordings, is_later_part, path_of
from neurofm.io.sources.dipole_signs import common_template, flip, lagged_covariance, sign_flips
from neurofm.io.sources.parcellation import read_parcels
from neurofm.io.sources.parcels import (
    METHODS,
    SUMMARIES,
    beamformer,
    minimum_norm,
    parcel_signal,
    read_forward,
    read_inverse,
)
from neurofm.types import Recording, Signal


class ParcelReader:
    """M/EEG recordings as time courses of parcels, ready for models of source-space data.

    Args:
        pattern: Recordings below the root, as for `FolderReader`.
        operator: Forward solution (for "lcmv") or inverse operator (else) of each recording: a path
            below the root in which `{subject}`, `{session}`, `{task}` and `{run}` stand for the
            recording's.
        parcels: As in `read_parcels`; a path below the root with the same fields.
        dataset: Name of the corpus.
        root: Folder of the corpus.
        method: "lcmv", "MNE", "dSPM" or "sLORETA".
        summary: "pc" or "mean", as in `parcel_weights`.
        orthogonalize: Take out the correlation at lag zero between parcels.
        band_hz: Band-pass before the source estimate, whose filters adapt to what is in the data.
        head_to_mni: Transform file (MNE `-trans.fif`) from the head to MNI space, a path with the
            same fields; positions stay in the head frame without.
        radius_m: Of parcels given as a table of centres.
        template: File of `save_template`: signs are aligned to it.
        event_channel: Stimulus channel read as events, or "auto".

    Raises:
        ValueError: An unknown method or summary.
    """

    def __init__(
        self,
        pattern: str,
        *,
        operator: str,
        parcels: str,
        dataset: str,
        root: Path | str,
        method: str = "lcmv",
        summary: str = "pc",
        orthogonalize: bool = False,
        band_hz: Sequence[float] | None = (1.0, 45.0),
        head_to_mni: str | None = None,
        radius_m: float | None = None,
        template: str | None = None,
        event_channel: str | None = None,
    ) -> None:
        compile_pattern(pattern)
        for name, value, allowed in (
            ("method", method, METHODS),
            ("summary", summary, SUMMARIES),
        ):
            if value not in allowed:
                raise ValueError(
                    f"ParcelReader: {name} {value!r} is not one of {', '.join(allowed)}."
                )
        self.pattern = pattern
        self.operator = operator
        self.parcels = parcels
        self.dataset = dataset
        self.root = Path(root)
        self.method = method
        self.summary = summary
        self.orthogonalize = orthogonalize
        self.band_hz = None if band_hz is None else tuple(band_hz)
        self.head_to_mni = head_to_mni
        self.radius_m = radius_m
        self.template = template
        self.event_channel = event_channel

    def recordings(self) -> list[Recording]:
        """All recordings, without opening a file."""
        found = find_recordings(self.root, self.pattern, dataset=self.dataset, suffixes=SUFFIXES)
        return [item for item in found if not is_later_part(path_of(item))]

    def load(self, recording: Recording) -> Signal:
        """One recording as parcels.

        Raises:
            FileNotFoundError: The recording, its operator or the parcels are missing.
            ValueError: They do not fit together.
        """
        operator_path = self._resolved(self.operator, recording)
        check_file(operator_path)
        raw = open_raw(path_of(recording))
        history = []
        if self.band_hz is not None:
            low, high = self.band_hz
            raw.load_data(verbose="ERROR")
            raw.filter(low, high, verbose="ERROR")
            history.append(f"band-pass {low:g} to {high:g} Hz (MNE, FIR, zero phase)")
        if self.method == "lcmv":
            operator = read_forward(operator_path)
            spatial = beamformer(raw, operator)
        else:
            operator = read_inverse(operator_path)
            spatial = minimum_norm(raw, operator, method=self.method)
        parcels = read_parcels(
            operator,
            self._resolved(self.parcels, recording),
            head_to_mni=self._transform(recording),
            radius_m=self.radius_m,
        )
        signal = parcel_signal(
            raw,
            recording,
            spatial,
            parcels,
            summary=self.summary,
            orthogonalize=self.orthogonalize,
            event_channel=self.event_channel,
        )
        read, *rest = signal.history
        signal = replace(signal, history=(read, *history, *rest))
        if self.template is None:
            return signal
        names, covariance = load_template(self._resolved(self.template, recording))
        if names != signal.sensors.names:
            raise ValueError(
                f"{self.template}: the template has {len(names)} parcels that differ from the "
                f"{len(signal.sensors)} here. Make it from this parcellation."
            )
        own = lagged_covariance(signal.data, lags=len(covariance))
        return flip(signal, sign_flips(own, covariance))

    def _resolved(self, pattern: str, recording: Recording) -> Path:
        fields: Mapping[str, str] = {name: getattr(recording, name) or "" for name in ENTITIES}
        return self.root / pattern.format(**fields)

    def _transform(self, recording: Recording) -> np.ndarray | None:
        if self.head_to_mni is None:
            return None
        import mne

        path = self._resolved(self.head_to_mni, recording)
        check_file(path)
        transforms = mne.read_trans(path, verbose="ERROR")
        return np.asarray(transforms["trans"], dtype=np.float64)


def save_template(path: Path, signals: Sequence[Signal], *, lags: int) -> None:
    """Write the template that signs are aligned to, from recordings of the same parcels.

    Take training subjects only: the template is fitted to the recordings it is made of.

    Raises:
        ValueError: No recordings, or their parcels differ.
    """
    names = {signal.sensors.names for signal in signals}
    if len(names) != 1:
        raise ValueError(
            f"save_template: {len(signals)} recordings with {len(names)} different sets of "
            "parcels, expected one."
        )
    template = common_template([lagged_covariance(item.data, lags=lags) for item in signals])
    np.savez_compressed(path, covariance=template, names=np.array(names.pop(), dtype=str))


def load_template(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """Parcel names and lagged covariances of `save_template`."""
    check_file(path)
    with np.load(path, allow_pickle=False) as archive:
        try:
            return tuple(map(str, archive["names"])), archive["covariance"]
        except KeyError as error:
            raise ValueError(f"{path}: no sign template: {error}.") from error
