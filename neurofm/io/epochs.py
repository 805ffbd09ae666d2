"""Epochs and averages as one `Signal`: stretches one after the other, marked where they join.

Each epoch, or each average of a file, is a stretch of the signal with an event at its time zero,
named by its condition, and an "EDGE boundary" event where the next one starts, so that no window
crosses a join. `details` keep what the concatenation hides: times, baseline, numbers of averages.

Source: MNE-Python (Gramfort et al. 2013).
Axes: channel time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurofm.io.meeg import BOUNDARY, assemble
from neurofm.io.mne_channels import Channels
from neurofm.io.provenance import details_of
from neurofm.io.quality import Problem, listed, report
from neurofm.types import Event, Recording, Signal

if TYPE_CHECKING:
    import mne


def signal_from_epochs(
    epochs: mne.BaseEpochs, recording: Recording, *, channels: Channels | None = None
) -> Signal:
    """Epochs one after the other.

    Args:
        epochs: MNE Epochs, loaded or not; read one epoch at a time.
        recording: What it is.
        channels: What the card says about the channels.

    Returns:
        `details["epochs"]` holds `n`, `tmin` and `tmax` (s from time zero), `baseline` (s, or None)
        and the number of epochs of each condition.

    Raises:
        ValueError: No epoch is left, or as `signal_from_raw`.
    """
    where = str(recording.path or recording.id)
    epochs = epochs.copy() if epochs.preload else epochs
    epochs.drop_bad(verbose="ERROR")
    n, n_times, sfreq = len(epochs), len(epochs.times), float(epochs.info["sfreq"])
    if not n:
        raise ValueError(f"{where}: all epochs are marked bad; none is left.")
    names = {code: name for name, code in epochs.event_id.items()}
    labels = [names.get(int(code), str(int(code))) for code in epochs.events[:, 2]]
    zeros = _zeros([n_times] * n, [float(epochs.tmin)] * n, sfreq)
    events = [Event(onset, 0.0, label) for onset, label in zip(zeros, labels, strict=True)]
    for i, marks in enumerate(epochs.get_annotations_per_epoch()):
        for onset, duration, label, *_ in marks:
            start = i * n_times / sfreq - epochs.tmin + onset
            events += _inside(i * n_times, n_times, sfreq, start, duration, str(label))
    return assemble(
        epochs,
        recording,
        channels=channels or Channels(),
        n_times=n * n_times,
        pieces=lambda picks: _one_by_one(epochs, picks),
        events=[*events, *_joins([n_times] * n, sfreq)],
        details=details_of(epochs)
        | {
            "epochs": {
                "n": n,
                "tmin": float(epochs.tmin),
                "tmax": float(epochs.tmax),
                "baseline": _pair(epochs.baseline),
                "conditions": dict(sorted(Counter(labels).items())),
            }
        },
    )


def signal_from_evokeds(
    evokeds: Sequence[mne.Evoked], recording: Recording, *, channels: Channels | None = None
) -> Signal:
    """Averages of a file one after the other; standard errors are left out and counted.

    Args:
        evokeds: Of the same channels and rate.
        recording: What it is.
        channels: What the card says about the channels.

    Returns:
        `details["evoked"]` is a list with `condition`, `nave` (epochs averaged), `tmin`, `tmax` (s
        from time zero) and `baseline` of each average, in order.

    Raises:
        ValueError: No average, or averages of other channels or rates; or as `signal_from_raw`.
    """
    where = str(recording.path or recording.id)
    averages = [evoked for evoked in evokeds if evoked.kind == "average"]
    if not averages:
        raise ValueError(f"{where}: no average among the {len(evokeds)} evoked data sets.")
    if len(averages) < len(evokeds):
        report(
            Problem(
                "info",
                f"{len(evokeds) - len(averages)} of {len(evokeds)} evoked data sets are standard "
                "errors.",
                "They were left out.",
                "standard_errors",
            ),
            where,
        )
    first = averages[0]
    for other in averages[1:]:
        _refuse_mixture(first, other, where)
    sfreq = float(first.info["sfreq"])
    lengths = [len(evoked.times) for evoked in averages]
    zeros = _zeros(lengths, [float(evoked.times[0]) for evoked in averages], sfreq)
    events = [
        Event(onset, 0.0, evoked.comment or f"average {i}")
        for i, (onset, evoked) in enumerate(zip(zeros, averages, strict=True), start=1)
    ]
    return assemble(
        first,
        recording,
        channels=channels or Channels(),
        n_times=sum(lengths),
        pieces=lambda picks: (evoked.data[picks] for evoked in averages),
        events=[*events, *_joins(lengths, sfreq)],
        details=details_of(first) | {"evoked": [_about(evoked) for evoked in averages]},
    )


def read_epochs(path: Path, recording: Recording, *, channels: Channels) -> Signal:
    """The epochs of a FIF file, whose later parts are followed, or of an EEGLAB file."""
    import mne

    if path.suffix.lower() == ".set":
        epochs = mne.io.read_epochs_eeglab(path, verbose="WARNING")
    else:
        epochs = mne.read_epochs(path, proj=False, preload=False, verbose="WARNING")
    return signal_from_epochs(epochs, recording, channels=channels)


def read_evokeds(path: Path, recording: Recording, *, channels: Channels) -> Signal:
    """The averages of a FIF file."""
    import mne

    evokeds = mne.read_evokeds(path, proj=False, verbose="WARNING")
    return signal_from_evokeds(evokeds, recording, channels=channels)


def _refuse_mixture(first: mne.Evoked, other: mne.Evoked, where: str) -> None:
    if not np.isclose(first.info["sfreq"], other.info["sfreq"], rtol=1e-6):
        raise ValueError(
            f"{where}: averages of different rates: {first.comment!r} at "
            f"{first.info['sfreq']:g} Hz, {other.comment!r} at {other.info['sfreq']:g} Hz. Save "
            "them in one file per rate."
        )
    if first.ch_names != other.ch_names:
        strange = sorted(set(first.ch_names) ^ set(other.ch_names))
        what = f"only one has {listed(strange)}" if strange else "in another order"
        raise ValueError(
            f"{where}: averages of different channels: {first.comment!r} has "
            f"{len(first.ch_names)}, {other.comment!r} {len(other.ch_names)} ({what}). Save them "
            "in one file per set of channels."
        )


def _about(evoked: mne.Evoked) -> dict[str, Any]:
    return {
        "condition": evoked.comment,
        "nave": int(evoked.nave),
        "tmin": float(evoked.times[0]),
        "tmax": float(evoked.times[-1]),
        "baseline": _pair(evoked.baseline),
    }


def _zeros(lengths: Sequence[int], tmins: Sequence[float], sfreq: float) -> list[float]:
    """Onset in the signal of each stretch's time zero, seconds.

    A stretch that does not hold its time zero gives the sample nearest to it.
    """
    starts = np.r_[0, np.cumsum(lengths)[:-1]]
    offsets = [
        min(max(round(-tmin * sfreq), 0), length - 1)
        for tmin, length in zip(tmins, lengths, strict=True)
    ]
    return [float((start + offset) / sfreq) for start, offset in zip(starts, offsets, strict=True)]


def _joins(lengths: Sequence[int], sfreq: float) -> list[Event]:
    return [Event(float(at / sfreq), 0.0, BOUNDARY) for at in np.cumsum(lengths)[:-1]]


def _inside(
    start: int, n_times: int, sfreq: float, onset: float, duration: float, label: str
) -> Iterable[Event]:
    """The part of an annotation that lies in the stretch of `n_times` samples from `start`."""
    low, high = start / sfreq, (start + n_times) / sfreq
    begin, end = max(onset, low), min(onset + duration, high)
    if begin < high and end >= low:
        yield Event(float(begin), float(max(end - begin, 0.0)), label)


def _one_by_one(epochs: mne.BaseEpochs, picks: list[int]) -> Iterator[np.ndarray]:
    import mne

    for i in range(len(epochs)):
        with mne.use_log_level("ERROR"):
            (piece,) = epochs.get_data(picks=picks, item=[i], copy=False)
        yield piece


def _pair(baseline: tuple[float | None, float | None] | None) -> list[float | None] | None:
    if baseline is None:
        return None
    return [None if value is None else float(value) for value in baseline]
