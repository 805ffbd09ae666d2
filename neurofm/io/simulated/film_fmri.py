"""Simulated fMRI of people who watch films: parcels that answer to what is seen, heard and said.

Films are features over time of three kinds, as networks for pictures, sounds and words would give.
Kinds have something in common, because what is heard is often seen. Parcels of `visual`, `auditory`
and `language` answer to one kind, `joint` to what is seen where it agrees with what is said (a
product, which no linear model of the features finds), `none` to nothing. Answers follow by a
haemodynamic response; people share most of what a parcel prefers. What parcels prefer of a kind
differs in a few directions of its features only (`rank`). Noise lasts over volumes.

A trial is a segment of a film. Its responses begin `delay_s` after it does, as TRIBE's do.
Axes: trial channel time (volume); stimulus time feature. Percent signal change.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, lfilter
from scipy.stats import gamma

from neurofm.io.simulated.noise import seeded
from neurofm.io.simulated.people import numbered, require_known, require_subject
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Responses, Sensors, Signal
from neurofm.units import Kind

KINDS = ("text", "video", "audio")
# Share of the parcels, and the kinds they answer to.
REGIONS: dict[str, tuple[float, tuple[str, ...]]] = {
    "visual": (0.30, ("video",)),
    "auditory": (0.20, ("audio",)),
    "language": (0.20, ("text",)),
    "joint": (0.15, ("video", "text")),
    "none": (0.15, ()),
}
_PER_VOLUME = 2  # samples of features
_LASTING = 0.9  # correlation of features half a second apart
_COMMON = 0.5  # share of their standard deviation that kinds have in common
_OWN = 0.4  # of what a parcel prefers, a person's own
_NOISE_LASTING = 0.3  # correlation of noise from volume to volume


@dataclass(frozen=True)
class FilmTruth:
    """What was planted.

    Args:
        region: Of each parcel.
        signal: Standard deviation of the answer; that of the noise is 1.
    """

    region: tuple[str, ...]
    signal: Float[np.ndarray, " channel"]

    def ceiling(self) -> Float[np.ndarray, " channel"]:
        """Correlation with the responses that a perfect model would have."""
        return self.signal / np.sqrt(self.signal**2 + 1)


@dataclass(frozen=True, kw_only=True)
class SyntheticFilmReader:
    """A corpus of people who watch films in the scanner, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: Films, each seen once by everybody; the last is the shared test film.
        segments: Of a film.
        volumes: Of a segment, one a second.
        n_parcels: Of everybody.
        dim: Features of each kind.
        rank: Directions in them that matter; the first alone to `joint`.
        signal: Factor on all answers; 0 leaves the noise.
        delay_s: How much later than its segment a response is read.
        seed: Another seed gives other people and films.
    """

    dataset: str = "simulated_films"
    root: Path | str | None = None
    subjects: int = 4
    runs: int = 24
    segments: int = 10
    volumes: int = 50
    n_parcels: int = 100
    dim: int = 32
    rank: int = 6
    signal: float | int = 1.0
    delay_s: float | int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.runs - 1, self.segments, self.volumes, self.rank, self.dim - self.rank + 1)
        if min(counts) < 1 or self.n_parcels < 10 or self.signal < 0:
            raise ValueError(
                f"{type(self).__name__}: {self.runs} films of {self.segments} segments of "
                f"{self.volumes} volumes, {self.rank} of {self.dim} features, {self.n_parcels} "
                f"parcels, signal {self.signal}; expected two films, 1 of each, at most all "
                "features, 10 parcels and a signal of at least 0."
            )
        if self.delay_s < 0 or self.delay_s != int(self.delay_s):
            raise ValueError(f"delay_s is {self.delay_s}, expected whole volumes (seconds), 0 up.")
        self.recordings()

    def recordings(self) -> list[Recording]:
        """Every film of every person."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="films")

    def people(self) -> list[str]:
        """Names of the people."""
        return list(dict.fromkeys(recording.subject for recording in self.recordings()))

    def shared(self) -> tuple[str, ...]:
        """Segments of the last film, for the test."""
        return tuple(self._name(f"{self.runs:02d}", i) for i in range(self.segments))

    def images(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus time feature"]:
        """Features of segments by name: text, video, audio, at 2 Hz."""
        n = _PER_VOLUME * self.volumes
        found = []
        for name in names:
            film, _, segment = name.partition("/segment-")
            if not (film.startswith("film-") and segment.isdigit()):
                raise ValueError(f"{name!r} is no segment; they are called 'film-01/segment-00'.")
            start = int(segment) * n
            found.append(_film(self, film.removeprefix("film-"))[start : start + n])
        return np.stack(found)

    def truth(self) -> FilmTruth:
        """What was planted, the same in everybody."""
        return _parcels(self)[0]

    def responses(self, subject: str) -> Responses:
        """All films of one person.

        Raises:
            ValueError: Nobody of this name.
        """
        require_subject(subject, self.recordings())
        runs = [item for item in self.recordings() if item.subject == subject]
        return Responses.joined([self._cut(item) for item in runs])

    def load(self, recording: Recording) -> Signal:
        """A film's time series, one event for each segment.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        return Signal(
            data=self._series(recording),
            sfreq=1.0,
            sensors=_sensors(self),
            events=tuple(
                Event(float(i * self.volumes), float(self.volumes), self._name(recording.run, i))
                for i in range(self.segments)
            ),
            recording=recording,
            history=(f"simulated: seed {self.seed}, signal {self.signal:g}",),
            details={"unit": "%"},
        )

    def answers(self, subject: str, film: str) -> Float[np.ndarray, "channel volume"]:
        """A film's responses without noise, one a second; the last outlast it by the delay."""
        require_subject(subject, self.recordings())
        truth, directions, shared = _parcels(self)
        features = _film(self, film)
        at = {kind: features[:, i * self.dim : (i + 1) * self.dim] for i, kind in enumerate(KINDS)}
        region = np.array(truth.region)
        drive = np.zeros((len(features), self.n_parcels))
        for name, (_, kinds) in REGIONS.items():
            own = np.flatnonzero(region == name)
            parts = []
            for kind in kinds:
                person = seeded(self.seed, subject, kind).standard_normal(shared[kind].shape)
                wanted = shared[kind] + _OWN * person
                if len(kinds) > 1:
                    wanted[1:] = 0
                parts.append(at[kind] @ directions[kind] @ wanted[:, own])
            if parts:
                drive[:, own] = np.prod(parts, axis=0)
        extra = _PER_VOLUME * int(self.delay_s)
        drive = np.concatenate([drive, np.zeros((extra, self.n_parcels))])
        seconds = np.arange(0, 32, 1 / _PER_VOLUME)
        kernel = gamma.pdf(seconds, 6.0) - gamma.pdf(seconds, 16.0) / 6
        answer = fftconvolve(drive, kernel[:, None], axes=0)[: len(drive)]
        answer = answer.reshape(-1, _PER_VOLUME, self.n_parcels).mean(1).T
        spread = answer.std(1, keepdims=True)
        return answer / np.where(spread > 0, spread, 1) * truth.signal[:, None]

    def _series(self, recording: Recording) -> Float[np.ndarray, "channel volume"]:
        answer = self.answers(recording.subject, str(recording.run))
        draw = seeded(self.seed, recording.subject, str(recording.run), "noise")
        white = draw.standard_normal((self.n_parcels, answer.shape[1] + 20))
        lasting = lfilter([(1 - _NOISE_LASTING**2) ** 0.5], [1.0, -_NOISE_LASTING], white)[:, 20:]
        return (answer + lasting).astype(np.float32)

    def _cut(self, recording: Recording) -> Responses:
        series, delay = self._series(recording), int(self.delay_s)
        cut = series[:, delay : delay + self.segments * self.volumes]
        values = cut.reshape(self.n_parcels, self.segments, self.volumes).transpose(1, 0, 2)
        return Responses(
            values=np.ascontiguousarray(values),
            stimulus=tuple(self._name(recording.run, i) for i in range(self.segments)),
            run=(str(recording.run),) * self.segments,
            sensors=_sensors(self),
            recording=recording,
            unit="%",
            sfreq=1.0,
            start_s=float(self.delay_s),
        )

    def _name(self, film: str | None, segment: int) -> str:
        return f"film-{film}/segment-{segment:02d}"


@functools.lru_cache(maxsize=32)
def _film(corpus: SyntheticFilmReader, film: str) -> Float[np.ndarray, "time feature"]:
    """Features of a whole film, standard deviation 1."""
    n = corpus.segments * corpus.volumes * _PER_VOLUME
    draw = seeded(corpus.seed, "film", film)
    white = draw.standard_normal((n + 100, 4, corpus.dim))
    slow = lfilter([(1 - _LASTING**2) ** 0.5], [1.0, -_LASTING], white, axis=0)[100:]
    mixed = (1 - _COMMON**2) ** 0.5 * slow[:, :3] + _COMMON * slow[:, 3:]
    return mixed.reshape(n, -1).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _parcels(
    corpus: SyntheticFilmReader,
) -> tuple[FilmTruth, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What is planted; of each kind directions (feature rank), and what is liked (rank parcel)."""
    n = corpus.n_parcels
    counts = {name: round(n * share) for name, (share, _) in REGIONS.items()}
    counts["none"] += n - sum(counts.values())
    region = tuple(name for name, count in counts.items() for _ in range(count))
    draw = seeded(corpus.seed, "parcels")
    signal = float(corpus.signal) * draw.uniform(0.6, 1.4, n) * (np.array(region) != "none")
    directions = {
        kind: np.linalg.qr(draw.standard_normal((corpus.dim, corpus.rank)))[0] for kind in KINDS
    }
    prefers = {kind: draw.standard_normal((corpus.rank, n)) for kind in KINDS}
    return FilmTruth(region=region, signal=signal), directions, prefers


@functools.lru_cache(maxsize=4)
def _sensors(corpus: SyntheticFilmReader) -> Sensors:
    """Parcels on a sphere of 7 cm, in the order of their regions from back to front."""
    truth, n = _parcels(corpus)[0], corpus.n_parcels
    height = 1 - 2 * (np.arange(n) + 0.5) / n
    angle = np.arange(n) * np.pi * (3 - 5**0.5)
    ring = np.sqrt(1 - height**2)
    place = 0.07 * np.stack([ring * np.cos(angle), -height, ring * np.sin(angle)], axis=1)
    return Sensors(
        names=tuple(f"p{i:03d}" for i in range(n)),
        kind=np.full(n, int(Kind.BOLD), dtype=np.int8),
        position=place.astype(np.float32),
        orientation=np.zeros((n, 3), dtype=np.float32),
        frame="mni",
        region=truth.region,
    )
