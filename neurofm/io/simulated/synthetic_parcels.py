"""Simulated BOLD of parcels: networks at rest whose states change, and pictures that some code.

Parcels of a network share a slow rhythm. In state "rest_a" each network follows the one before it
by two volumes, in "rest_b" the one behind it, with the same spectrum. In "rest_b" the default
network is stronger besides, and the visual one weaker. With pictures, parcels of the visual network
answer to a code of each picture with a haemodynamic delay, those of the default network more
weakly, all others not.

Source: Yeo et al. 2011 (names of the seven networks); Friston et al. 1998 (response).
Axes: channel = parcel, time = volume; stimulus feature. Metres, MNI frame; percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import lfilter
from scipy.stats import gamma

from neurofm.io.simulated.noise import seeded
from neurofm.io.simulated.people import numbered, require_known
from neurofm.shapes import Float, Int
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

# Network: centre in the right hemisphere (metres) and how strongly it codes pictures.
NETWORKS = {
    "visual": ((0.015, -0.085, 0.005), 1.0),
    "somatomotor": ((0.040, -0.025, 0.055), 0.0),
    "dorsal attention": ((0.030, -0.055, 0.055), 0.0),
    "ventral attention": ((0.055, 0.005, 0.010), 0.0),
    "limbic": ((0.030, 0.015, -0.035), 0.0),
    "control": ((0.045, 0.035, 0.025), 0.0),
    "default": ((0.010, -0.055, 0.030), 0.5),
}
STATES = ("rest_a", "rest_b")
_IN_B = {"default": 1.4, "visual": 0.7}  # strength of networks in rest_b
_LAG, _COUPLING = 2, 0.9  # volumes; share of the network that is followed
_POLE, _PERIOD_S = 0.9, 28.0  # of the slow rhythm
_LEAD_S, _TAIL_S = 12.0, 20.0


@dataclass(frozen=True, kw_only=True)
class SyntheticParcelReader:
    """A corpus of simulated people at rest, or looking at pictures, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many runs; they are called "01", "02", ...
        parcels: Of each network, half of them on each side.
        tr_s: Seconds between volumes.
        minutes: Of a run at rest.
        state_s: Seconds of a state; one event for each.
        pictures: Shown in each run, others in each; 0 for rest alone.
        repeats: Presentations of each picture in its run.
        gap_s: From the start of a picture to the next.
        dim: Numbers of the code of a picture.
        tuning: Percent per unit of the code.
        noise: Standard deviation of what is no network's, percent.
        seed: Another seed gives other people and codes.
    """

    dataset: str = "simulated_parcels"
    root: Path | str | None = None
    subjects: int = 8
    runs: int = 2
    parcels: int = 10
    tr_s: float | int = 2.0
    minutes: float | int = 16.0
    state_s: float | int = 64.0
    pictures: int = 0
    repeats: int = 1
    gap_s: float | int = 10.0
    dim: int = 12
    tuning: float | int = 0.8
    noise: float | int = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.parcels, self.dim, self.repeats) < 1 or self.pictures < 0 or not self.tr_s > 0:
            raise ValueError(
                f"SyntheticParcelReader: {self.parcels} parcels, {self.pictures} pictures "
                f"{self.repeats} times, codes of {self.dim}, TR {self.tr_s} s; expected at least 1 "
                "parcel, repeat and number, and a TR above 0."
            )
        self.recordings()

    def recordings(self) -> list[Recording]:
        """Every run of every person."""
        task = "pictures" if self.pictures else "rest"
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task=task)

    def networks(self) -> dict[str, Int[np.ndarray, " parcel"]]:
        """Parcels of each network, by position."""
        of = np.repeat(np.arange(len(NETWORKS)), self.parcels)
        return {name: np.flatnonzero(of == i) for i, name in enumerate(NETWORKS)}

    def shown(self, run: str) -> list[str]:
        """Pictures of a run, which no other run shows."""
        return [f"run-{run}/{i:03d}" for i in range(self.pictures)]

    def embed(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus feature"]:
        """The code of each picture, standard normal and independent."""
        return np.stack(
            [seeded(self.seed, "code", name).standard_normal(self.dim) for name in names]
        )

    def load(self, recording: Recording) -> Signal:
        """One simulated run, in percent.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        rng = seeded(self.seed, recording.subject, str(recording.run))
        order, onsets, seconds = self._presentations(rng, str(recording.run))
        n_times = int(np.ceil(seconds / self.tr_s))
        state, blocks = self._states(rng, n_times)
        own = seeded(self.seed, recording.subject)
        networks = _slow(rng, state, float(self.tr_s))
        of = np.repeat(np.arange(len(NETWORKS)), self.parcels)
        data = own.uniform(0.6, 1.4, (len(of), 1)) * networks[of]
        white = rng.standard_normal(data.shape)
        data += self.noise * lfilter([1.0], [1.0, -0.3], white) * np.sqrt(1 - 0.3**2)
        if order:
            data += self._answers(own, order, onsets, n_times)
            events = [Event(float(o), 1.0, name) for o, name in zip(onsets, order, strict=True)]
        else:
            events = blocks
        return Signal(
            data=data.astype(np.float32),
            sfreq=1.0 / float(self.tr_s),
            sensors=self._sensors(),
            events=tuple(events),
            recording=recording,
            history=(f"simulated: seed {self.seed}, noise {self.noise:g} %",),
            details={"tr_s": float(self.tr_s), "n_volumes": n_times, "scale": "percent"},
        )

    def _presentations(
        self, rng: np.random.Generator, run: str
    ) -> tuple[list[str], np.ndarray, float]:
        """Pictures in order, their onsets with a volume, and the length of the run; seconds."""
        if not self.pictures:
            return [], np.zeros(0), 60.0 * self.minutes
        names = self.shown(run)
        order = [names[i] for _ in range(self.repeats) for i in rng.permutation(len(names))]
        steps = max(1, round(self.gap_s / self.tr_s))
        onsets = np.ceil(_LEAD_S / self.tr_s) * self.tr_s + np.arange(len(order)) * (
            steps * self.tr_s
        )
        return order, onsets, float(onsets[-1]) + _TAIL_S

    def _states(
        self, rng: np.random.Generator, n_times: int
    ) -> tuple[Int[np.ndarray, " time"], list[Event]]:
        """State of every volume, and an event for each stretch of one."""
        each = max(1, round(self.state_s / self.tr_s))
        n = -(-n_times // each)
        # As many of one as of the other, in an order of the run's own.
        states = rng.permutation(np.arange(n) % 2)
        events = [
            Event(float(i * each * self.tr_s), float(each * self.tr_s), STATES[kind])
            for i, kind in enumerate(states)
            if (i + 1) * each <= n_times
        ]
        return np.repeat(states, each)[:n_times], events

    def _answers(
        self, own: np.random.Generator, order: list[str], onsets: np.ndarray, n_times: int
    ) -> Float[np.ndarray, "parcel time"]:
        """Responses to pictures, by weights that people share, and some of their own."""
        strength = np.repeat([level for _, level in NETWORKS.values()], self.parcels)
        common = seeded(self.seed, "weights").standard_normal((len(strength), self.dim))
        weights = 0.9 * common + 0.4 * own.standard_normal(common.shape)
        weights *= self.tuning * strength[:, None] / np.sqrt(self.dim / 4)
        time = np.arange(n_times) * self.tr_s
        codes, data = self.embed(order), np.zeros((len(strength), n_times))
        for code, onset in zip(codes, onsets, strict=True):
            data += (weights @ code)[:, None] * (4.0 * gamma.pdf(time - onset, 6.0))
        return data

    def _sensors(self) -> Sensors:
        rng = seeded("parcels", self.parcels)
        place, region = [], []
        for name, (centre, _) in NETWORKS.items():
            for i in range(self.parcels):
                side = np.array([1.0 if i % 2 else -1.0, 1.0, 1.0])
                place.append(np.array(centre) * side + rng.normal(0, 0.006, 3))
                region.append(name)
        return Sensors(
            names=tuple(f"p{i:03d}" for i in range(len(place))),
            kind=np.full(len(place), int(Kind.BOLD), dtype=np.int8),
            position=np.array(place),
            orientation=np.zeros((len(place), 3)),
            frame="mni",
            region=tuple(region),
        )


def _slow(
    rng: np.random.Generator, state: Int[np.ndarray, " time"], tr_s: float
) -> Float[np.ndarray, "network time"]:
    """Slow rhythms of unit variance; each follows its neighbour's, which one says the state."""
    n, n_times = len(NETWORKS), len(state)
    turn = 2 * np.pi * tr_s / _PERIOD_S
    filters = [1.0], [1.0, -2 * _POLE * np.cos(turn), _POLE**2]
    burn = 60
    slow = lfilter(*filters, rng.standard_normal((n, n_times + burn)), axis=1)[:, burn:]
    slow /= slow.std(axis=1, keepdims=True)
    followed = np.zeros_like(slow)
    for kind, shift in enumerate((1, -1)):
        late = np.roll(np.roll(slow, shift, axis=0), _LAG, axis=1)
        followed[:, state == kind] = late[:, state == kind]
    found = np.sqrt(1 - _COUPLING**2) * slow + _COUPLING * followed
    strength = np.array([_IN_B.get(name, 1.0) for name in NETWORKS])
    return np.where(state == 1, strength[:, None], 1.0) * found
