"""Simulated fMRI responses to pictures: which voxel answers to what, and how well it can be known.

One number per voxel and trial, as single-trial betas are. Voxels of four regions, on both sides:
`V1` answers to contrast of one orientation and spatial frequency inside a small receptive field,
`V4` to colour inside a larger one, `LO` to a code of the whole picture (`pictures.Eye`), `none` to
nothing. A voxel's answer over the training pictures has the variance of its squared `ncsnr` (noise
ceiling signal-to-noise ratio); noise has variance 1, is shared by voxels in part, and lasts from
trial to trial, as haemodynamic responses that overlap leave it. Every run has a baseline of its own
in every voxel, so that runs have to be centred; then the ceiling is as planted.

Source: Allen et al. 2022 (design, ncsnr); St-Yves & Naselaris 2018 (receptive fields of features).
Axes: trial channel; stimulus voxel feature. Metres, MNI frame; percent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

from neurofm.io.simulated.noise import seeded
from neurofm.io.simulated.people import numbered, require_known, require_subject
from neurofm.io.simulated.pictures import (
    CYCLES,
    ORIENTATIONS,
    Eye,
    category_of,
    draw_pictures,
    eye,
    local_colour,
    local_energy,
    picture_name,
)
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Responses, Sensors, Signal
from neurofm.units import Kind

# Share of the voxels, centre on the right side (metres), typical ncsnr.
REGIONS: dict[str, tuple[float, tuple[float, float, float], float]] = {
    "V1": (0.30, (0.010, -0.090, 0.000), 0.9),
    "V4": (0.20, (0.028, -0.074, -0.012), 0.7),
    "LO": (0.25, (0.042, -0.062, -0.010), 0.8),
    "none": (0.25, (0.040, 0.030, 0.030), 0.0),
}
_GRID = 8  # places per side
_FEW = 2000  # voxels of up to so many are 4 mm, of more 2 mm apart
_LASTING, _SHARED = 0.2, 0.3  # of the noise: correlation of neighbouring trials, common part
_BASELINE = 0.5  # percent, standard deviation over runs
_CHUNK = 2048  # voxels worked on at a time


@dataclass(frozen=True)
class PictureFmriTruth:
    """What was planted in one person.

    Args:
        region: Of each voxel.
        ncsnr: Standard deviation of the answer over that of the noise.
        center: Of the receptive field, rows and columns from 0 to 1; NaN where there is none.
        radius: Standard deviation of the receptive field, in widths of the picture.
        orientation: Preferred, radians; NaN outside V1.
    """

    region: tuple[str, ...]
    ncsnr: Float[np.ndarray, " voxel"]
    center: Float[np.ndarray, "voxel 2"]
    radius: Float[np.ndarray, " voxel"]
    orientation: Float[np.ndarray, " voxel"]

    def ceiling(self, repeats: float | int = 1) -> Float[np.ndarray, " voxel"]:
        """Share of the variance of means over `repeats` that can be predicted."""
        power = self.ncsnr**2
        return power / (power + 1.0 / repeats)


@dataclass(frozen=True, kw_only=True)
class SyntheticPictureFMRIReader:
    """A corpus of people who look at pictures in the scanner, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many; the presentations of a picture are in different runs.
        n_train: Pictures to train on.
        n_test: Pictures of the same categories that everybody sees, for the test.
        repeats: Presentations of every picture.
        categories: Of the pictures.
        n_voxels: Of each person.
        dim: Numbers of the code that LO answers to.
        signal: Factor on all ncsnr; 0 leaves the noise as it is and nothing to predict.
        size: Of the pictures, pixels.
        seed: Another seed gives other people and pictures.
    """

    dataset: str = "simulated_picture_fmri"
    root: Path | str | None = None
    subjects: int = 2
    runs: int = 6
    n_train: int = 400
    n_test: int = 60
    repeats: int = 3
    categories: int = 20
    n_voxels: int = 600
    dim: int = 16
    signal: float | int = 1.0
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.n_train, self.n_test, self.repeats, self.categories)
        if min(counts) < 1 or self.n_voxels < 8 or self.repeats > self.runs or self.signal < 0:
            raise ValueError(
                f"{type(self).__name__}: {self.n_train} + {self.n_test} pictures of "
                f"{self.categories} categories, {self.repeats} repeats in {self.runs} runs, "
                f"{self.n_voxels} voxels, signal {self.signal}; expected at least 1 picture of "
                "each, no more repeats than runs, 8 voxels and a signal of at least 0."
            )
        self.recordings()

    @property
    def train(self) -> tuple[str, ...]:
        """Pictures to train on."""
        n = self.categories
        return tuple(picture_name(i % n, i // n) for i in range(self.n_train))

    def shared(self) -> tuple[str, ...]:
        """Test pictures."""
        n = self.categories
        return tuple(picture_name(i % n, 5000 + i // n) for i in range(self.n_test))

    def categories_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The category of each picture."""
        return tuple(category_of(name) for name in names)

    def images(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus 3 height width"]:
        """Pictures by name, 0 to 1."""
        return draw_pictures(names, seed=self.seed, size=self.size)

    def people(self) -> list[str]:
        """Names of the people."""
        return list(dict.fromkeys(recording.subject for recording in self.recordings()))

    def recordings(self) -> list[Recording]:
        """Every run of every person."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="pictures")

    def truth(self, subject: str) -> PictureFmriTruth:
        """What was planted in this person."""
        require_subject(subject, self.recordings())
        return _person(self, subject)[0]

    def answers(self, subject: str, names: Sequence[str]) -> Float[np.ndarray, "stimulus voxel"]:
        """Responses without noise and baseline, percent."""
        require_subject(subject, self.recordings())
        truth, weights = _person(self, subject)
        parts = _described(self)
        at = {name: i for i, name in enumerate((*self.train, *self.shared()))}
        rows = [at[name] for name in names]
        region = np.array(truth.region)
        found = np.zeros((len(rows), self.n_voxels), dtype=np.float32)
        for name, weight in weights.items():
            features = parts[name]
            voxels = np.flatnonzero(region == name)
            for lo in range(0, len(voxels), _CHUNK):
                some = voxels[lo : lo + _CHUNK]
                answer = features @ weight[:, lo : lo + _CHUNK]
                seen = answer[: self.n_train]
                answer = (answer - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-9)
                found[:, some] = answer[rows] * truth.ncsnr[some].astype(np.float32)
        return found

    def responses(self, subject: str) -> Responses:
        """All runs of one person.

        Raises:
            ValueError: Nobody of this name.
        """
        require_subject(subject, self.recordings())
        runs = [item for item in self.recordings() if item.subject == subject]
        return Responses.joined([self._run(item) for item in runs])

    def load(self, recording: Recording) -> Signal:
        """One run as patterns: one sample and one event per trial.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        found = self._run(recording)
        return Signal(
            data=np.ascontiguousarray(found.values.T),
            sfreq=1.0,
            sensors=found.sensors,
            events=tuple(Event(float(i), 1.0, name) for i, name in enumerate(found.stimulus)),
            recording=recording,
            history=(f"simulated: seed {self.seed}, signal {self.signal:g}",),
            details={"samples": "trials", "unit": "%"},
        )

    def _order(self, recording: Recording) -> list[str]:
        """The pictures of a run; a picture comes back a third (or so) of the runs later."""
        run = int(str(recording.run)) - 1
        every = (*self.train, *self.shared())
        first = seeded(self.seed, recording.subject, "first").integers(0, self.runs, len(every))
        step = max(1, self.runs // self.repeats)
        when = (first[:, None] + step * np.arange(self.repeats)) % self.runs
        names = [every[i] for i in np.flatnonzero((when == run).any(axis=1))]
        rng = seeded(self.seed, recording.subject, str(recording.run), "order")
        return [names[i] for i in rng.permutation(len(names))]

    def _run(self, recording: Recording) -> Responses:
        names = self._order(recording)
        rng = seeded(self.seed, recording.subject, str(recording.run), "noise")
        n, m = len(names), self.n_voxels
        values = rng.standard_normal((n, m), dtype=np.float32)
        common = rng.standard_normal((n, 1), dtype=np.float32)
        start = values[:1].copy()
        scale = np.float32((1 - _LASTING**2) ** 0.5)
        # The first trial is as noisy as the others.
        values = lfilter([1.0], [1.0, -_LASTING], np.concatenate([start / scale, values[1:]]), 0)
        values = (values * scale * (1 - _SHARED**2) ** 0.5 + _SHARED * common).astype(np.float32)
        values += self.answers(recording.subject, names)
        values += _BASELINE * rng.standard_normal((1, m), dtype=np.float32)
        truth = _person(self, recording.subject)[0]
        return Responses(
            values=values,
            stimulus=tuple(names),
            run=(str(recording.run),) * n,
            sensors=_sensors(truth.region),
            recording=recording,
            unit="%",
        )


@functools.lru_cache(maxsize=4)
def _described(corpus: SyntheticPictureFMRIReader) -> dict[str, np.ndarray]:
    """What each region looks at, of all pictures: stimulus, feature."""
    names = (*corpus.train, *corpus.shared())
    code: Eye = eye(
        seed=corpus.seed, size=corpus.size, dim=corpus.dim, categories=corpus.categories
    )
    parts: dict[str, list[np.ndarray]] = {"V1": [], "V4": [], "LO": []}
    for lo in range(0, len(names), 256):
        pictures = corpus.images(names[lo : lo + 256])
        n = len(pictures)
        parts["V1"].append(local_energy(pictures, grid=_GRID).reshape(n, -1))
        parts["V4"].append(local_colour(pictures, grid=_GRID).reshape(n, -1))
        parts["LO"].append(code.embed(pictures))
    whole = {name: np.concatenate(part) for name, part in parts.items()}
    return {
        name: (x - x[: corpus.n_train].mean(0)) / (x[: corpus.n_train].std(0) + 1e-6)
        for name, x in whole.items()
    }


@functools.lru_cache(maxsize=4)
def _person(
    corpus: SyntheticPictureFMRIReader, subject: str
) -> tuple[PictureFmriTruth, dict[str, np.ndarray]]:
    """What is planted, and the weights of each region, feature x voxel."""
    rng = seeded(corpus.seed, subject, "voxels")
    n = corpus.n_voxels
    counts = _counts(n)
    region = tuple(name for name, count in counts.items() for _ in range(count))
    typical = np.array([REGIONS[name][2] for name in region])
    ncsnr = float(corpus.signal) * typical * rng.uniform(0.3, 1.4, n)
    center, radius = rng.uniform(0.1, 0.9, (n, 2)), rng.uniform(0.05, 0.12, n)
    orientation, best = rng.uniform(0, np.pi, n), rng.integers(0, len(CYCLES), n)
    mixing = rng.standard_normal((corpus.dim, n)).astype(np.float32)
    opponent = rng.standard_normal((3, n))
    kind = np.array(region)
    radius = np.where(kind == "V4", 2 * radius, radius)
    seen = np.isin(kind, ("V1", "V4"))
    at = (np.arange(_GRID) + 0.5) / _GRID
    place = np.stack(np.meshgrid(at, at, indexing="ij"), axis=-1).reshape(-1, 2)
    apart = ((place[:, None] - center[None]) ** 2).sum(axis=-1)
    field = np.exp(-0.5 * apart / radius**2)
    v1, v4, lo = (np.flatnonzero(kind == name) for name in ("V1", "V4", "LO"))
    angle = np.arange(ORIENTATIONS)[:, None] * np.pi / ORIENTATIONS
    turned = np.exp(2 * (np.cos(2 * (angle - orientation[v1][None])) - 1))
    scale = np.exp(-0.5 * ((np.arange(len(CYCLES))[:, None] - best[v1][None]) / 0.5) ** 2)
    weights = {
        "V1": np.einsum("pv,kv,ov->pkov", field[:, v1], scale, turned).reshape(-1, len(v1)),
        "V4": np.einsum("pv,cv->pcv", field[:, v4], opponent[:, v4]).reshape(-1, len(v4)),
        "LO": mixing[:, lo],
    }
    truth = PictureFmriTruth(
        region=region,
        ncsnr=ncsnr,
        center=np.where(seen[:, None], center, np.nan),
        radius=np.where(seen, radius, np.nan),
        orientation=np.where(kind == "V1", orientation, np.nan),
    )
    return truth, {name: weight.astype(np.float32) for name, weight in weights.items()}


def _counts(n: int) -> dict[str, int]:
    names = list(REGIONS)
    counts = {name: max(2, round(n * REGIONS[name][0])) for name in names[:-1]}
    return counts | {names[-1]: n - sum(counts.values())}


@functools.lru_cache(maxsize=8)
def _sensors(region: tuple[str, ...]) -> Sensors:
    """Voxels around the centre of their region, half of them on each side, none twice."""
    n, taken = len(region), set()
    voxel_m = 0.004 if n <= _FEW else 0.002
    position = np.zeros((n, 3))
    kind = np.array(region)
    for name, (_, centre, _) in REGIONS.items():
        own = np.flatnonzero(kind == name)
        reach = int(np.ceil((3 * len(own)) ** (1 / 3))) + 12
        steps = np.arange(-reach, reach + 1)
        cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
        cube = cube[np.argsort((cube**2).sum(axis=1), kind="stable")]
        middle = np.round(np.array(centre) / voxel_m).astype(int)
        places = iter(place for step in cube if (place := tuple((middle + step).tolist()))[0] > 0)
        for k in range(0, len(own), 2):
            place = next(p for p in places if p not in taken)
            taken.add(place)
            position[own[k]] = np.array(place) * voxel_m
            if k + 1 < len(own):
                position[own[k + 1]] = np.array(place) * voxel_m * [-1, 1, 1]
    return Sensors(
        names=tuple(f"v{i:05d}" for i in range(n)),
        kind=np.full(n, int(Kind.BOLD), dtype=np.int8),
        position=position,
        orientation=np.zeros((n, 3)),
        frame="mni",
        region=region,
    )
