"""Simulated BOLD with a known answer: which voxels are tuned to what, and how strongly.

People look at pictures in a slow event-related run. A picture is a point in a space of features,
around the centre of its category. Voxels of a tuned region answer with a weighted sum of the
features; their neighbours share a part of the weights, and a person's weights are those of the
others with some of their own. The answer is convolved with the person's haemodynamic response
(delay and width vary) and scaled to percent of a baseline. Drift, head motion, which moves every
voxel's signal its own way, and autoregressive noise are added. Other regions hold noise only.

Source: Friston et al. 1998 (response); Bullmore et al. 1996 (autoregressive noise of fMRI).
Axes: channel = confound or voxel, time = volume; feature; stimulus. Metres, MNI frame; percent.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.signal import lfilter
from scipy.stats import gamma

from neurofm.io.mri.fmri import CONFOUND
from neurofm.io.simulated.people import numbered, require_known, require_subject
from neurofm.shapes import Bool, Float
from neurofm.types import Event, Recording, Sensors, Signal
from neurofm.units import Kind

REGIONS = {
    "ventral": (0.030, -0.055, -0.015),
    "frontal": (0.038, 0.033, 0.025),
}  # on one grid; metres
_MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_GRID_M = 0.004  # distance of voxels
_FEATURES = 6
_LEAD_S, _TAIL_S = 10.0, 26.0


@dataclass(frozen=True)
class BoldTruth:
    """What was planted in one simulated person.

    Args:
        weights: Percent per unit of feature; zero outside the tuned region.
        tuned: Whether each voxel answers at all.
        region: Name of the region of each voxel.
        features: Place of every picture in feature space.
        category: Category of every picture.
        peak_s: Shape of the response's first gamma density.
    """

    weights: Float[np.ndarray, "voxel feature"]
    tuned: Bool[np.ndarray, " voxel"]
    region: tuple[str, ...]
    features: Float[np.ndarray, "stimulus feature"]
    category: tuple[str, ...]
    peak_s: float

    @property
    def patterns(self) -> Float[np.ndarray, "stimulus voxel"]:
        """Percent at the height of a long presentation of each picture."""
        return self.features @ self.weights.T


def _rng(*key: int | str) -> np.random.Generator:
    return np.random.default_rng(
        [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    )


@functools.lru_cache(maxsize=64)
def _stimuli(seed: int, n_categories: int, n_stimuli: int) -> Float[np.ndarray, "stimulus feature"]:
    """Pictures, the same for everybody: centres of categories, far apart, and their surround."""
    rng = _rng(seed, "stimuli")
    centre = rng.standard_normal((n_categories, _FEATURES))
    centre *= 1.5 / np.linalg.norm(centre, axis=1, keepdims=True)
    each = centre[:, None] + 0.4 * rng.standard_normal((n_categories, n_stimuli, _FEATURES))
    return each.reshape(-1, _FEATURES)


def _positions(n_voxels: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The voxels nearest to the centre of each region, on a grid; and their region."""
    side = np.arange(-8, 9) * _GRID_M
    cube = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    cube = cube[np.argsort((cube**2).sum(axis=1), kind="stable")]
    share = -(-n_voxels // len(REGIONS))
    parts: list[np.ndarray] = []
    names: list[str] = []
    for name, centre in REGIONS.items():
        count = min(share, n_voxels - len(names))
        parts.append(np.array(centre) + cube[:count])
        names += [name] * count
    return np.concatenate(parts), tuple(names)


@functools.lru_cache(maxsize=64)
def _person(
    subject: str, seed: int, n_voxels: int, n_categories: int, n_stimuli: int, tuning: float
) -> BoldTruth:
    """Draw one person. Nothing but the size of the weights depends on `tuning`."""
    rng, common = _rng(seed, subject), _rng(seed, "weights")
    position, region = _positions(n_voxels)
    distance = np.linalg.norm(position[:, None] - position[None], axis=-1)
    smooth = np.exp(-0.5 * (distance / (1.5 * _GRID_M)) ** 2)
    shared = common.standard_normal((n_voxels, _FEATURES))
    own = rng.standard_normal((n_voxels, _FEATURES))
    weights = smooth @ (0.8 * shared + 0.6 * own)
    weights /= weights.std()
    tuned = np.array([name == "ventral" for name in region]) & (rng.random(n_voxels) < 0.8)
    return BoldTruth(
        weights=tuning * weights * tuned[:, None],
        tuned=tuned,
        region=region,
        features=_stimuli(seed, n_categories, n_stimuli),
        category=tuple(f"category_{i // n_stimuli + 1}" for i in range(n_categories * n_stimuli)),
        peak_s=float(np.clip(rng.normal(6.0, 0.5), 5.0, 7.0)),
    )


def _response(time: np.ndarray, onset: float, duration: float, peak_s: float) -> np.ndarray:
    """Response to a presentation, 1 at the height of a long one."""

    def area(t: np.ndarray) -> np.ndarray:
        return (gamma.cdf(t, peak_s) - gamma.cdf(t, 16.0) / 6) / (1 - 1 / 6)

    return area(time - onset) - area(time - onset - duration)


def _motion(rng: np.random.Generator, n_times: int) -> Float[np.ndarray, "channel time"]:
    """Six slow random walks with a few jumps: millimetres and, by a hundredth, radians."""
    steps = 0.01 * rng.standard_normal((6, n_times))
    for _ in range(rng.poisson(n_times / 80)):
        steps[:, rng.integers(n_times)] += 0.15 * rng.standard_normal(6)
    walk = np.cumsum(steps, axis=1)
    return walk * np.array([1.0, 1, 1, 0.02, 0.02, 0.02])[:, None]


def simulate_bold(
    subject: str,
    run: str,
    *,
    seed: int = 0,
    tr_s: float = 2.0,
    n_voxels: int = 100,
    n_categories: int = 2,
    n_stimuli: int = 6,
    repeats: int = 2,
    duration_s: float = 3.0,
    gap_s: float = 5.0,
    tuning: float = 0.8,
    noise: float = 1.0,
    labels: Literal["category", "stimulus"] = "category",
    dataset: str = "synthetic_fmri",
) -> Signal:
    """One run of one simulated person, always the same for the same arguments.

    Args:
        subject: Any name; weights and response are drawn from it and the seed.
        run: Any name; noise and order are drawn from it too.
        tr_s: Seconds between volumes.
        n_voxels: Half of them in the region that answers.
        n_stimuli: Pictures of each category.
        repeats: Presentations of each picture in a run.
        duration_s: Of a presentation.
        gap_s: Mean time from the end of one to the start of the next; half to one and a half.
        tuning: Typical weight, percent per unit of feature. 0 leaves nothing to decode, with all
            else the same sample by sample.
        noise: Standard deviation of the noise, percent.
        labels: Events are called by category ("category_1") or by picture ("category_1/03").

    Returns:
        Six motion parameters as confounds and the voxels, in percent.
    """
    if min(n_voxels, n_categories, n_stimuli, repeats) < 1 or not tr_s > 0 or tuning < 0:
        raise ValueError(
            f"simulate_bold: {n_voxels} voxels, {n_categories} x {n_stimuli} pictures, {repeats} "
            f"repeats, TR {tr_s} s, tuning {tuning}; expected at least 1 of each, a TR above 0 and "
            "tuning of at least 0."
        )
    truth = _person(subject, seed, n_voxels, n_categories, n_stimuli, float(tuning))
    rng = _rng(seed, subject, run)
    n_shown = len(truth.features) * repeats
    # Every picture is seen once before any is seen again.
    order = np.concatenate([rng.permutation(len(truth.features)) for _ in range(repeats)])
    gaps = gap_s * rng.uniform(0.5, 1.5, n_shown)
    onsets = _LEAD_S + np.cumsum(duration_s + gaps) - duration_s - gaps
    # Presentations begin with a volume, as scanners trigger them.
    onsets = np.round(onsets / tr_s) * tr_s
    n_times = int(np.ceil((onsets[-1] + duration_s + _TAIL_S) / tr_s))
    time = np.arange(n_times) * tr_s
    activity = np.zeros((_FEATURES, n_times))
    for picture, onset in zip(order, onsets, strict=True):
        course = _response(time, float(onset), duration_s, truth.peak_s)
        activity += truth.features[picture][:, None] * course
    data = truth.weights @ activity
    motion = _motion(rng, n_times)
    data += _nuisance(rng, n_voxels, n_times, noise, motion)
    position, region = _positions(n_voxels)
    sensors = _sensors(position, region)
    names = [
        truth.category[i] + (f"/{i % n_stimuli + 1:02d}" if labels == "stimulus" else "")
        for i in order
    ]
    return Signal(
        data=np.concatenate([motion, data]).astype(np.float32),
        sfreq=1.0 / tr_s,
        sensors=sensors,
        events=tuple(
            Event(float(onset), duration_s, name) for onset, name in zip(onsets, names, strict=True)
        ),
        recording=Recording(dataset=dataset, subject=subject, run=run, task="pictures"),
        history=(f"simulated: seed {seed}, tuning {tuning:g} %, noise {noise:g} %",),
        details={"tr_s": tr_s, "n_volumes": n_times, "scale": "percent"},
    )


def _nuisance(
    rng: np.random.Generator, n_voxels: int, n_times: int, noise: float, motion: np.ndarray
) -> Float[np.ndarray, "channel time"]:
    """Autoregressive noise, drift, and what head motion does to each voxel."""
    white = rng.standard_normal((n_voxels, n_times))
    shared = lfilter([1.0], [1.0, -0.4], rng.standard_normal((1, n_times)))
    data = lfilter([1.0], [1.0, -0.35], white) * np.sqrt(1 - 0.35**2) + 0.3 * shared
    at = np.linspace(0, np.pi, n_times)
    drift = np.stack([np.cos(k * at) for k in (1, 2, 3)])
    data += rng.standard_normal((n_voxels, 3)) @ drift
    moved = motion - motion.mean(axis=1, keepdims=True)
    size = moved.std(axis=1, keepdims=True)
    data += 0.5 * rng.standard_normal((n_voxels, len(motion))) @ (moved / np.maximum(size, 1e-9))
    return noise * data


def _sensors(position: np.ndarray, region: tuple[str, ...]) -> Sensors:
    n, m = len(_MOTION), len(position)
    names = [CONFOUND + name for name in _MOTION] + [f"v{i:04d}" for i in range(m)]
    kind = np.array([int(Kind.OTHER)] * n + [int(Kind.BOLD)] * m, dtype=np.int8)
    return Sensors(
        names=tuple(names),
        kind=kind,
        position=np.concatenate([np.full((n, 3), np.nan), position]),
        orientation=np.zeros((n + m, 3)),
        frame="mni",
        region=("",) * n + region,
    )


@dataclass(frozen=True, kw_only=True)
class SyntheticFMRIReader:
    """A corpus of simulated people in the scanner, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: How many runs; they are called "01", "02", ...
        seed: Another seed gives other people and pictures.
    """

    dataset: str
    root: Path | str | None = None
    subjects: int = 4
    runs: int = 4
    seed: int = 0
    tr_s: float = 2.0
    n_voxels: int = 100
    n_categories: int = 2
    n_stimuli: int = 6
    repeats: int = 2
    tuning: float = 0.8
    noise: float = 1.0
    labels: Literal["category", "stimulus"] = "category"

    def __post_init__(self) -> None:
        self.recordings()

    def recordings(self) -> list[Recording]:
        """Every run of every person."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="pictures")

    def load(self, recording: Recording) -> Signal:
        """One simulated run, in percent.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        about: dict[str, Any] = {
            "seed": self.seed,
            "tr_s": self.tr_s,
            "n_voxels": self.n_voxels,
            "n_categories": self.n_categories,
            "n_stimuli": self.n_stimuli,
            "repeats": self.repeats,
            "tuning": self.tuning,
            "noise": self.noise,
            "labels": self.labels,
        }
        return simulate_bold(recording.subject, str(recording.run), dataset=self.dataset, **about)

    def truth(self, subject: str) -> BoldTruth:
        """What was planted in this person."""
        require_subject(subject, self.recordings())
        size = (self.n_voxels, self.n_categories, self.n_stimuli)
        return _person(subject, self.seed, *size, float(self.tuning))
