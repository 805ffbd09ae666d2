"""Simulated oddball runs with a known answer: how large, when and where the response to targets is.

Every run looks like one of the Muse P300 recordings: four electrodes against Fpz, a stimulus about
every 0.6 s, one in six a target. Current dipoles in a four-shell sphere make the brain's part: a
response of visual cortex to every stimulus, a later parietal one to targets alone (the P300), both
jittered from trial to trial, a 1/f background of many dipoles and occipital alpha. Blinks and
electrode drift are added. Labels are drawn without regard to anything else.

Source: Polich 2007 (latency and topography of the P300); Luck 2014 (amplitudes).
Axes: channel time. Metres in the head frame, microvolts, Hz, seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.electrodes import template_positions
from neurofm.io.simulated.forward import fit_sphere, lead_field
from neurofm.io.simulated.noise import noise, seeded, unit
from neurofm.io.simulated.people import numbered, require_known, require_subject
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

CHANNELS = ("TP9", "AF7", "AF8", "TP10")
REFERENCE = "Fpz"
_TARGETS = 1 / 6
_N_BACKGROUND = 200
_BETWEEN_S = (0.5, 0.7)
_EDGE_S = 1.0


@dataclass(frozen=True)
class OddballTruth:
    """What was planted in one simulated subject.

    Args:
        latency_s: Of the height of the response to targets.
        width_s: Its standard deviation in time, a Gaussian.
        pattern: At its height, microvolts; the mean over trials is a little lower and wider.
        jitter_s: Standard deviation of the latency from trial to trial.
        sensory: Response to every stimulus at its height, 0.17 s.
    """

    latency_s: float
    width_s: float
    pattern: Float[np.ndarray, " channel"]
    jitter_s: float
    sensory: Float[np.ndarray, " channel"]


@dataclass(frozen=True)
class _Head:
    truth: OddballTruth
    background: np.ndarray  # channel channel: mixes independent noise as the dipoles would
    alpha: np.ndarray
    blink: np.ndarray
    blink_rate: float  # per second


@functools.lru_cache(maxsize=128)
def _head(subject: str, seed: int, p300: float, channels: tuple[str, ...]) -> _Head:
    """Draw one head. Nothing but the response to targets depends on `p300`."""
    rng = seeded(seed, subject, "oddball")
    template = template_positions("standard_1005")
    center, radius = fit_sphere(np.array(list(template.values())))
    places = np.array([template[name] for name in (*channels, REFERENCE)])
    electrode = places + rng.normal(0, 1.5e-3, places.shape)

    def field(position: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        full = lead_field(electrode, position, orientation, center=center, radius=radius)
        return full[:-1] - full[-1]

    def source(over: str, depth: float, tilt: float) -> np.ndarray:
        outwards = unit(template[over] - center) + rng.normal(0, 0.05, 3)
        direction = unit(outwards + np.array([0.0, tilt, 0.0]))
        gain = field((center + depth * radius * unit(outwards))[None], direction[None])[:, 0]
        return gain / np.abs(gain).max()

    where = unit(rng.normal(size=(_N_BACKGROUND, 3)))
    where[:, 2] = np.maximum(where[:, 2], -0.4)
    where = center + radius * rng.uniform(0.4, 0.85, (_N_BACKGROUND, 1)) * unit(where)
    mixing = field(where, unit(rng.normal(size=(_N_BACKGROUND, 3))))
    mixing *= 12.0 / float(np.median(np.sqrt((mixing**2).sum(1))))
    values, vectors = np.linalg.eigh(mixing @ mixing.T)
    truth = OddballTruth(
        latency_s=float(rng.uniform(0.33, 0.42)),
        width_s=float(rng.uniform(0.06, 0.08)),
        pattern=p300 * float(rng.uniform(0.8, 1.2)) * source("Pz", 0.7, 0.0),
        jitter_s=0.02,
        sensory=float(rng.uniform(2.5, 4.0)) * source("Oz", 0.8, -0.3),
    )
    return _Head(
        truth=truth,
        background=vectors * np.sqrt(np.maximum(values, 0)),
        alpha=float(rng.uniform(3, 6)) * source("POz", 0.75, 0.2),
        blink=float(rng.uniform(60, 120)) * source("AFz", 0.84, 1.0),
        blink_rate=float(rng.uniform(0.05, 0.15)),
    )


def simulate_oddball(
    subject: str,
    run: str,
    *,
    seed: int = 0,
    sfreq: float = 256.0,
    p300: float = 8.0,
    n_stimuli: int = 120,
    channels: Sequence[str] = CHANNELS,
    dataset: str = "synthetic",
) -> Signal:
    """One run of one simulated person, always the same for the same arguments.

    Args:
        subject: Any name; the head is drawn from it and the seed.
        run: Any name; the noise and the order of stimuli are drawn from it too.
        sfreq: Hz, at least 64.
        p300: Microvolts at the strongest electrode, the mean over people; 0 leaves nothing that
            tells targets, with all else the same.
        n_stimuli: One in six is a target, two or more.
        channels: Names of the 10-05 system, against Fpz.

    Returns:
        Microvolts, with events `target` and `non_target`.
    """
    if not p300 >= 0 or sfreq < 64 or n_stimuli < 12:
        raise ValueError(
            f"simulate_oddball: p300 {p300} µV, sfreq {sfreq} Hz, n_stimuli {n_stimuli}; expected "
            "0 or more, at least 64 Hz and at least 12 stimuli."
        )
    head = _head(subject, seed, float(p300), tuple(channels))
    rng = seeded(seed, subject, run, "oddball")
    onset = _EDGE_S + np.cumsum(rng.uniform(*_BETWEEN_S, n_stimuli))
    target = rng.permutation(np.arange(n_stimuli) < round(_TARGETS * n_stimuli))
    n_times = round((onset[-1] + _EDGE_S) * sfreq)
    time = np.arange(n_times) / sfreq
    truth = head.truth

    slow = noise(rng, len(channels), n_times, sfreq, band="power", exponent=1.4)
    alpha = noise(rng, 1, n_times, sfreq, band="peak", freq=10.0, width=0.8)
    data = head.background @ slow + head.alpha[:, None] * alpha
    data += 3.0 * noise(rng, len(channels), n_times, sfreq, band="drift")
    data += rng.standard_normal(data.shape)
    for at in rng.uniform(0, time[-1], rng.poisson(head.blink_rate * time[-1])):
        data += head.blink[:, None] * np.exp(-0.5 * ((time - at) / 0.08) ** 2)
    late = rng.normal(truth.latency_s, truth.jitter_s, n_stimuli)
    strong = rng.lognormal(0, 0.2, (2, n_stimuli))
    for i in range(n_stimuli):
        first, last = np.searchsorted(time, [onset[i], onset[i] + 1.0])
        since = time[first:last] - onset[i]
        seen = strong[0, i] * np.exp(-0.5 * ((since - 0.17) / 0.03) ** 2)
        data[:, first:last] += truth.sensory[:, None] * seen
        if target[i]:
            noticed = strong[1, i] * np.exp(-0.5 * ((since - late[i]) / truth.width_s) ** 2)
            data[:, first:last] += truth.pattern[:, None] * noticed
    labels = ["target" if hit else "non_target" for hit in target]
    template = template_positions("standard_1005")
    return Signal(
        data=data.astype(np.float32),
        sfreq=float(sfreq),
        sensors=Sensors.of_kind(
            tuple(channels), Kind.EEG, np.array([template[name] for name in channels])
        ),
        events=tuple(
            Event(onset=float(at), duration=0.1, label=label)
            for at, label in zip(onset, labels, strict=True)
        ),
        recording=Recording(dataset=dataset, subject=subject, run=run, task="oddball"),
        history=(f"simulated: seed {seed}, p300 {p300:g}",),
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticOddballReader:
    """A corpus of simulated people, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many runs of about a minute each; they are called "01", "02", ...
        sfreq: Hz.
        seed: Another seed gives other people.
        p300: Mean height of the response to targets, microvolts; 0 = nothing to decode.
        n_stimuli: Of a run.
        channels: Names of the 10-05 system.
    """

    dataset: str
    root: Path | str | None = None
    subjects: int = 4
    runs: int = 4
    sfreq: float = 256.0
    seed: int = 0
    p300: float = 8.0
    n_stimuli: int = 120
    channels: Sequence[str] = CHANNELS

    def __post_init__(self) -> None:
        self.recordings()

    def recordings(self) -> list[Recording]:
        """Every run of every subject."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="oddball")

    def load(self, recording: Recording) -> Signal:
        """One simulated run, in microvolts.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        return simulate_oddball(
            recording.subject,
            str(recording.run),
            seed=self.seed,
            sfreq=self.sfreq,
            p300=self.p300,
            n_stimuli=self.n_stimuli,
            channels=self.channels,
            dataset=self.dataset,
        )

    def truth(self, subject: str) -> OddballTruth:
        """What was planted in this subject."""
        require_subject(subject, self.recordings())
        return _head(subject, self.seed, float(self.p300), tuple(self.channels)).truth
