"""What one recording is, before any tensor: Recording, Sensors, Event, Signal; and a Result.

numpy only, so that commands which look at recordings load no deep-learning library. From a window
on, tensors take over: see `neurofm.batch`.
Axes: channel = sensor of any kind, time = sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from neurofm.shapes import Bool, Float, Int
from neurofm.units import Kind

FRAMES = ("head", "mni", "scanner", "unknown")


@dataclass(frozen=True)
class Recording:
    """Where one recording comes from: BIDS-like entities and a path. Nothing is loaded yet."""

    dataset: str
    subject: str
    session: str | None = None
    run: str | None = None
    task: str | None = None
    path: Path | None = None

    @property
    def id(self) -> str:
        """Entities joined, unique in a corpus: `eegmmidb_sub-001_run-04`."""
        parts = [self.dataset, f"sub-{self.subject}"]
        for key in ("session", "task", "run"):
            value = getattr(self, key)
            if value is not None:
                parts.append(f"{ {'session': 'ses'}.get(key, key) }-{value}")
        return "_".join(parts)


@dataclass(frozen=True)
class Sensors:
    """The channels of one recording.

    Args:
        names: In the file's spelling, or the card's standard names.
        kind: int8 `units.Kind` of each channel.
        position: Metres, in `frame`; NaN where unknown.
        orientation: Unit vector a MEG coil is sensitive along, in `frame`: its normal, for a planar
            gradiometer the direction of its derivative; zeros elsewhere.
        frame: One of `FRAMES`. Scalp and MEG sensors are in the head frame.
        region: Anatomical or atlas label of each channel, "" where unknown; empty if none is known.
    """

    names: tuple[str, ...]
    kind: Int[np.ndarray, " channel"]
    position: Float[np.ndarray, "channel 3"]
    orientation: Float[np.ndarray, "channel 3"]
    frame: str = "head"
    region: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.names)
        for name, shape in (("kind", (n,)), ("position", (n, 3)), ("orientation", (n, 3))):
            got = getattr(self, name).shape
            if got != shape:
                raise ValueError(
                    f"Sensors: {name} has shape {got}, expected {shape} for {n} channels."
                )
        if len(self.region) not in (0, n):
            raise ValueError(f"Sensors: {len(self.region)} region labels, expected {n} or none.")
        if self.frame not in FRAMES:
            raise ValueError(f"Sensors: frame {self.frame!r} is not one of {FRAMES}.")
        if len(set(self.names)) != n:
            twice = sorted(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(
                f"Sensors: channel names appear twice: {twice}. Rename them in the reader."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_position(self) -> np.ndarray:
        """bool, True where the position is known."""
        return np.isfinite(self.position).all(axis=1)

    def pick(self, index: Sequence[int] | np.ndarray) -> Sensors:
        """The channels at `index`, in that order."""
        index = np.asarray(index, dtype=int)
        return Sensors(
            names=tuple(self.names[i] for i in index),
            kind=self.kind[index],
            position=self.position[index],
            orientation=self.orientation[index],
            frame=self.frame,
            region=tuple(self.region[i] for i in index) if self.region else (),
        )

    @classmethod
    def of_kind(
        cls,
        names: Sequence[str],
        kind: Kind,
        position: np.ndarray | None = None,
        *,
        frame: str = "head",
    ) -> Sensors:
        """Channels all of one kind, without orientation; positions unknown if not given."""
        n = len(names)
        if position is None:
            position = np.full((n, 3), np.nan)
        return cls(
            names=tuple(names),
            kind=np.full(n, kind, dtype=np.int8),
            position=np.asarray(position, dtype=np.float64),
            orientation=np.zeros((n, 3)),
            frame=frame,
        )


@dataclass(frozen=True)
class Event:
    """Something that happened. Onset and duration in seconds from the first sample."""

    onset: float
    duration: float
    label: str


@dataclass(frozen=True)
class Signal:
    """One recording in memory.

    Args:
        data: Working units (see `neurofm.units`), float32.
        sfreq: Hz; 1/TR for fMRI.
        events: Ordered by onset.
        history: One line per processing step applied, oldest first.
        details: What else the file says, as JSON values: TR, compensation grade, participant.
    """

    data: Float[np.ndarray, "channel time"]
    sfreq: float
    sensors: Sensors
    events: tuple[Event, ...]
    recording: Recording
    history: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.data.shape[0] != len(self.sensors):
            raise ValueError(
                f"Signal {self.recording.id}: data of shape {self.data.shape} do not fit "
                f"{len(self.sensors)} channels; expected (channel, time)."
            )
        if not self.sfreq > 0:
            raise ValueError(f"Signal {self.recording.id}: sfreq is {self.sfreq} Hz, expected > 0.")

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.data.shape[1] / self.sfreq

    def pick(self, index: Sequence[int] | np.ndarray) -> Signal:
        """The channels at `index`, in that order."""
        index = np.asarray(index, dtype=int)
        return replace(self, data=self.data[index], sensors=self.sensors.pick(index))

    def pick_kinds(self, kinds: Sequence[Kind]) -> Signal:
        """The channels of these kinds, in file order."""
        return self.pick(np.flatnonzero(np.isin(self.sensors.kind, [int(k) for k in kinds])))


@dataclass(frozen=True)
class Responses:
    """What one brain answered to stimuli: a row per presentation.

    Args:
        values: Single-trial betas or means over a window, or responses over time; NaN where a
            channel was not measured.
        stimulus: Of each trial; equal names are the same stimulus shown again.
        run: Of each trial, unique within the person: splits keep a run together.
        sensors: What the channels are and where.
        recording: Whose (`run` None).
        unit: Of `values`: "z", "%", "fT".
        sfreq: Hz, of responses over time.
        start_s: Of the first sample after the stimulus began.
    """

    values: Float[np.ndarray, "trial channel *time"]
    stimulus: tuple[str, ...]
    run: tuple[str, ...]
    sensors: Sensors
    recording: Recording
    unit: str = "z"
    sfreq: float | int | None = None
    start_s: float | int = 0.0

    def __post_init__(self) -> None:
        n = len(self.values)
        if not (n == len(self.stimulus) == len(self.run)):
            raise ValueError(
                f"{self.recording.id}: {n} responses, {len(self.stimulus)} stimuli and "
                f"{len(self.run)} runs; expected one of each per trial."
            )
        if self.values.shape[1] != len(self.sensors):
            raise ValueError(
                f"{self.recording.id}: responses of {self.values.shape[1]} channels for "
                f"{len(self.sensors)} sensors."
            )
        if (self.values.ndim == 3) != (self.sfreq is not None):
            raise ValueError(
                f"{self.recording.id}: responses of shape {self.values.shape} with sfreq "
                f"{self.sfreq}; responses over time need a rate, others have none."
            )

    def __len__(self) -> int:
        return len(self.stimulus)

    def pick(self, trials: Sequence[int] | np.ndarray) -> Responses:
        """Some trials, in the order given."""
        index = np.asarray(trials)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(int)
        return replace(
            self,
            values=self.values[index],
            stimulus=tuple(self.stimulus[i] for i in index),
            run=tuple(self.run[i] for i in index),
        )

    @staticmethod
    def joined(parts: Sequence[Responses]) -> Responses:
        """Runs or sessions of one person, one after the other; channels are those of the first.

        Raises:
            ValueError: There is none, or their channels differ.
        """
        names = {part.sensors.names for part in parts}
        if len(names) != 1:
            raise ValueError(f"{len(parts)} runs with {len(names)} sets of channels, expected one.")
        return replace(
            parts[0],
            values=np.concatenate([part.values for part in parts]),
            stimulus=tuple(name for part in parts for name in part.stimulus),
            run=tuple(run for part in parts for run in part.run),
            recording=replace(parts[0].recording, session=None, run=None, path=None),
        )

    def repeats(self) -> dict[str, np.ndarray]:
        """The trials of each stimulus, stimuli in the order of their first appearance."""
        found: dict[str, list[int]] = {}
        for i, name in enumerate(self.stimulus):
            found.setdefault(name, []).append(i)
        return {name: np.array(trials) for name, trials in found.items()}


@dataclass(frozen=True)
class Result:
    """One line of a report: a number with everything needed to judge it.

    Args:
        value: In `unit`.
        low: Lower end of the 95 % interval.
        high: Upper end.
        n: Units of replication (subjects or folds, not windows).
        chance: Score of a guess.
        ceiling: Noise ceiling, where one exists.
        detail: What else a table wants (per-fold values, parameters).
    """

    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None
    chance: float | None = None
    ceiling: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RDM:
    """A representational dissimilarity matrix.

    Args:
        values: float64, upper triangle by rows.
        labels: One per condition.
        metric: Such as "correlation".
    """

    values: Float[np.ndarray, " pair"]
    labels: tuple[str, ...]
    metric: str

    def square(self) -> np.ndarray:
        """condition x condition, zero diagonal."""
        n = len(self.labels)
        matrix = np.zeros((n, n))
        matrix[np.triu_indices(n, 1)] = self.values
        return matrix + matrix.T

    def select(self, index: Sequence[int] | np.ndarray) -> RDM:
        """The conditions at `index`, in that order."""
        index = np.asarray(index, dtype=int)
        rows, columns = np.triu_indices(len(index), 1)
        values = self.square()[index[rows], index[columns]]
        return RDM(values, tuple(self.labels[i] for i in index), self.metric)


@dataclass(frozen=True)
class Cluster:
    """Neighbouring moments that together exceed chance.

    Args:
        inside: True in the cluster; `moment`, or `moment moment` with training moments first.
        p: Share of sign flips over subjects whose largest cluster is at least as large.
    """

    inside: Bool[np.ndarray, "*moment"]
    p: float


@dataclass(frozen=True)
class OverTime:
    """Scores of decoding at every moment of a window, a stretch of some milliseconds.

    Args:
        scores: `subject moment`, or `subject moment moment` with training moments first.
        times: Middle of each moment, seconds after the event.
        subjects: Names.
        metric: "auroc" for two classes, else "balanced_accuracy".
        chance: Of the metric.
        features: What was decoded: "amplitude" or "power".
        clusters: Those found, in order of p; none with fewer than five subjects.
    """

    scores: Float[np.ndarray, " subject *moment"]
    times: Float[np.ndarray, " moment"]
    subjects: tuple[str, ...]
    metric: str
    chance: float
    features: str
    clusters: tuple[Cluster, ...]

    @property
    def mean(self) -> Float[np.ndarray, "*moment"]:
        """Over subjects."""
        return self.scores.mean(0)

    @property
    def diagonal(self) -> Float[np.ndarray, "subject moment"]:
        """Scores trained and tested at the same moment."""
        if self.scores.ndim == 2:
            return self.scores
        return np.diagonal(self.scores, axis1=1, axis2=2)


@runtime_checkable
class Reader(Protocol):
    """Finds the recordings of a corpus and loads one."""

    def recordings(self) -> list[Recording]:
        """All recordings, without reading their data."""
        ...

    def load(self, recording: Recording) -> Signal:
        """One recording in working units."""
        ...
