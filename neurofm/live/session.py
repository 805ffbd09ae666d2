"""A decoder on a stream: a prediction every step on the last window.

Windows end at whole multiples of the step on the clock of the samples, so that nothing drifts.
Latency is the time from the arrival of a window's last sample to its probabilities.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from neurofm.live.decoder import LiveDecoder
from neurofm.live.processing import Processing
from neurofm.live.samples import Faults, Piece, Regular
from neurofm.live.sources import Source
from neurofm.shapes import Float
from neurofm.types import Event, Signal
from neurofm.units import check_amplitude

_KEPT = 64 * 2**20  # bytes of raw samples that are kept to compare with offline predictions
_SILENT = 1e-9  # of the amplitude of training: what filters leave of an amplifier that is off
_JUDGED_S = 2.0  # seconds whose amplitude is judged before anything is believed


@dataclass(frozen=True)
class Prediction:
    """One line of the output.

    Args:
        number: Of the window: it ends at `number` steps.
        time_s: End of the window, seconds from the first sample.
        first: First sample of the window, at the rate of the model.
        probability: Of each class.
        latency_s: From the arrival of the last sample.
        hole: Samples in the window were missing and filled.
    """

    number: int
    time_s: float
    first: int
    probability: Float[np.ndarray, " class"]
    latency_s: float
    hole: bool = False


@dataclass
class Outcome:
    """What became of a stream."""

    faults: Faults
    predictions: list[Prediction] = field(default_factory=list)
    with_hole: int = 0
    warming_up: int = 0
    too_late: int = 0
    refused: int = 0
    refused_why: str = ""
    seconds: float = 0.0
    busy_s: float = 0.0
    ended: str = "the stream ended"
    raw: Signal | None = None

    def latency_s(self, percent: float | int) -> float:
        """A percentile of the latency, seconds; NaN without predictions."""
        found = [prediction.latency_s for prediction in self.predictions]
        return float(np.percentile(found, percent)) if found else math.nan

    @property
    def probability(self) -> Float[np.ndarray, "window class"]:
        """Of all predictions."""
        return np.stack([prediction.probability for prediction in self.predictions])

    @property
    def share(self) -> float:
        """Seconds of computing in a second of the stream."""
        return self.busy_s / self.seconds if self.seconds else math.nan


class Session:
    """One stream from beginning to end.

    Args:
        decoder: From `load_decoder` or `load_exported`.
        source: From `sources`.
        step_s: Seconds between predictions.
        holes: "skip" windows with filled samples, or "predict" them, marked.
        tolerance_s: Of time stamps, see `Regular`.

    Raises:
        ValueError: The stream cannot become what the decoder was trained for.
    """

    def __init__(
        self,
        decoder: LiveDecoder,
        source: Source,
        *,
        step_s: float = 0.25,
        holes: Literal["skip", "predict"] = "skip",
        tolerance_s: float = 0.02,
    ) -> None:
        if not step_s > 0:
            raise ValueError(f"--step is {step_s} s, expected above 0.")
        self.decoder, self.source, self.step_s, self.holes = decoder, source, step_s, holes
        facts = decoder.facts
        self.processing = Processing(facts.steps(), source.head, facts.channels)
        self.n = round(facts.window_s * self.processing.sfreq)
        if step_s * self.processing.sfreq < 1:
            raise ValueError(
                f"--step {step_s:g} s is less than a sample at {self.processing.sfreq:g} Hz."
            )
        self.regular = Regular(
            source.head.sfreq, tolerance_s=tolerance_s, longest_s=max(facts.window_s, 1.0)
        )
        self.outcome = Outcome(self.regular.faults)
        ready = self.processing.warm_up_s * self.processing.sfreq
        self._ready = math.ceil(ready)
        self._buffer = np.zeros((len(self.processing.head.sensors), 0), dtype=np.float32)
        self._first = 0  # number of the buffer's first sample
        self._number = 1
        self._raw: list[np.ndarray] = []
        self._edges: list[Event] = []
        self._judged = False

    def warm_up(self) -> None:
        """One prediction on noise, so that the first of the stream is no slower than the others."""
        noise = np.random.default_rng(0).standard_normal((1, len(self._buffer), self.n))
        self._probabilities(noise.astype(np.float32) * self.decoder.facts.amplitude, judge=False)

    def run(self, emit: Callable[[Prediction], None] = lambda prediction: None) -> Outcome:
        """Predict until the stream ends or Ctrl-C.

        Args:
            emit: Called with each prediction, at once.
        """
        self.warm_up()
        try:
            for piece in self.source.pieces():
                self._take(piece, emit)
        except KeyboardInterrupt:
            self.outcome.ended = "interrupted"
        self.outcome.seconds = self.regular.n / self.source.head.sfreq
        if self._raw:
            raw = np.concatenate(self._raw, axis=1)
            head = self.source.head
            self.outcome.raw = replace(head, data=raw, events=tuple(self._edges))
        return self.outcome

    def _take(self, piece: Piece, emit: Callable[[Prediction], None]) -> None:
        begin = time.perf_counter()
        for data, restart in self.regular(piece):
            self._keep(data, restart)
            new = self.processing(data, restart=restart)
            if restart:
                self._begin_anew()
            self._buffer = np.concatenate([self._buffer, new], axis=1)
        self._judge()
        self._predict(piece.arrived, emit)
        self.outcome.busy_s += time.perf_counter() - begin

    def _begin_anew(self) -> None:
        """No window may reach over the place where a stream stopped and began again."""
        self._first += self._buffer.shape[1]
        self._buffer = self._buffer[:, :0]
        rate = self.processing.sfreq
        while self._end(self._number) - self.n < self._first:
            self._number += 1
        self._ready = max(self._ready, self._first)
        self.regular.forget(round(self._first / rate * self.source.head.sfreq))

    def _end(self, number: int) -> int:
        """Sample behind a window; counted from the start each time, so that errors never add up."""
        return round(number * self.step_s * self.processing.sfreq)

    def _predict(self, arrived: float, emit: Callable[[Prediction], None]) -> None:
        came = self._first + self._buffer.shape[1]
        while (end := self._end(self._number)) <= came:
            number, first = self._number, end - self.n
            self._number += 1
            if first < 0:
                continue
            if first < self._ready:
                self.outcome.warming_up += 1
                continue
            behind = time.perf_counter() - arrived
            if self.source.live and behind > self.step_s and self._end(self._number) <= came:
                self.outcome.too_late += 1
                continue
            ratio = self.source.head.sfreq / self.processing.sfreq
            hole = self.regular.has_hole(first * ratio, end * ratio)
            self.outcome.with_hole += hole
            if hole and self.holes == "skip":
                continue
            window = self._buffer[None, :, first - self._first : end - self._first]
            if np.ptp(window, axis=-1).max() <= _SILENT * self.decoder.facts.amplitude:
                self.outcome.refused += 1
                self.outcome.refused_why = (
                    f"no channel changes in the {self.decoder.facts.window_s:g} s up to "
                    f"{end / self.processing.sfreq:g} s: the amplifier is off or not connected."
                )
                continue
            probability = self._probabilities(window, judge=True)
            if probability is None:
                continue
            latency = time.perf_counter() - arrived
            made = Prediction(
                number, end / self.processing.sfreq, first, probability[0], latency, hole
            )
            self.outcome.predictions.append(made)
            emit(made)
        needed = min(max(self._end(self._number) - self.n, self._first), came)
        self._buffer, self._first = self._buffer[:, needed - self._first :], needed
        self.regular.forget(int(needed * self.source.head.sfreq / self.processing.sfreq))

    def _probabilities(
        self, x: Float[np.ndarray, "window channel time"], *, judge: bool
    ) -> Float[np.ndarray, "window class"] | None:
        """None where the decoder refuses a window, after it took one."""
        made = self.processing
        try:
            return self.decoder.probabilities(
                x, made.head.sensors, sfreq=made.sfreq, unit=made.unit, band=made.band
            )
        except ValueError as error:
            if judge and not self.outcome.predictions:
                raise
            if judge:
                self.outcome.refused += 1
                self.outcome.refused_why = str(error)
            elif "amplitude" not in str(error):  # of the noise, which is nobody's signal
                raise
            return None

    def _keep(self, data: np.ndarray, restart: bool) -> None:
        """Raw samples from the start, as long as there is room."""
        kept = sum(part.shape[1] for part in self._raw)
        before = self.regular.n - data.shape[1]
        room = _KEPT // (4 * len(data)) - kept
        if kept == before and room >= data.shape[1]:
            if restart:
                self._edges.append(Event(before / self.source.head.sfreq, 0.0, "EDGE restart"))
            self._raw.append(data)

    def _judge(self) -> None:
        """Stop at a wrong unit as soon as there is something to judge by."""
        head = self.source.head
        if self._judged or self.regular.n < _JUDGED_S * head.sfreq or "unit" in head.details:
            return
        self._judged = True
        data = np.concatenate(self._raw, axis=1)
        try:
            check_amplitude(data, head.sensors.kind, sfreq=head.sfreq, where="the stream")
        except ValueError as error:
            raise ValueError(f"{error} For an LSL stream: --unit.") from error
