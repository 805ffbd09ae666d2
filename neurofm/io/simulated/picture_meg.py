"""Simulated MEG of people who look at pictures: when the brain knows what about a picture.

Some 100 ms after a picture appears, sources in visual cortex tell how much contrast there is where;
from 160 to 450 ms sources along the temporal lobe carry a code of the whole picture
(`pictures.Eye`). A person's sources lie and mix the code in their own way. Pictures to train on are
seen once, those of the test several times, and categories of the test are none of the training, as
in THINGS-MEG. The noise is that of a brain at rest, of the sensors and of slow fields far away.

Source: Hebart et al. 2023 (design); Cichy et al. 2014 (time course).
Axes: trial channel time; stimulus feature. Metres in the head frame; fT, fT/cm; nA·m; seconds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neurofm.io.electrodes import template_positions
from neurofm.io.simulated.forward import fit_sphere
from neurofm.io.simulated.noise import noise, seeded, unit
from neurofm.io.simulated.people import numbered, require_known, require_subject
from neurofm.io.simulated.pictures import (
    Eye,
    category_of,
    draw_pictures,
    eye,
    local_energy,
    picture_name,
)
from neurofm.io.simulated.synthetic import CHANNELS
from neurofm.io.simulated.synthetic_sensors import EARS, Device, meg_helmet
from neurofm.shapes import Float
from neurofm.types import Event, Recording, Responses, Sensors, Signal
from neurofm.units import Kind

EARLY_S, LATE_S = (0.06, 0.14), (0.16, 0.45)
_EARLY, _LATE, _BACKGROUND = 16, 32, 120  # sources
_REST_NAM = 9.0  # of a background source
_WHITE, _FAR_FT = 3.0, 400.0  # fT or fT/cm per root Hz; slow homogeneous field


@dataclass(frozen=True)
class PictureMegTruth:
    """What was planted in one person.

    Args:
        position: Metres, head frame; early sources first.
        lead_field: Working units of each channel per nA·m.
        mixing: Of the late sources, from the code of a picture.
        courses: Of all sources, 1 at their peak.
        times: Seconds after the picture appeared.
    """

    position: Float[np.ndarray, "source 3"]
    lead_field: Float[np.ndarray, "channel source"]
    mixing: Float[np.ndarray, "late feature"]
    courses: Float[np.ndarray, "source time"]
    times: Float[np.ndarray, " time"]


@dataclass(frozen=True, kw_only=True)
class SyntheticPictureMEGReader:
    """A corpus of people who look at pictures in the scanner, computed when it is loaded.

    Args:
        root: Not used: nothing lies on disk.
        subjects: How many; they are called "001", "002", ...
        runs: In each all test pictures are seen once, and a part of the others.
        n_train: Pictures that are seen once, of `categories`.
        n_test: Pictures that are seen once in every run, of `test_categories` others.
        categories: Of the training.
        test_categories: Of the test.
        dim: Numbers of the code of a picture.
        sensors: "mag", "grad" or "all": 102, 204 or 306 channels of the helmet.
        sfreq: Hz.
        start_s: First sample, before the picture appears.
        stop_s: Last sample.
        signal_nam: Typical moment of a source for a code of unit variance, nA·m; 0 leaves the noise
            as it is and nothing to decode.
        level: Of background and sensors' noise.
        size: Of the pictures, pixels.
        seed: Another seed gives other people and pictures.
    """

    dataset: str = "simulated_picture_meg"
    root: Path | str | None = None
    subjects: int = 4
    runs: int = 4
    n_train: int = 800
    n_test: int = 50
    categories: int = 20
    test_categories: int = 10
    dim: int = 32
    sensors: str = "mag"
    sfreq: float | int = 120.0
    start_s: float = -0.2
    stop_s: float = 0.8
    signal_nam: float | int = 12.0
    level: float | int = 1.0
    size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.runs, self.n_train, self.n_test, self.categories, self.test_categories)
        if min(counts) < 1 or self.sensors not in ("mag", "grad", "all"):
            raise ValueError(
                f"{type(self).__name__}: {self.runs} runs, {self.n_train} + {self.n_test} pictures "
                f"of {self.categories} + {self.test_categories} categories, sensors "
                f"{self.sensors!r}; expected at least 1 of each, and mag, grad or all."
            )
        if not self.start_s < 0 < self.stop_s or self.sfreq < 20 or min(self._levels) < 0:
            raise ValueError(
                f"{type(self).__name__}: from {self.start_s} to {self.stop_s} s at {self.sfreq} "
                f"Hz, signal {self.signal_nam}, level {self.level}; expected a time before and one "
                "after 0, at least 20 Hz, and no negative level."
            )
        self.recordings()

    @property
    def _levels(self) -> tuple[float, float]:
        return float(self.signal_nam), float(self.level)

    @property
    def times(self) -> Float[np.ndarray, " time"]:
        """Of the samples of a response, seconds after the picture appeared."""
        first, last = round(self.start_s * self.sfreq), round(self.stop_s * self.sfreq)
        return np.arange(first, last + 1) / self.sfreq

    @property
    def train(self) -> tuple[str, ...]:
        """Pictures seen once."""
        return tuple(
            picture_name(i % self.categories, i // self.categories) for i in range(self.n_train)
        )

    def shared(self) -> tuple[str, ...]:
        """Test pictures, seen in every run by everybody."""
        more = self.test_categories
        return tuple(
            picture_name(self.categories + i % more, i // more) for i in range(self.n_test)
        )

    def categories_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The category of each picture."""
        return tuple(category_of(name) for name in names)

    def images(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus 3 height width"]:
        """Pictures by name, 0 to 1."""
        return draw_pictures(names, seed=self.seed, size=self.size)

    def embed(self, names: Sequence[str]) -> Float[np.ndarray, "stimulus feature"]:
        """The code of each picture that late responses carry."""
        return self._eye().embed(self.images(names))

    def _eye(self) -> Eye:
        return eye(seed=self.seed, size=self.size, dim=self.dim, categories=self.categories)

    def _seen(self, names: Sequence[str]) -> np.ndarray:
        """Contrast by place and the code of pictures, side by side."""
        every = (*self.train, *self.shared())
        known = _described(self._eye(), every, self.seed, self.size)
        at = {name: i for i, name in enumerate(every)}
        return known[[at[name] for name in names]]

    def people(self) -> list[str]:
        """Names of the people."""
        return list(dict.fromkeys(recording.subject for recording in self.recordings()))

    def recordings(self) -> list[Recording]:
        """Every run of every person."""
        return numbered(self.dataset, subjects=self.subjects, runs=self.runs, task="pictures")

    def responses(self, subject: str) -> Responses:
        """All runs of one person.

        Raises:
            ValueError: Nobody of this name.
        """
        require_subject(subject, self.recordings())
        runs = [item for item in self.recordings() if item.subject == subject]
        return Responses.joined([self._run(item) for item in runs])

    def load(self, recording: Recording) -> Signal:
        """One run: responses one after the other, an event where each picture appears.

        Raises:
            ValueError: A recording of another corpus.
        """
        require_known(recording, self.recordings())
        found = self._run(recording)
        n, _, length = found.values.shape
        zero = int(np.argmin(np.abs(self.times)))
        onsets = (np.arange(n) * length + zero) / float(self.sfreq)
        events = [Event(float(o), 0.0, s) for o, s in zip(onsets, found.stimulus, strict=True)]
        joins = [Event(i * length / self.sfreq, 0.0, "EDGE boundary") for i in range(1, n)]
        return Signal(
            data=np.concatenate(list(found.values), axis=1),
            sfreq=float(self.sfreq),
            sensors=found.sensors,
            events=tuple(sorted([*events, *joins], key=lambda event: event.onset)),
            recording=recording,
            history=(f"simulated: seed {self.seed}, {self.signal_nam:g} nAm",),
        )

    def truth(self, subject: str) -> PictureMegTruth:
        """What was planted in this person."""
        require_subject(subject, self.recordings())
        person = _Person(self, subject)
        return PictureMegTruth(
            person.position, person.gain, person.mixing, person.courses, self.times
        )

    def _order(self, recording: Recording) -> list[str]:
        """The pictures of a run: its share of the training and all of the test, mixed."""
        rng = seeded(self.seed, recording.subject, str(recording.run), "order")
        # Who sees which picture in which run differs between people.
        dealt = seeded(self.seed, recording.subject, "deal").permutation(self.n_train)
        share = dealt[int(str(recording.run)) - 1 :: self.runs]
        train = self.train
        names = [train[i] for i in sorted(share)] + list(self.shared())
        return [names[i] for i in rng.permutation(len(names))]

    def _run(self, recording: Recording) -> Responses:
        person = _Person(self, recording.subject)
        names = self._order(recording)
        seen = self._seen(names)
        moments = np.concatenate([seen[:, :_EARLY], seen[:, _EARLY:] @ person.mixing.T], axis=1)
        rng = seeded(self.seed, recording.subject, str(recording.run), "noise")
        n, length = len(names), len(self.times)
        # A response that does not tell pictures apart comes with every picture.
        moments = self.signal_nam * (moments + 0.7 * person.usual)
        values = np.empty((n, len(person.sensors), length), dtype=np.float32)
        for lo in range(0, n, 64):
            m = min(64, n - lo)
            rest = person.rest(rng, m * length, float(self.sfreq)) * float(self.level)
            for i in range(m):
                evoked = person.gain @ (moments[lo + i][:, None] * person.courses)
                values[lo + i] = evoked + rest[:, i * length : (i + 1) * length]
        before = self.times < 0
        values -= values[..., before].mean(axis=-1, keepdims=True)
        return Responses(
            values=values,
            stimulus=tuple(names),
            run=(str(recording.run),) * n,
            sensors=person.sensors,
            recording=recording,
            unit="fT" if self.sensors == "mag" else "fT/cm" if self.sensors == "grad" else "mixed",
            sfreq=float(self.sfreq),
            start_s=float(self.times[0]),
        )


@functools.lru_cache(maxsize=4)
def _described(code: Eye, names: tuple[str, ...], seed: int, size: int) -> np.ndarray:
    """What brains tell of pictures; the same for all people, so found out once."""
    parts = []
    for lo in range(0, len(names), 256):
        pictures = draw_pictures(names[lo : lo + 256], seed=seed, size=size)
        contrast = local_energy(pictures, grid=4).mean(axis=(2, 3))
        parts.append(np.concatenate([contrast, code.embed(pictures)], axis=1))
    seen = np.concatenate(parts)
    contrast = seen[:, :_EARLY]
    seen[:, :_EARLY] = (contrast - contrast.mean()) / contrast.std()
    return seen


class _Person:
    """Head, helmet and sources of one person."""

    def __init__(self, corpus: SyntheticPictureMEGReader, subject: str) -> None:
        rng = seeded(corpus.seed, subject, "head")
        template = template_positions("standard_1005")
        center, radius = fit_sphere(np.array([template[name] for name in CHANNELS + EARS]))
        device = meg_helmet(center, radius, seeded(corpus.seed, subject, "helmet"))
        kinds = {"mag": [Kind.MAG], "grad": [Kind.GRAD], "all": [Kind.MAG, Kind.GRAD]}
        picks = np.flatnonzero(np.isin(device.sensors.kind, kinds[corpus.sensors]))
        self.sensors: Sensors = device.sensors.pick(picks)
        self._device: Device = device
        self._picks = picks
        early = _around(rng, ("Oz", "O1", "O2", "Iz"), _EARLY, template, center, radius)
        late = _around(rng, ("P7", "P8", "PO7", "PO8", "T7", "T8"), _LATE, template, center, radius)
        self.position = np.concatenate([early, late])
        self.gain = self._gain(self.position, rng)
        where = unit(rng.normal(size=(_BACKGROUND, 3)))
        where[:, 2] = np.maximum(where[:, 2], -0.4)
        places = center + radius * rng.uniform(0.4, 0.85, (_BACKGROUND, 1)) * unit(where)
        self._background = _REST_NAM * self._gain(places, rng)
        self.mixing = rng.standard_normal((_LATE, corpus.dim)) / corpus.dim**0.5
        self.usual = rng.standard_normal(_EARLY + _LATE)
        peak = np.concatenate(
            [rng.uniform(*EARLY_S, _EARLY), rng.uniform(LATE_S[0] + 0.04, LATE_S[1] - 0.1, _LATE)]
        )
        width = np.concatenate([np.full(_EARLY, 0.015), rng.uniform(0.03, 0.06, _LATE)])
        apart = (corpus.times[None] - peak[:, None]) / width[:, None]
        onset = np.concatenate([np.full(_EARLY, EARLY_S[0] - 0.03), np.full(_LATE, LATE_S[0])])
        # Nothing is known about a picture before its time.
        rise = np.clip((corpus.times[None] - onset[:, None]) / 0.03, 0, 1)
        self.courses = np.exp(-0.5 * apart**2) * rise

    def _gain(self, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        along = unit(rng.normal(size=position.shape))
        return self._device.gain(position, along)[self._picks]

    def rest(self, rng: np.random.Generator, n_times: int, sfreq: float) -> np.ndarray:
        """What the sensors measure without a picture."""
        slow = noise(rng, _BACKGROUND, n_times, sfreq, band="power", exponent=1.0)
        size = len(self._picks), n_times
        own = rng.standard_normal(size, dtype=np.float32) * np.float32(_WHITE * (sfreq / 2) ** 0.5)
        far = _FAR_FT * noise(rng, 3, n_times, sfreq, band="drift")
        # The same vector everywhere: gradiometers do not see it.
        normal = self.sensors.orientation * (self.sensors.kind == Kind.MAG)[:, None]
        return self._background @ slow + own + normal @ far


def _around(
    rng: np.random.Generator,
    over: tuple[str, ...],
    n: int,
    template: Mapping[str, tuple[float, float, float]],
    center: np.ndarray,
    radius: float,
) -> np.ndarray:
    """Places under electrodes, in turn."""
    out = [unit(np.asarray(template[over[i % len(over)]]) - center) for i in range(n)]
    scattered = unit(np.array(out) + rng.normal(0, 0.15, (n, 3)))
    return center + radius * rng.uniform(0.66, 0.82, (n, 1)) * scattered
