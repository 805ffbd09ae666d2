"""Simulated motor imagery with a known answer: which hemisphere, which rhythm, how strong.

Every run looks like a run of the EEG motor imagery corpus of Schalk et al. 2004: 64 electrodes, 15
cued trials of 4.1 s alternating with 4.2 s of rest. Current dipoles in a four-shell sphere make the
brain's part: a 1/f background of many dipoles, occipital alpha, and in each hemisphere a mu rhythm
behind and a beta rhythm in front of the central sulcus. During imagery the rhythms opposite to the
hand weaken, the ones on its own side a little; beta rebounds afterwards. Blinks, muscle bursts,
electrode drift and line noise are added, and linked earlobes are subtracted as an amplifier would.
Alpha drops at every cue whatever the hand, so only the motor rhythms tell left from right.

Source: Pfurtscheller & Lopes da Silva 1999 (time course of desynchronisation); Salmelin & Hari 1994
(mu behind, beta in front of the sulcus).
Axes: channel time source. Metres in the head frame, microvolts, nA·m, Hz, seconds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit

from neurofm.io.electrodes import template_positions
from neurofm.io.simulated.forward import fit_sphere, lead_field
from neurofm.io.simulated.noise import noise, seeded, unit
from neurofm.io.simulated.people import numbered, require_known, require_subject
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

_NAMES = (
    "FC5 FC3 FC1 FCz FC2 FC4 FC6 C5 C3 C1 Cz C2 C4 C6 CP5 CP3 CP1 CPz CP2 CP4 CP6 Fp1 Fpz Fp2 AF7 "
    "AF3 AFz AF4 AF8 F7 F5 F3 F1 Fz F2 F4 F6 F8 FT7 FT8 T7 T8 T9 T10 TP7 TP8 P7 P5 P3 P1 Pz P2 P4 "
    "P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2 Iz"
)
CHANNELS = tuple(_NAMES.split())
HEMISPHERE = {"left_hand": "right", "right_hand": "left"}  # the one that plans the hand
_REFERENCE = ("A1", "A2")
_REST_S, _TRIAL_S = 4.2, 4.1
_LINE_HZ = 60.0
_N_BACKGROUND = 300
_WEAK = 0.2  # share of the effect left in a weak subject
_IPSILATERAL = 0.25  # share of the drop seen on the side of the hand
# Electrodes over each source, its distance from the centre (head radii) and the direction of its
# current: outwards along the radius plus this much to the front.
_SOURCES = {
    "left_mu": (("C3", "CP3"), 0.80, 0.3),
    "right_mu": (("C4", "CP4"), 0.80, 0.3),
    "left_beta": (("C3", "FC3"), 0.80, -0.3),
    "right_beta": (("C4", "FC4"), 0.80, -0.3),
    "left_alpha": (("O1", "PO3"), 0.75, 0.2),
    "right_alpha": (("O2", "PO4"), 0.75, 0.2),
}
_EYES = np.array([[-0.033, 0.085, 0.0], [0.033, 0.085, 0.0]])


@dataclass(frozen=True)
class Truth:
    """What was planted in one simulated subject.

    Args:
        hemisphere: Which hemisphere's rhythms fall, for each label.
        channel: Electrode over that hemisphere's mu source, for each label.
        erd: Share of the mu amplitude that is lost at the height of imagery, 0 to 1.
        mu_freq: Hz.
        beta_freq: Hz.
        sources: Names, in the order of the arrays below.
        position: Metres, head frame.
        orientation: Unit vectors.
        rms: nA·m, of each source at rest.
        lead_field: Microvolts per nA·m at `CHANNELS`, against linked earlobes.
    """

    hemisphere: dict[str, str]
    channel: dict[str, str]
    erd: float
    mu_freq: float
    beta_freq: float
    sources: tuple[str, ...]
    position: Float[np.ndarray, "source 3"]
    orientation: Float[np.ndarray, "source 3"]
    rms: Float[np.ndarray, " source"]
    lead_field: Float[np.ndarray, "channel source"]


@dataclass(frozen=True)
class _Subject:
    """Everything about a head that does not change between its runs."""

    truth: Truth
    alpha_freq: float
    exponent: float  # background power falls as 1/f to this power
    background: np.ndarray  # channel channel: mixes independent noise as the dipoles would
    blink: np.ndarray  # channel, microvolts at the height of a blink
    blink_rate: float  # per second
    burst_rate: float
    line: float  # microvolts


def _places(names: tuple[str, ...]) -> Float[np.ndarray, "channel 3"]:
    """Template positions, metres in the head frame."""
    template = template_positions("standard_1005")
    return np.array([template[name] for name in names])


@functools.lru_cache(maxsize=128)
def _subject(subject: str, seed: int, erd: float) -> _Subject:
    """Draw one head. Nothing but the drop itself depends on `erd`."""
    rng = seeded(seed, subject)
    template = _places(CHANNELS + _REFERENCE)
    center, radius = fit_sphere(template)
    # The cap never sits exactly where the file says it does.
    electrode = template + rng.normal(0, 2e-3, 3) + rng.normal(0, 1.5e-3, template.shape)

    def field(position: np.ndarray, orientation: np.ndarray) -> np.ndarray:
        full = lead_field(electrode, position, orientation, center=center, radius=radius)
        return full[: len(CHANNELS)] - full[len(CHANNELS) :].mean(0)

    position, orientation = [], []
    for over, depth, tilt in _SOURCES.values():
        outwards = unit((_places(over) - center).mean(0))
        moved = depth * outwards + rng.normal(0, 4e-3 / radius, 3)
        moved *= min(1.0, 0.84 / float(np.linalg.norm(moved)))  # the cortex ends before the skull
        position.append(center + radius * moved)
        forwards = np.array([0.0, tilt + rng.normal(0, 0.15), 0.0])
        orientation.append(unit(outwards + forwards + rng.normal(0, 0.1, 3)))
    positions, orientations = np.array(position), np.array(orientation)
    gain = field(positions, orientations)
    # Root mean square at the strongest electrode, microvolts: mu, beta, alpha, two of each.
    strength = np.repeat([6.0, 2.5, 8.0], 2) * rng.lognormal(0, 0.25, 3).repeat(2)
    strength *= rng.lognormal(0, 0.1, 6)

    # Dipoles everywhere in the upper head. Independent Gaussian sources of one spectrum are, at the
    # electrodes, Gaussian noise with this covariance: its root is all that has to be kept.
    where = unit(rng.normal(size=(_N_BACKGROUND, 3)))
    where[:, 2] = np.maximum(where[:, 2], -0.4)
    where = center + radius * rng.uniform(0.4, 0.85, (_N_BACKGROUND, 1)) * unit(where)
    mixing = field(where, unit(rng.normal(size=(_N_BACKGROUND, 3))))
    mixing *= rng.uniform(14, 26) / float(np.median(np.sqrt((mixing**2).sum(1))))
    values, vectors = np.linalg.eigh(mixing @ mixing.T)

    eyes = center + 0.86 * radius * unit(_EYES - center)
    blink = field(eyes, np.tile(unit(np.array([0.0, 1.0, 0.5])), (2, 1))).sum(1)
    drop = float(np.clip(erd * rng.uniform(0.8, 1.2), 0, 0.95))
    truth = Truth(
        hemisphere=dict(HEMISPHERE),
        channel={label: {"left": "C3", "right": "C4"}[HEMISPHERE[label]] for label in HEMISPHERE},
        erd=drop,
        mu_freq=float(np.clip(rng.normal(10.5, 0.8), 9, 12)),
        beta_freq=float(np.clip(rng.normal(20.5, 1.5), 18, 24)),
        sources=tuple(_SOURCES),
        position=positions,
        orientation=orientations,
        rms=strength / np.abs(gain).max(0),
        lead_field=gain,
    )
    return _Subject(
        truth=truth,
        alpha_freq=float(np.clip(rng.normal(10.0, 0.8), 8.5, 12)),
        exponent=rng.uniform(1.2, 1.7),
        background=vectors * np.sqrt(np.maximum(values, 0)),
        blink=blink * rng.uniform(80, 160) / np.abs(blink).max(),
        blink_rate=rng.uniform(0.08, 0.25),
        burst_rate=rng.uniform(0.01, 0.06),
        line=rng.lognormal(1.0, 0.6),
    )


def _schedule(rng: np.random.Generator, n_trials: int) -> tuple[Event, ...]:
    """Rest and cued trials in turn; both hands equally often, give or take one."""
    first = rng.permutation(list(HEMISPHERE))
    labels = rng.permutation([str(first[i % 2]) for i in range(n_trials)])
    events = []
    for i, label in enumerate(labels):
        start = i * (_REST_S + _TRIAL_S)
        events.append(Event(onset=start, duration=_REST_S, label="rest"))
        events.append(Event(onset=start + _REST_S, duration=_TRIAL_S, label=str(label)))
    return tuple(events)


def _modulation(
    rng: np.random.Generator, events: tuple[Event, ...], time: np.ndarray, truth: Truth
) -> Float[np.ndarray, "source time"]:
    """Amplitude of each source over time; 1 at rest."""
    gain = np.ones((len(truth.sources), len(time)))
    for event in events:
        if event.label not in HEMISPHERE:
            continue
        late, effort = rng.normal(0.4, 0.1), float(np.clip(rng.normal(1.0, 0.25), 0.2, 1.5))
        end = event.onset + event.duration
        # A logistic of 0.12 s rises from 10 to 90 % in half a second.
        rise, fall = expit((time - event.onset - late) / 0.12), expit((end + 0.2 - time) / 0.12)
        rebound = np.exp(-0.5 * ((time - end - 0.9) / 0.35) ** 2)
        for i, name in enumerate(truth.sources):
            side, rhythm = name.split("_")
            if rhythm == "alpha":
                gain[i] -= 0.3 * rise * fall
                continue
            share = 1.0 if side == HEMISPHERE[event.label] else _IPSILATERAL
            depth = truth.erd * share * effort * (0.7 if rhythm == "beta" else 1.0)
            gain[i] -= min(depth, 0.97) * rise * fall
            if rhythm == "beta":
                gain[i] += depth * rebound
    return np.maximum(gain, 0.0)


def _artefacts(
    rng: np.random.Generator, head: _Subject, time: np.ndarray, sfreq: float
) -> Float[np.ndarray, "channel time"]:
    """Blinks, muscle bursts, electrode drift, line and amplifier noise."""
    n_channels, duration = len(CHANNELS), time[-1]
    lids = np.zeros(len(time))
    for onset in rng.uniform(0, duration, rng.poisson(head.blink_rate * duration)):
        lids += rng.uniform(0.7, 1.3) * np.exp(-0.5 * ((time - onset) / 0.08) ** 2)
    data = head.blink[:, None] * lids
    drift = noise(rng, n_channels, len(time), sfreq, band="drift")
    data += rng.lognormal(1.7, 0.4, (n_channels, 1)) * drift
    data += rng.lognormal(-0.2, 0.2, (n_channels, 1)) * rng.standard_normal(data.shape)
    if sfreq > 2 * _LINE_HZ:
        size = head.line * rng.lognormal(0, 0.2, (n_channels, 1))
        data += size * np.sin(2 * np.pi * _LINE_HZ * time + rng.uniform(0, 2 * np.pi))
    # Jaw and neck muscles lie outside the skull: nearest electrodes see them, others hardly.
    for onset in rng.uniform(0, duration, rng.poisson(head.burst_rate * duration)):
        muscle = _places((str(rng.choice(["T9", "T10", "FT7", "FT8", "Iz"])),))
        reach = np.exp(-0.5 * (np.linalg.norm(_places(CHANNELS) - muscle, axis=1) / 0.03) ** 2)
        length = rng.uniform(0.3, 1.5)
        start, stop = np.searchsorted(time, [onset, onset + length])
        if stop - start < 16:  # cut off by the end of the run
            continue
        burst = noise(rng, 1, int(stop - start), sfreq, band="high", low=min(25.0, sfreq / 4))[0]
        burst *= np.hanning(stop - start) * rng.uniform(10, 30)
        data[:, start:stop] += reach[:, None] * burst
    return data


def simulate_motor_imagery(
    subject: str,
    run: str,
    *,
    seed: int = 0,
    sfreq: float = 160.0,
    erd: float = 0.6,
    n_trials: int = 15,
    dataset: str = "synthetic",
) -> Signal:
    """One run of one simulated person, always the same for the same arguments.

    Args:
        subject: Any name; the head is drawn from it and the seed.
        run: Any name; the noise and the order of trials are drawn from it too.
        sfreq: Hz, at least 64. Line noise (60 Hz) appears above 120 Hz.
        erd: Mean share of the mu amplitude lost at the height of imagery, 0 to 0.95. 0 leaves
            nothing that tells left from right, with all else the same sample by sample.
        n_trials: Cued trials.

    Returns:
        64 channels in microvolts against linked earlobes, with events `rest`, `left_hand`,
        `right_hand`.
    """
    if not 0 <= erd <= 0.95 or sfreq < 64 or n_trials < 1:
        raise ValueError(
            f"simulate_motor_imagery: erd {erd}, sfreq {sfreq} Hz, n_trials {n_trials}; expected "
            "erd from 0 to 0.95, at least 64 Hz (beta lies at 18-24 Hz) and at least one trial."
        )
    head = _subject(subject, seed, float(erd))
    rng = seeded(seed, subject, run)
    events = _schedule(rng, n_trials)
    n_times = round((events[-1].onset + events[-1].duration) * sfreq)
    time = np.arange(n_times) / sfreq

    truth = head.truth
    modulation = _modulation(rng, events, time, truth)
    peaks = {"mu": truth.mu_freq, "beta": truth.beta_freq, "alpha": head.alpha_freq}
    widths = {"mu": 0.9, "beta": 1.8, "alpha": 0.8}
    rhythm = [name.split("_")[1] for name in truth.sources]
    series = np.concatenate(
        [noise(rng, 1, n_times, sfreq, band="peak", freq=peaks[r], width=widths[r]) for r in rhythm]
    )
    series *= modulation * (truth.rms * rng.lognormal(0, 0.1, len(rhythm)))[:, None]
    slow = noise(rng, len(CHANNELS), n_times, sfreq, band="power", exponent=head.exponent)
    data = head.background @ slow + truth.lead_field @ series
    data += _artefacts(rng, head, time, sfreq)

    return Signal(
        data=data.astype(np.float32),
        sfreq=float(sfreq),
        sensors=Sensors.of_kind(CHANNELS, Kind.EEG, _places(CHANNELS)),
        events=events,
        recording=Recording(dataset=dataset, subject=subject, run=run, task="imagery"),
        history=(f"simulated: seed {seed}, erd {erd:g}",),
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticReader:
    """A corpus of simulated people, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many runs of about two minutes each; they are called "01", "02", ...
        sfreq: Hz.
        seed: Another seed gives other people.
        erd: Mean share of the mu amplitude lost at the height of imagery; 0 = nothing to decode.
        weak: Numbers of the subjects who show a fifth of that, as some people do.
    """

    dataset: str
    root: Path | str | None = None
    subjects: int = 6
    runs: int = 3
    sfreq: float = 160.0
    seed: int = 0
    erd: float = 0.6
    weak: tuple[int, ...] | list[int] = (6,)

    def __post_init__(self) -> None:
        self.recordings()

    def recordings(self) -> list[Recording]:
        """Every run of every subject."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="imagery")

    def load(self, recording: Recording) -> Signal:
        """One simulated run, in microvolts.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        return simulate_motor_imagery(
            recording.subject,
            str(recording.run),
            seed=self.seed,
            sfreq=self.sfreq,
            erd=self._erd(recording.subject),
            dataset=self.dataset,
        )

    def truth(self, subject: str) -> Truth:
        """What was planted in this subject."""
        require_subject(subject, self.recordings())
        return _subject(subject, self.seed, self._erd(subject)).truth

    def _erd(self, subject: str) -> float:
        return float(self.erd * (_WEAK if int(subject) in self.weak else 1.0))
