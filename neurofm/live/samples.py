"""Time-stamped pieces of a stream as samples on a regular clock; what is lost is filled and marked.

A sample belongs to the clock tick next to its time stamp. The clock follows slow drift of the
stamps; jitter below `tolerance_s` is ignored. Ticks without a sample are filled on a straight line
and remembered as holes, so that windows over them can be told from others. Samples that come for a
tick that has passed are left out. After a pause longer than `longest_s` the stream starts anew.

Axes: channel time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from neurofm.shapes import Float

_FOLLOW = 0.02  # share of a piece's mean offset by which the clock is moved
_WATCHED_S = 2.0  # time stamps that are looked at to tell the real rate


@dataclass(frozen=True)
class Piece:
    """Samples as they arrived.

    Args:
        data: Working units.
        times: Seconds, of each sample, on the clock of the source.
        arrived: Seconds, when we had them, on our own clock.
    """

    data: Float[np.ndarray, "channel time"]
    times: Float[np.ndarray, " time"]
    arrived: float


@dataclass
class Faults:
    """What was wrong with a stream, in samples of its own rate.

    `bad_channels` counts the samples that are not finite by the place of the channel.
    """

    holes: int = 0
    missing: int = 0
    late: int = 0
    not_finite: int = 0
    restarts: int = 0
    offsets_s: list[float] = field(default_factory=list)
    bad_channels: Counter[int] = field(default_factory=Counter)

    @property
    def jitter_s(self) -> float:
        """Standard deviation of the time stamps about a regular clock, seconds."""
        return float(np.std(self.offsets_s)) if self.offsets_s else 0.0


class Regular:
    """Puts pieces on a regular clock.

    Args:
        sfreq: Hz, as the stream says.
        tolerance_s: Jitter that is none of our business, seconds.
        longest_s: Longest hole that is filled, seconds.
    """

    def __init__(self, sfreq: float, *, tolerance_s: float = 0.02, longest_s: float = 4.0) -> None:
        self.sfreq, self.tolerance_s, self.longest_s = sfreq, tolerance_s, longest_s
        self.faults = Faults()
        self.n = 0  # samples given out
        self.holes: list[tuple[int, int]] = []  # first and last tick + 1, the newest last
        self._start: float | None = None  # time of tick 0
        self._last: np.ndarray | None = None
        self._steps: list[np.ndarray] = []
        self._watched = 0

    def __call__(self, piece: Piece) -> Iterator[tuple[Float[np.ndarray, "channel time"], bool]]:
        """Samples for the next ticks, and whether they begin anew.

        Raises:
            ValueError: The stamps tell another rate than the stream.
        """
        if not len(piece.times):
            return
        self._watch(piece.times)
        limit = max(1.5, self.tolerance_s * self.sfreq)
        jumps = np.abs(np.diff(piece.times) * self.sfreq - 1) >= limit
        edges = [0, *(np.flatnonzero(jumps) + 1).tolist(), len(piece.times)]
        for first, last in pairwise(edges):
            yield from self._part(piece.data[:, first:last], piece.times[first:last], limit)

    def _part(
        self, data: np.ndarray, times: np.ndarray, limit: float
    ) -> Iterator[tuple[np.ndarray, bool]]:
        restart = False
        if self._start is None:
            self._start = float(times[0])
        ticks = self.n + np.arange(len(times))
        offset = (times - self._start) * self.sfreq - ticks
        away = float(offset[0])
        if away >= limit:
            missing = round(away)
            if missing > self.longest_s * self.sfreq or self._last is None:
                restart = True
                self.faults.restarts += 1
                self._start = float(times[0]) - self.n / self.sfreq
            else:
                yield self._bridge(data[:, 0], missing), False
        elif away <= -limit:
            passed = min(round(-away), data.shape[1])
            self.faults.late += passed
            data, times = data[:, passed:], times[passed:]
            if not len(times):
                return
        offset_s = times - self._start - (self.n + np.arange(len(times))) / self.sfreq
        self._start += _FOLLOW * float(offset_s.mean())
        if len(self.faults.offsets_s) < 10_000:
            self.faults.offsets_s.extend(offset_s[:: max(len(offset_s) // 4, 1)].tolist())
        data = self._finite(data)
        self.n += data.shape[1]
        self._last = data[:, -1]
        yield data, restart

    def _bridge(self, after: np.ndarray, missing: int) -> np.ndarray:
        assert self._last is not None
        share = np.arange(1, missing + 1) / (missing + 1)
        after = np.where(np.isfinite(after), after, self._last)
        line = self._last[:, None] + (after - self._last)[:, None] * share
        self.faults.holes += 1
        self.faults.missing += missing
        self._mark(self.n, self.n + missing)
        self.n += missing
        return line.astype(np.float32)

    def _finite(self, data: np.ndarray) -> np.ndarray:
        """NaN and infinity replaced by the sample before, and marked."""
        bad = ~np.isfinite(data)
        if not bad.any():
            return data
        data = data.copy()
        wrong = np.flatnonzero(bad.any(axis=0))
        for at in wrong.tolist():
            before = data[:, at - 1] if at else self._last
            data[bad[:, at], at] = 0.0 if before is None else before[bad[:, at]]
        self.faults.not_finite += len(wrong)
        self.faults.bad_channels.update(np.nonzero(bad)[0].tolist())
        self._mark(self.n + int(wrong[0]), self.n + int(wrong[-1]) + 1)
        return data

    def _mark(self, first: int, last: int) -> None:
        self.holes.append((first, last))

    def forget(self, before: int) -> None:
        """Drop the holes that end before a tick."""
        self.holes = [hole for hole in self.holes if hole[1] > before]

    def has_hole(self, first: float, last: float) -> bool:
        """Whether something between two ticks was filled."""
        return any(start < last and first < stop for start, stop in self.holes)

    def _watch(self, times: np.ndarray) -> None:
        """Compare the usual distance of stamps with the rate, once there are enough."""
        if self._watched < 0:
            return
        self._steps.append(np.diff(times))
        self._watched += len(times)
        if self._watched < _WATCHED_S * self.sfreq:
            return
        steps = np.concatenate(self._steps)
        usual = float(np.median(steps)) if len(steps) else 0.0
        self._watched = -1
        # Stamps of a whole piece at once say nothing.
        if usual > 0 and not 0.9 < usual * self.sfreq < 1.1:
            raise ValueError(
                f"the stream says {self.sfreq:g} Hz, but its time stamps are {1000 * usual:.4g} ms "
                f"apart, which is {1 / usual:.4g} Hz. Correct the rate where the stream is made."
            )
