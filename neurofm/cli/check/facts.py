"""What one recording holds, as `neurofm check` sees it.

A recording whose reader knows `slabs` is looked at in groups of channels, so that an image larger
than memory can be checked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurofm.io.corpus import Corpus
from neurofm.io.quality import Problem, collect, recording_problems
from neurofm.types import Recording, Signal
from neurofm.units import UNITS, Kind, typical_amplitude

SLAB_BYTES = 2**28
_NO_TRIGGER = (Kind.BOLD, Kind.UNIT, Kind.OTHER)
_TOLD = ("tr_s", "space", "participant", "bad_channels", "unit", "mask", "atlas")


@dataclass(frozen=True)
class KindFacts:
    """The channels of one kind in one recording; `amplitude` is typical, in `unit`."""

    channels: int
    with_position: int
    unit: str
    amplitude: float | None
    with_region: int = 0


@dataclass(frozen=True)
class Facts:
    """What one recording holds; only `id`, `path` and `problems` if it cannot be read."""

    id: str
    path: str | None
    problems: list[Problem]
    subject: str = ""
    sfreq: float | None = None
    duration_s: float | None = None
    kinds: dict[str, KindFacts] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    frame: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    checksum: str | None = None

    @property
    def readable(self) -> bool:
        """Whether it could be read."""
        return self.sfreq is not None


def examine(corpus: Corpus, recording: Recording, *, strict: bool = False) -> Facts:
    """Read one recording and describe it; what goes wrong becomes a problem."""
    path = None if recording.path is None else str(recording.path)
    parts: list[_Part] = []
    failed: Problem | None = None
    with collect() as problems:
        try:
            for signal in _parts(corpus, recording):
                parts.append(_Part.of(signal, corpus.line_freq, first=not parts))
        except Exception as error:  # a damaged file may raise anything, and others are waiting
            text = str(error) if isinstance(error, (ValueError, OSError)) else repr(error)
            failed = Problem("error", text, "", "unreadable")
    if failed is not None:
        return Facts(recording.id, path, [*problems, failed], recording.subject)
    head = parts[0]
    problems += [problem for part in parts for problem in part.problems]
    if strict:
        problems = [_raised(problem) for problem in problems]
    if not head.events:
        ruled = bool(corpus.card.get("events"))
        problems.append(
            Problem(
                "warning" if ruled else "info",
                "No events.",
                "Without labels it can be used for pretraining only" + _trigger(head.kind),
                "no_events",
            )
        )
    checksum = hashlib.blake2b(b"".join(part.digest for part in parts), digest_size=16)
    return Facts(
        id=recording.id,
        path=path,
        problems=list(dict.fromkeys(problems)),
        subject=recording.subject,
        sfreq=head.sfreq,
        duration_s=head.duration_s,
        kinds=dict(_kinds(parts)),
        events=head.events,
        frame=head.frame,
        details=head.details,
        checksum=checksum.hexdigest(),
    )


def _trigger(kind: np.ndarray) -> str:
    # Images, spikes and calcium have none.
    if np.isin(kind, [int(k) for k in _NO_TRIGGER]).all():
        return "; a table of events would give them."
    return "; if there is a trigger channel, name it as `event_channel` in the card's reader."


def _raised(problem: Problem) -> Problem:
    """The problem as strict reading takes it: a warning is an error."""
    if problem.severity != "warning":
        return problem
    return Problem("error", problem.what, problem.remedy, problem.code)


def _parts(corpus: Corpus, recording: Recording) -> Iterator[Signal]:
    if getattr(corpus.reader, "slabs", None) is None:
        yield corpus.load(recording)
    else:
        yield from corpus.slabs(recording, max_bytes=SLAB_BYTES)


@dataclass(frozen=True)
class _Part:
    """What is kept of one group of channels; per channel: kind, place, amplitude."""

    names: tuple[str, ...]
    kind: np.ndarray
    placed: np.ndarray
    labelled: np.ndarray
    amplitude: np.ndarray
    problems: list[Problem]
    digest: bytes
    sfreq: float
    duration_s: float
    frame: str
    events: dict[str, int]
    details: dict[str, Any]

    @classmethod
    def of(cls, signal: Signal, line_freq: float | None, *, first: bool) -> _Part:
        sensors = signal.sensors
        counts = Counter(event.label for event in signal.events)
        return cls(
            names=sensors.names,
            kind=sensors.kind,
            placed=sensors.has_position,
            labelled=np.array([bool(name) for name in sensors.region or [""] * len(sensors)]),
            amplitude=_amplitude(signal),
            problems=recording_problems(signal, line_freq),
            digest=hashlib.blake2b(np.ascontiguousarray(signal.data).data, digest_size=16).digest(),
            sfreq=signal.sfreq,
            duration_s=signal.duration,
            frame=sensors.frame,
            events=dict(sorted(counts.items())) if first else {},
            details=_told(signal.details) if first else {},
        )


def _amplitude(signal: Signal) -> np.ndarray:
    typical = typical_amplitude(signal.data, signal.sfreq)
    # What rests most of the time, such as an animal's position, is flat in its median second.
    for kind in np.unique(signal.sensors.kind):
        chosen = np.flatnonzero(signal.sensors.kind == kind)
        if not (typical[chosen] > 0).any():
            typical[chosen] = signal.data[chosen].astype(np.float64).std(axis=-1)
    return typical


def _told(details: Mapping[str, Any]) -> dict[str, Any]:
    return {key: details[key] for key in _TOLD if key in details}


def _kinds(parts: list[_Part]) -> Iterator[tuple[str, KindFacts]]:
    # Confounds come again with every group of voxels.
    seen: set[str] = set()
    fresh = []
    for part in parts:
        fresh.append(np.array([name not in seen for name in part.names], dtype=bool))
        seen.update(part.names)
    kind = np.concatenate([p.kind[new] for p, new in zip(parts, fresh, strict=True)])
    placed = np.concatenate([p.placed[new] for p, new in zip(parts, fresh, strict=True)])
    labelled = np.concatenate([p.labelled[new] for p, new in zip(parts, fresh, strict=True)])
    amplitude = np.concatenate([p.amplitude[new] for p, new in zip(parts, fresh, strict=True)])
    unit = parts[0].details.get("unit")
    for value in np.unique(kind):
        chosen = kind == value
        here = amplitude[chosen]
        here = here[np.isfinite(here) & (here > 0)]
        yield (
            Kind(int(value)).name.lower(),
            KindFacts(
                channels=int(chosen.sum()),
                with_position=int(placed[chosen].sum()),
                unit=str(unit) if unit is not None else UNITS[Kind(int(value))].name,
                amplitude=float(np.median(here)) if len(here) else None,
                with_region=int(labelled[chosen].sum()),
            ),
        )
