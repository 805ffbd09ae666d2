"""Feature cards: what a latent of a brain model answers to, in terms of the recording.

The segments that excite a latent most, their spectrum and topography against all segments of the
same people, the classes it tells apart, and whether it belongs to single people. A card describes
what goes along with a latent; what it does is for `latent_effects` to say.

Axes: window channel time; token latent; frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.decomposition.association import (
    Association,
    associate,
    subject_specificity,
)
from neurofm.interpret.generated import spectrum
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AROUND_HZ = 2.0
_TINY = 1e-30


@dataclass(frozen=True)
class Segment:
    """A stretch of signal that excites a latent.

    Args:
        window: Position in the batch.
        start_s: Seconds from the start of the window.
        onset_s: Seconds from the start of the recording.
        recording: Index into the data module's list.
        subject: Index into the data module's list.
        activation: Of the latent, the largest of the tokens at this time.
    """

    window: int
    start_s: float
    onset_s: float
    recording: int
    subject: int
    activation: float


@dataclass(frozen=True)
class FeatureCard:
    """One latent.

    Args:
        latent: Its number.
        density: Share of tokens for which it speaks.
        segments: Those that excite it most, the strongest first.
        segment_s: Their length, seconds.
        frequency: Hz.
        spectrum: Mean power density of the segments, over channels; squared `unit` per Hz.
        background: The same of all segments of the same people, in the same shares.
        peak_hz: Where the ratio of both is farthest from 1.
        topography: Power of the segments within 2 Hz of `peak_hz` against the background, dB; None
            where windows have different sensors.
        position: Metres, of the sensors; None as `topography`.
        names: Of the sensors, where known.
        classes: What it tells apart: name to area under the curve (chance 0.5), its interval over
            subjects and its q.
        specificity: 0, all people alike, to 1, one person alone; NaN for a single one.
        n_subjects: People in the windows.
        unit: Of the signal.
    """

    latent: int
    density: float
    segments: tuple[Segment, ...]
    segment_s: float
    frequency: Float[np.ndarray, " frequency"]
    spectrum: Float[np.ndarray, " frequency"]
    background: Float[np.ndarray, " frequency"]
    peak_hz: float
    topography: Float[np.ndarray, " channel"] | None
    position: Float[np.ndarray, "channel 3"] | None
    names: tuple[str, ...] | None
    classes: dict[str, tuple[float, float, float, float]]
    specificity: float
    n_subjects: int
    unit: str

    @property
    def strongest_channel(self) -> str:
        """Where the topography is farthest from zero; "" where it is not known."""
        if self.topography is None or self.names is None:
            return ""
        return self.names[int(np.nanargmax(np.abs(self.topography)))]

    def __str__(self) -> str:
        at = int(np.argmin(np.abs(self.frequency - self.peak_hz)))
        change = 10 * np.log10((self.spectrum[at] + _TINY) / (self.background[at] + _TINY))
        told = ", ".join(
            f"{name} {area:.2f} ({low:.2f} to {high:.2f}, q {q:.2g})"
            for name, (area, low, high, q) in self.classes.items()
        )
        where = f", most at {self.strongest_channel}" if self.strongest_channel else ""
        return (
            f"latent {self.latent}: speaks for {self.density:.1%} of tokens; {change:+.1f} dB at "
            f"{self.peak_hz:.1f} Hz{where}; area under the curve, chance 0.5: {told or '-'}"
            f"; specificity {self.specificity:.2f} over {self.n_subjects} people"
        )

    def plot(self) -> Figure:
        """Spectrum, topography and classes beside each other."""
        from neurofm.interpret.decomposition.drawings import plot_card

        return plot_card(self)


def feature_cards(
    latents: Float[np.ndarray, "window token latent"] | Float[Tensor, "window token latent"],
    batch: Batch,
    times: Float[np.ndarray, " moment"] | Float[Tensor, " moment"],
    *,
    which: Sequence[int] | None = None,
    n_cards: int = 5,
    labels: Sequence[str] = (),
    n_segments: int = 20,
    segment_s: float = 1.0,
) -> list[FeatureCard]:
    """Describe latents by the signal they answer to.

    Args:
        latents: Activations of each token.
        batch: The windows they were made from, with signal.
        times: Centre of each token, seconds from the start of the window (`Tokens.time`).
        which: Latents; if not given, the `n_cards` that tell classes apart best, or speak most
            where there are no labels.
        labels: Of `batch.y`; classes are compared if given.
        n_segments: Per card, at least half a segment apart.
        segment_s: Seconds; spectra resolve its inverse.

    Raises:
        ValueError: The batch has no signal, shapes disagree, or a latent never speaks.
    """
    z, t = np.asarray(latents), np.asarray(times, dtype=np.float64)
    _check(z, batch, t, segment_s)
    x, sfreq = np.asarray(batch.x, dtype=np.float64), batch.sfreq
    subject = np.asarray(batch.subject)
    told: Association | None = None
    if len(labels):
        y = np.asarray(batch.y)
        told = associate(z.mean(1), y, labels=labels, subject=subject)
    density = (z > 0).mean((0, 1))
    if which is None:
        order = told.order() if told is not None else np.argsort(-density, kind="stable")
        which = [int(i) for i in order if density[i] > 0][:n_cards]
    rest = {int(s): spectrum(x[subject == s], sfreq, segment_s=segment_s) for s in set(subject)}
    specific = subject_specificity(z.reshape(-1, z.shape[2]), np.repeat(subject, z.shape[1]))
    n_people = len(set(subject.tolist()))
    at_time, moments = _loudest(z[..., list(which)], t)
    cards = []
    for number, latent in enumerate(which):
        if density[latent] == 0:
            raise ValueError(
                f"feature_cards: latent {latent} speaks for no token of these windows."
            )
        segments = _segments(at_time[..., number], moments, batch, n_segments, segment_s)
        cut = _cut(x, segments, sfreq, segment_s)
        frequency, power = spectrum(cut, sfreq, segment_s=segment_s)
        background = np.mean([rest[s.subject][1] for s in segments], axis=0)
        peak, map_ = _compare(frequency, power, background, batch)
        alike = map_ is not None
        cards.append(
            FeatureCard(
                latent=int(latent),
                density=float(density[latent]),
                segments=tuple(segments),
                segment_s=segment_s,
                frequency=frequency,
                spectrum=_mean(power, batch, segments),
                background=_mean(background, batch, segments),
                peak_hz=peak,
                topography=map_,
                position=np.asarray(batch.position[0]) if alike else None,
                names=batch.names if alike else None,
                classes=_classes(told, int(latent)),
                specificity=float(specific[latent]),
                n_subjects=n_people,
                unit="µV" if batch.unit == "physical" else batch.unit,
            )
        )
    return cards


def _check(z: np.ndarray, batch: Batch, times: np.ndarray, segment_s: float) -> None:
    if not batch.has_signal:
        raise ValueError("feature_cards: the batch has tokens and no signal; read the signal, too.")
    if z.ndim != 3 or z.shape[:2] != (len(batch), len(times)):
        raise ValueError(
            f"feature_cards: latents have shape {z.shape} for {len(batch)} windows and "
            f"{len(times)} tokens; expected window x token x latent."
        )
    if segment_s * batch.sfreq > batch.x.shape[-1]:
        raise ValueError(
            f"feature_cards: segments of {segment_s} s in windows of "
            f"{batch.x.shape[-1] / batch.sfreq:g} s."
        )


def _loudest(z: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens at the same moment (of several sources) count as one: window × moment × latent."""
    moments, where = np.unique(times, return_inverse=True)
    return np.stack([z[:, where == i].max(1) for i in range(len(moments))], 1), moments


def _segments(
    z: Float[np.ndarray, "window moment"],
    moments: np.ndarray,
    batch: Batch,
    n: int,
    segment_s: float,
) -> list[Segment]:
    last = batch.x.shape[-1] / batch.sfreq - segment_s
    found: list[Segment] = []
    for flat in np.argsort(-z, axis=None, kind="stable"):
        window, moment = divmod(int(flat), z.shape[1])
        if len(found) == n or z[window, moment] <= 0:
            break
        start = float(np.clip(moments[moment] - segment_s / 2, 0, last))
        if any(s.window == window and abs(s.start_s - start) < segment_s / 2 for s in found):
            continue
        found.append(
            Segment(
                window=window,
                start_s=start,
                onset_s=float(batch.onset[window]) + start,
                recording=int(batch.recording[window]),
                subject=int(batch.subject[window]),
                activation=float(z[window, moment]),
            )
        )
    return found


def _cut(
    x: np.ndarray, segments: Sequence[Segment], sfreq: float, segment_s: float
) -> Float[np.ndarray, "segment channel time"]:
    n = round(segment_s * sfreq)
    starts = [min(round(s.start_s * sfreq), x.shape[-1] - n) for s in segments]
    return np.stack([x[s.window, :, i : i + n] for s, i in zip(segments, starts, strict=True)])


def _mean(power: np.ndarray, batch: Batch, segments: Sequence[Segment]) -> np.ndarray:
    """Over channels that are real in these segments."""
    real = np.asarray(batch.channel_mask)[[s.window for s in segments]].any(0)
    return power[real].mean(0)


def _compare(
    frequency: np.ndarray, power: np.ndarray, background: np.ndarray, batch: Batch
) -> tuple[float, np.ndarray | None]:
    """Where segments differ from the rest: a frequency, and a map around it."""
    real = np.asarray(batch.channel_mask).all(0)
    inside = frequency > 0
    if batch.band is not None:  # ratios of what filters left over mean nothing
        inside &= (frequency >= batch.band[0]) & (frequency <= batch.band[1])
    ratio = 10 * np.log10((power[real].mean(0) + _TINY) / (background[real].mean(0) + _TINY))
    peak = float(frequency[inside][np.abs(ratio[inside]).argmax()])
    around = inside & (np.abs(frequency - peak) <= AROUND_HZ)
    if not bool((batch.position == batch.position[:1]).all()):
        return peak, None
    sums = power[:, around].sum(1), background[:, around].sum(1)
    map_ = 10 * np.log10((sums[0] + _TINY) / (sums[1] + _TINY))
    known = real & np.asarray(batch.has_position)[0]
    return peak, np.where(known, map_, np.nan)


def _classes(told: Association | None, latent: int) -> dict[str, tuple[float, float, float, float]]:
    if told is None:
        return {}
    return {
        name: (
            float(told.auroc[latent, j]),
            *told.interval(latent, j),
            float(told.q[latent, j]),
        )
        for j, name in enumerate(told.labels)
    }
