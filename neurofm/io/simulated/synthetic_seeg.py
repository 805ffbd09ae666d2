"""Simulated depth electrodes of people reading words, with a known answer: which unit, when, where.

A word is a fixed sequence of units, as syllables make words. A unit is a short burst of one
frequency at one place along a shaft; contacts on its two sides see it with opposite sign, so the
difference of two neighbours shows it most. Units are the same for all people, the places, shafts
and amplitudes are each person's own. A slow background common to all contacts, local background,
line noise and amplifier noise are added. Single units come at random times.

Source: the dipole-like field of a local source along a shaft, as in Li et al. 2018 (NeuroImage
183:327); words as sequences of units after Du-IN (arXiv 2405.11459).
Axes: channel = contact, time = sample. Metres, microvolts, Hz, seconds.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.simulated.noise import noise, seeded, unit
from neurofm.io.simulated.people import numbered, require_known
from neurofm.shapes import Float, Int
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

UNIT_HZ = (6.0, 10.0, 14.0, 20.0)
UNIT_S = 0.25
# Each unit stands at each place of a word once: no single moment tells the word from all others.
WORDS = {
    "word_1": (0, 1, 2, 3),
    "word_2": (1, 0, 3, 2),
    "word_3": (2, 3, 0, 1),
    "word_4": (3, 2, 1, 0),
}
_SHAFTS = ("A", "B'")
_CONTACTS = 6  # on each shaft
_SPACING_M = 3.5e-3
# People answer at their own pace: equal gaps would make recordings look like copies.
_REST_S, _TRIAL_S, _ONSET_S = (0.5, 3.5), 1.6, 0.3
_SINGLE_RATE = 0.5  # single units per second
_LINE_HZ = 60.0


@dataclass(frozen=True)
class WordTruth:
    """What was planted in one simulated person.

    Args:
        places: Contact (index in the recording) in front of each unit's source; it and the next one
            on the shaft see the unit most, with opposite signs.
        gain: Microvolts per unit amplitude at every contact.
        words: Units of each word, in order.
    """

    places: Int[np.ndarray, " unit"]
    gain: Float[np.ndarray, "channel unit"]
    words: dict[str, tuple[int, ...]]


@functools.lru_cache(maxsize=64)
def _person(subject: str, seed: int, strength: float) -> tuple[WordTruth, np.ndarray]:
    """What is planted, and where the contacts are."""
    rng = seeded(seed, subject)
    number = np.tile(np.arange(_CONTACTS), len(_SHAFTS))
    shaft = np.repeat(np.arange(len(_SHAFTS)), _CONTACTS)
    # No two units of a person share a pair of contacts.
    pairs = rng.permutation([i for i in range(len(number)) if number[i] < _CONTACTS - 1])
    places = pairs[: len(UNIT_HZ)]
    along = number[:, None] - (number[places] + 0.5)  # in units of the spacing
    field = np.sign(along) * np.exp(-(np.abs(along) - 0.5) / 0.8)
    field[shaft[:, None] != shaft[places]] = 0.0
    gain = strength * field * rng.lognormal(0, 0.15, len(UNIT_HZ))
    entry = np.array([[0.045, 0.0, 0.0], [-0.045, 0.0, 0.0]]) + rng.normal(0, 4e-3, (2, 3))
    inwards = unit(-entry + rng.normal(0, 5e-3, (2, 3)))
    position = entry[shaft] + number[:, None] * _SPACING_M * inwards[shaft]
    return WordTruth(places, gain, dict(WORDS)), position


def _schedule(rng: np.random.Generator, n_trials: int) -> tuple[Event, ...]:
    labels = rng.permutation([list(WORDS)[i % len(WORDS)] for i in range(n_trials)])
    onset = np.cumsum(rng.uniform(*_REST_S, n_trials)) + _TRIAL_S * np.arange(n_trials)
    return tuple(
        Event(onset=float(at), duration=_TRIAL_S, label=str(label))
        for at, label in zip(onset, labels, strict=True)
    )


def _units(
    rng: np.random.Generator, events: tuple[Event, ...], n_times: int, sfreq: float
) -> Float[np.ndarray, "unit time"]:
    """Amplitude of each unit's source over time; 1 at the height of a burst."""
    time = np.arange(round(UNIT_S * sfreq)) / sfreq
    shape = np.hanning(len(time))
    series = np.zeros((len(UNIT_HZ), n_times))

    def burst(which: int, at: float) -> None:
        start = round(at * sfreq)
        part = series[which, start : start + len(time)]
        wave = rng.lognormal(0, 0.1) * shape * np.sin(2 * np.pi * UNIT_HZ[which] * time)
        part += wave[: len(part)]

    duration = n_times / sfreq
    for at in rng.uniform(0, duration - UNIT_S, rng.poisson(_SINGLE_RATE * duration)):
        burst(int(rng.integers(len(UNIT_HZ))), at)
    for event in events:
        begin = event.onset + _ONSET_S + rng.normal(0, 0.01)
        for place, which in enumerate(WORDS[event.label]):
            burst(which, begin + place * UNIT_S)
    return series


def simulate_words(
    subject: str,
    run: str,
    *,
    seed: int = 0,
    sfreq: float = 1000.0,
    strength: float = 60.0,
    n_trials: int = 32,
    dataset: str = "simulated_seeg",
) -> Signal:
    """One run of one simulated person, always the same for the same arguments.

    Args:
        subject: Any name; places and gains are drawn from it and the seed.
        run: Any name; noise and the order of words are drawn from it too.
        sfreq: Hz, at least 125.
        strength: Microvolts of a burst at the nearest contact; 0 leaves nothing to decode.
        n_trials: Words read.

    Returns:
        12 contacts on two shafts in microvolts, with events `word_1` to `word_4`. A word begins
        0.3 s after its event and lasts 1 s.
    """
    if sfreq < 125 or strength < 0 or n_trials < 1:
        raise ValueError(
            f"simulate_words: sfreq {sfreq} Hz, strength {strength} µV, n_trials {n_trials}; "
            "expected at least 125 Hz (line noise is at 60 Hz), no negative strength and at least "
            "one trial."
        )
    truth, position = _person(subject, seed, float(strength))
    rng = seeded(seed, subject, run)
    events = _schedule(rng, n_trials)
    n_times = round((events[-1].onset + events[-1].duration + _REST_S[0]) * sfreq)
    n_contacts = len(position)
    data = truth.gain @ _units(rng, events, n_times, sfreq)
    data += 60.0 * noise(rng, 1, n_times, sfreq, band="power", exponent=1.5)
    data += 6.0 * noise(rng, n_contacts, n_times, sfreq, band="power", exponent=1.2)
    data += rng.standard_normal(data.shape, dtype=np.float32)
    phase = 2 * np.pi * _LINE_HZ * np.arange(n_times) / sfreq + rng.uniform(0, 2 * np.pi)
    data += rng.lognormal(1.0, 0.3, (n_contacts, 1)) * np.sin(phase)
    names = tuple(f"{shaft}{i}" for shaft in _SHAFTS for i in range(1, _CONTACTS + 1))
    return Signal(
        data=data.astype(np.float32),
        sfreq=float(sfreq),
        sensors=Sensors.of_kind(names, Kind.SEEG, position),
        events=events,
        recording=Recording(dataset=dataset, subject=subject, run=run, task="reading"),
        history=(f"simulated: seed {seed}, strength {strength:g} µV",),
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticSEEGReader:
    """A corpus of simulated people with depth electrodes, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many runs of about a minute each; they are called "01", "02", ...
        sfreq: Hz.
        seed: Another seed gives other people.
        strength: See `simulate_words`.
    """

    dataset: str
    root: Path | str | None = None
    subjects: int = 3
    runs: int = 8
    sfreq: float = 1000.0
    seed: int = 0
    strength: float = 60.0

    def recordings(self) -> list[Recording]:
        """Every run of every subject."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="reading")

    def load(self, recording: Recording) -> Signal:
        """One simulated run, in microvolts.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        return simulate_words(
            recording.subject,
            str(recording.run),
            seed=self.seed,
            sfreq=self.sfreq,
            strength=self.strength,
            dataset=self.dataset,
        )

    def truth(self, subject: str) -> WordTruth:
        """What was planted in this subject."""
        return _person(subject, self.seed, float(self.strength))[0]
