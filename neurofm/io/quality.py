"""What is wrong with a recording, in words: problems with a remedy each.

`Problem` is a finding. Readers pass one on with `report`, as a `RecordingWarning`: it is shown
once, and `neurofm check` collects it. Where every repair must be known about, as before training,
`strict` turns it into an error. `channel_problems` looks at the numbers of one recording.
"""

from __future__ import annotations

import fnmatch
import itertools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from neurofm.types import Signal
from neurofm.units import BRAIN_KINDS, UNITS, Kind

SEVERITIES = ("info", "warning", "error")
# A channel counts as flat below this share of the smallest plausible amplitude of its kind.
_FLAT_SHARE = 1e-3
_SILENT_S = 1.0  # EEGMMIDB fills its last data record with half a second of zeros
_STRONG_LINE = 100.0  # times the power of its surround


@dataclass(frozen=True)
class Problem:
    """One finding.

    Args:
        severity: One of `SEVERITIES`; "error" means the recording should not be used as it is.
        what: The finding, with names and counts.
        remedy: What to do about it.
        code: Short stable name, for machines.
    """

    severity: str
    what: str
    remedy: str
    code: str

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


class RecordingWarning(UserWarning):
    """A recording was repaired or is imperfect; `problem` says how."""

    def __init__(self, problem: Problem, where: str = "") -> None:
        super().__init__(f"{where}: {problem}" if where else str(problem))
        self.problem = problem


_ALLOWED: ContextVar[tuple[str, ...] | None] = ContextVar("allowed problems", default=None)


@contextmanager
def strict(*, allow: Sequence[str] = ()) -> Iterator[None]:
    """Inside the block, a reported warning or repair raises ValueError instead.

    Args:
        allow: Codes, or wildcards of codes, of problems that are warned about as usual, such as
            "no_position".
    """
    token = _ALLOWED.set(tuple(allow))
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def report(problem: Problem, where: str, *, stacklevel: int = 3) -> None:
    """Warn about a problem of the recording called `where`.

    Raises:
        ValueError: Inside `strict`, unless the problem is only an "info" or allowed.
    """
    allowed = _ALLOWED.get()
    if allowed is not None and problem.severity != "info" and not matches(problem.code, allowed):
        raise ValueError(f"{where}: {problem} (strict: [{problem.code}] is not allowed)")
    warnings.warn(RecordingWarning(problem, where), stacklevel=stacklevel)


@contextmanager
def collect() -> Iterator[list[Problem]]:
    """Inside the block, problems are collected in the list and not shown; other warnings pass."""
    problems: list[Problem] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield problems
        finally:
            found = list(caught)
            problems += [
                w.message.problem for w in found if isinstance(w.message, RecordingWarning)
            ]
    for item in found:
        if not isinstance(item.message, RecordingWarning):
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


def listed(names: Sequence[str], *, most: int = 8) -> str:
    """Names joined for a message, the tail of a long list as a count."""
    names = list(names)
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name equals, or matches as a wildcard, one of the patterns."""
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def flat_channels(signal: Signal) -> list[int]:
    """Channels that hold one value (or rounding noise) throughout."""
    flat = []
    for i, kind in enumerate(signal.sensors.kind):
        values = signal.data[i]
        values = values[np.isfinite(values)]
        if not len(values):
            continue  # all NaN: reported as such
        # Numbers in another unit ("arbitrary") are flat only if they are constant.
        floor = 0.0 if "unit" in signal.details else UNITS[Kind(int(kind))].low * _FLAT_SHARE
        if float(values.max()) - float(values.min()) <= floor:
            flat.append(i)
    return flat


def channel_problems(signal: Signal) -> list[Problem]:
    """Channels with NaN or infinite values, and flat ones, by name."""
    names = signal.sensors.names
    problems = []
    broken = [i for i in range(len(names)) if not np.isfinite(signal.data[i]).all()]
    if broken:
        missing = int((~np.isfinite(signal.data[broken])).sum())
        problems.append(
            Problem(
                "warning",
                f"{len(broken)} of {len(names)} channels contain NaN or infinite values "
                f"({missing} samples): {listed([names[i] for i in broken])}.",
                "List them under `exclude` in the card's reader, or cut that part of the "
                "recording.",
                "nan_channels",
            )
        )
    flat = [i for i in flat_channels(signal) if signal.sensors.kind[i] in BRAIN_KINDS]
    if flat:
        problems.append(
            Problem(
                "warning",
                f"{len(flat)} of {len(names)} channels are flat: "
                f"{listed([names[i] for i in flat])}.",
                "A step `neurofm.data.InterpolateBads` replaces them; `exclude` in the card's "
                "reader "
                "leaves them out.",
                "flat_channels",
            )
        )
    return problems


def silent_ends(signal: Signal) -> tuple[float, float]:
    """Seconds at the start, and at the end, in which no brain channel changes at all.

    Units may be silent, and volumes of zeros are marked where images are read.
    """
    kinds = [int(k) for k in BRAIN_KINDS if k not in (Kind.UNIT, Kind.BOLD)]
    rows = np.flatnonzero(np.isin(signal.sensors.kind, kinds))
    data, n = signal.data, signal.data.shape[1]
    ends = []
    for at in (slice(None), slice(None, None, -1)):
        quiet, size = n, 1024
        for row in rows:
            values = data[row, at][:quiet]
            for low in range(0, len(values), size):  # most channels change at once
                moved = values[low : low + size] != values[0]
                if moved.any():
                    quiet = low + int(moved.argmax())
                    break
        ends.append(quiet / signal.sfreq if len(rows) else 0.0)
    return ends[0], ends[1]


def silence_problem(signal: Signal) -> Problem | None:
    """A recording that is dead at its start or end, such as a download with its last part zeros."""
    start, end = silent_ends(signal)
    if max(start, end) < _SILENT_S or start >= signal.duration:
        return None  # flat throughout is told by channel
    what = [f"the first {start:.2f} s"] if start >= _SILENT_S else []
    what += [f"the last {end:.2f} s"] if end >= _SILENT_S else []
    return Problem(
        "warning",
        f"No channel changes in {' and '.join(what)} of {signal.duration:.2f} s.",
        "The amplifier was off, or a download filled what it had not fetched with zeros: compare "
        "its checksum, or cut that part.",
        "silent_end",
    )


def position_problem(signal: Signal) -> Problem | None:
    """Brain channels whose position is unknown."""
    brain = np.isin(signal.sensors.kind, [int(k) for k in BRAIN_KINDS])
    unknown = np.flatnonzero(brain & ~signal.sensors.has_position)
    if not len(unknown):
        return None
    kinds = set(signal.sensors.kind[unknown].tolist())
    remedy = (
        "Give them standard names with `rename` and a `montage` (such as standard_1005) in the "
        "card's reader, or leave them out with `exclude`."
    )
    if Kind.EEG not in kinds:
        remedy = "A table of electrodes would give them; without one models see them as unknown."
    return Problem(
        "info" if kinds == {int(Kind.UNIT)} else "warning",
        f"{len(unknown)} of {int(brain.sum())} channels have no known position: "
        f"{listed([signal.sensors.names[i] for i in unknown])}.",
        remedy,
        "no_position",
    )


def clipped_channels(signal: Signal, *, run: int = 5, share: float = 1e-3) -> list[int]:
    """Channels that stay at their largest or smallest value.

    Args:
        signal: The recording.
        run: Equal samples in a row at the extreme that count as clipping.
        share: Least share of all samples in such runs.
    """
    found = []
    flat = flat_channels(signal)
    for i in range(len(signal.sensors)):
        kind = signal.sensors.kind[i]
        if i in flat or kind not in BRAIN_KINDS or kind == Kind.UNIT:
            continue  # a silent unit stays at its smallest count without being clipped
        values = signal.data[i]
        values = values[np.isfinite(values)]
        if len(values) < run:
            continue
        total = 0
        for extreme in (values.max(), values.min()):
            edges = np.flatnonzero(np.diff(np.r_[0, (values == extreme).astype(np.int8), 0]))
            lengths = edges[1::2] - edges[::2]
            total += int(lengths[lengths >= run].sum())
        if total >= max(2 * run, share * len(values)):
            found.append(i)
    return found


def line_noise(signal: Signal, freq: float) -> float:
    """Power at the mains frequency relative to its surround, median over channels.

    1 = no line noise; NaN if the recording is too short or its rate too low to tell.
    """
    import scipy.signal

    n = int(4 * signal.sfreq)
    if signal.sfreq < 2 * (freq + 2) or signal.data.shape[1] < n:
        return float("nan")
    # A minute from the middle is enough for a median over channels.
    start = max(signal.data.shape[1] // 2 - int(30 * signal.sfreq), 0)
    piece = signal.data[:, start : start + int(60 * signal.sfreq)]
    piece = piece[np.isfinite(piece).all(axis=1)]
    if not len(piece):
        return float("nan")
    f, power = scipy.signal.welch(piece, signal.sfreq, nperseg=n)
    near = np.abs(f - freq)
    surround = np.median(power[:, (near > 1) & (near < 4)], axis=1)
    peak = power[:, near < 0.6].max(axis=1)
    return float(np.median(peak[surround > 0] / surround[surround > 0])) if surround.any() else 1.0


def event_problem(signal: Signal) -> Problem | None:
    """Events with a duration that run into an event of another name.

    Marks of bad parts and joins may overlap anything, and an event over the whole recording does.
    """
    events = [
        event
        for event in signal.events
        if not event.label.upper().startswith(("BAD", "EDGE")) and event.duration < signal.duration
    ]
    step = 0.5 / signal.sfreq
    pairs = [
        (one, other)
        for one, other in itertools.pairwise(events)
        if one.duration > 0
        and other.label != one.label
        and other.onset > one.onset + step
        and one.onset + one.duration > other.onset + step
    ]
    if not pairs:
        return None
    first, second = pairs[0]
    return Problem(
        "info",
        f"{len(pairs)} of {len(events)} events overlap the next one of another name, such as "
        f"{first.label} ({first.onset:.2f} s, {first.duration:.2f} s long) and {second.label} "
        f"({second.onset:.2f} s).",
        "Windows cut at one of them hold the other as well: keep both in the same split.",
        "overlapping_events",
    )


def recording_problems(signal: Signal, line_freq: float | None) -> list[Problem]:
    """What takes a closer look than loading does: clipped channels, line noise, events."""
    problems = []
    overlap = event_problem(signal)
    if overlap is not None:
        problems.append(overlap)
    clipped = clipped_channels(signal)
    if clipped:
        problems.append(
            Problem(
                "warning",
                f"{len(clipped)} of {len(signal.sensors)} channels are clipped: "
                f"{listed([signal.sensors.names[i] for i in clipped])}.",
                "The amplifier's range was exceeded: leave those parts or channels out.",
                "clipped_channels",
            )
        )
    for freq in [line_freq] if line_freq else [50.0, 60.0]:
        ratio = line_noise(signal, freq)
        if ratio > _STRONG_LINE:
            problems.append(
                Problem(
                    "info",
                    f"Strong line noise at {freq:g} Hz.",
                    "`neurofm prepare` takes it out with a notch filter at the card's `line_freq`.",
                    f"line_noise_{freq:g}",
                )
            )
    return problems
