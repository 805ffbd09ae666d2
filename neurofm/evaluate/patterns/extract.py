"""From prepared or raw runs of fMRI to one pattern per block or trial.

A run is cleaned and standardized by itself, so that nothing of another run enters. The response
comes seconds after what caused it: the volumes of a trial are those from some seconds after its
beginning to some seconds after its end.

Axes: trial voxel, or trial voxel time with time = volume.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from neurofm.data.betas import SingleTrialBetas
from neurofm.data.steps.bold import CleanBold, StandardizeRun, is_bold
from neurofm.io.quality import matches
from neurofm.shapes import Float
from neurofm.types import Event, Responses, Sensors, Signal

DETRENDED = CleanBold(detrend=1)
_EPS_S = 1e-6  # a volume that begins at the very end of a window is outside, whatever the rounding


def trial_patterns(
    signals: Sequence[Signal],
    *,
    labels: Sequence[str] = ("*",),
    start_s: float | int = 4.0,
    stop_s: float | int = 4.0,
    average: bool = True,
    clean: CleanBold | None = DETRENDED,
    standardize: bool = True,
    betas: SingleTrialBetas | None = None,
) -> Responses:
    """One pattern per block or trial of one person.

    Args:
        signals: Runs, each a recording of its own; confounds as channels `confound:...`. Runs of
            patterns (`details["samples"]` is "trials") are taken as they are.
        labels: Names or wildcards of the events that are trials. BAD and EDGE marks never are.
        start_s: Seconds from the beginning of a trial to its first volume: the delay of the
            response.
        stop_s: Seconds from the end of a trial to the end of its volumes.
        average: The mean over the volumes of a trial; False keeps them as a third axis, as many as
            fit into the shortest trial, for `OverVolumes` and `decode_volumes`.
        clean: Regress out drifts and confounds; None for data that are clean.
        standardize: Divide every voxel of a run by its standard deviation over the run.
        betas: Fit a model of all trials in place of averaging volumes; it has its own `labels`,
            drifts and confounds, and `standardize` then makes the volumes z beforehand.

    Returns:
        `stimulus` is the label of each trial, `run` its session and run.

    Raises:
        ValueError: No runs or no trials; people, voxels or rates that differ between runs; a trial
            without volumes; betas with `average=False`.
    """
    if not signals:
        raise ValueError("trial_patterns: no runs were given.")
    _require_alike(signals)
    if betas is not None and not average:
        raise ValueError("trial_patterns: betas are one pattern per trial; leave `average` True.")
    names = _run_names(signals)
    values: list[np.ndarray] = []
    label: list[str] = []
    run: list[str] = []
    for name, signal in zip(names, signals, strict=True):
        made, own = _of_run(signal, labels, start_s, stop_s, average, clean, standardize, betas)
        values.append(made)
        label += own
        run += [name] * len(own)
    if average:
        stacked = np.concatenate(values)
    else:
        n = min(part.shape[2] for part in values if len(part))
        stacked = np.concatenate([part[..., :n] for part in values])
    first = signals[0]
    sensors = first.sensors.pick(np.flatnonzero(is_bold(first)))
    stacked, sensors = _without_constant(stacked, np.array(run), sensors, first.recording.id)
    return Responses(
        values=stacked,
        stimulus=tuple(label),
        run=tuple(run),
        sensors=sensors,
        recording=replace(first.recording, run=None, path=None),
        unit="z" if standardize and not _ready(first) else _unit(first),
        sfreq=None if average else first.sfreq,
        start_s=start_s if not average else 0.0,
    )


def _ready(signal: Signal) -> bool:
    return signal.details.get("samples") == "trials"


def _unit(signal: Signal) -> str:
    return str(signal.details.get("unit", "%"))


def _run_names(signals: Sequence[Signal]) -> list[str]:
    """Session and run, unique."""
    names = []
    for i, signal in enumerate(signals):
        parts = [signal.recording.session, signal.recording.run or str(i + 1)]
        names.append("/".join(part for part in parts if part is not None))
    if len(set(names)) < len(names):
        tasks = [f"{s.recording.task}/{n}" for s, n in zip(signals, names, strict=True)]
        names = tasks if len(set(tasks)) == len(tasks) else names
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            f"trial_patterns: runs {', '.join(twice)} were given twice. Give every run once."
        )
    return names


def _require_alike(signals: Sequence[Signal]) -> None:
    """One person, one rate, the same voxels at the same places."""
    first = signals[0]
    for signal in signals[1:]:
        here, there = signal.recording, first.recording
        if here.subject != there.subject or here.dataset != there.dataset:
            raise ValueError(
                f"trial_patterns: {here.id} is of another person than {there.id}. Voxels of people "
                "are not the same; make patterns of one person at a time."
            )
        if abs(signal.sfreq - first.sfreq) > 1e-3 * first.sfreq:
            raise ValueError(
                f"trial_patterns: {here.id} has a volume every {1 / signal.sfreq:g} s, {there.id} "
                f"every {1 / first.sfreq:g} s. Correct the TR in the card (`tr_s`), or decode the "
                "runs apart."
            )
        a, b = (s.sensors.pick(np.flatnonzero(is_bold(s))) for s in (signal, first))
        same = a.names == b.names and a.frame == b.frame
        if same and a.has_position.all() and b.has_position.all():
            same = np.allclose(a.position, b.position, atol=1e-4)
        if not same:
            raise ValueError(
                f"trial_patterns: the {len(a)} voxels of {here.id} (frame {a.frame}) are not the "
                f"{len(b)} of {there.id} (frame {b.frame}). Use one mask, on the grid of these "
                "images, for all runs."
            )


def _of_run(
    signal: Signal,
    labels: Sequence[str],
    start_s: float | int,
    stop_s: float | int,
    average: bool,
    clean: CleanBold | None,
    standardize: bool,
    betas: SingleTrialBetas | None,
) -> tuple[np.ndarray, list[str]]:
    """Patterns of one run, `trial voxel [time]`, and their labels."""
    keep = np.flatnonzero(is_bold(signal))
    if _ready(signal):
        events = _trials(signal, labels)
        index = np.array([round(event.onset * signal.sfreq) for event in events], dtype=int)
        values = signal.data[keep][:, index].T
        return (values if average else values[..., None]), [e.label for e in events]
    if betas is not None:
        made = betas(StandardizeRun()(signal) if standardize else signal)
        return made.data.T, [event.label for event in made.events]
    bold = clean(signal) if clean is not None else signal.pick(keep)
    if standardize:
        bold = StandardizeRun()(bold)
    events = _trials(signal, labels)
    time = np.arange(bold.data.shape[1]) / bold.sfreq
    inside = [
        np.flatnonzero(
            (time >= event.onset + start_s - _EPS_S)
            & (time < event.onset + event.duration + stop_s - _EPS_S)
        )
        for event in events
    ]
    if not events or min(map(len, inside)) == 0:
        empty = sum(not len(volumes) for volumes in inside)
        what = f"{empty} of {len(events)} trials have no volume" if events else "no trial"
        raise ValueError(
            f"{signal.recording.id}: trial_patterns: {what} from {start_s} s after the beginning "
            f"to {stop_s} s after the end; the run lasts {signal.duration:g} s, a volume "
            f"{1 / signal.sfreq:g} s. Asked for {list(labels)}. Change times or labels."
        )
    found = [event.label for event in events]
    if average:
        return np.stack([bold.data[:, volumes].mean(1) for volumes in inside]), found
    n = min(map(len, inside))
    return np.stack([bold.data[:, volumes[:n]] for volumes in inside]), found


def _trials(signal: Signal, labels: Sequence[str]) -> list[Event]:
    marks = ("BAD", "EDGE")
    return [
        event
        for event in signal.events
        if not event.label.upper().startswith(marks) and matches(event.label, labels)
    ]


def _without_constant(
    values: np.ndarray, run: np.ndarray, sensors: Sensors, name: str
) -> tuple[np.ndarray, Sensors]:
    """Without the voxels that do not vary in some run: there they say nothing of any trial."""
    flat = np.zeros(values.shape[1], dtype=bool)
    for own in np.unique(run):
        part = np.moveaxis(values[run == own], 1, 0).reshape(values.shape[1], -1)
        if part.shape[1] > 1:
            flat |= np.ptp(part, axis=1) == 0
    if not flat.any():
        return np.ascontiguousarray(values, dtype=np.float32), sensors
    if flat.all():
        raise ValueError(f"{name}: trial_patterns: no voxel varies in every run.")
    warnings.warn(
        f"{name}: {int(flat.sum())} of {len(flat)} voxels do not vary in one of the runs and are "
        "left out of all.",
        stacklevel=3,
    )
    keep = np.flatnonzero(~flat)
    return np.ascontiguousarray(values[:, keep], dtype=np.float32), sensors.pick(keep)


def centre_runs(
    values: Float[np.ndarray, " trial *voxel"], runs: Any, *, scale: bool = False
) -> Float[np.ndarray, " trial *voxel"]:
    """Take away the mean over the trials of each run, which sets runs apart and not classes.

    It uses no labels, but all trials of a run together: a test run must be whole, with the same
    classes as the others.

    Args:
        runs: Of each trial.
        scale: Divide by the standard deviation over the trials of the run, too.
    """
    made = np.array(values, dtype=np.float64)
    names = np.asarray(runs)
    for run in dict.fromkeys(names.tolist()):
        own = names == run
        part = made[own] - made[own].mean(0)
        if scale:
            size = part.std(0)
            part = part / np.where(size > 0, size, 1.0)
        made[own] = part
    return made
