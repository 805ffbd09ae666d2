"""ResponseData: stimuli and what one or several brains answered, as batches of `Pairs`.

People either share a model with an output per channel of everybody ("concatenate": a row is a
stimulus, what a person has not seen is masked), or take turns ("alternate": a batch is of one
person, channels beyond theirs are masked). Order and position are a function of seed and epoch, so
that a run resumes where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from neurofm.data.pair_loader import PairLoader, PairTable
from neurofm.data.response_pairs import averaged, refuse_shared_stimuli, split_trials, standardized
from neurofm.data.stimulus_table import StimulusTable
from neurofm.io import open_corpus
from neurofm.types import Responses

SIDES = ("train", "validate", "test")


class ResponseData(lightning.LightningDataModule):
    """Stimuli and responses of a corpus, split for training.

    Args:
        dataset: A card whose reader has `responses(subject)` and `images(names)`, such as
            "simulated_picture_fmri", "nsd_betas", "things_fmri_betas"; or give `responses`.
        subjects: Only these people; all by default.
        root: Folder of the corpus; otherwise `$NEUROFM_DATA/<folder of the card>`.
        reader: More arguments of the card's reader (number of simulated people, region, ...).
        responses: Of each person, in place of `dataset`.
        stimuli: A file or table of vectors by name of the stimulus (see `StimulusTable`); the
            pictures themselves by default.
        split_by: "shared" (test on the corpus's shared stimuli), "stimulus", "category", "run"; or
            "subject": whole people test, with the stimuli of the others, so that channels must be
            the same in all (parcels, sensors).
        test: Names or a share, for the splits other than "shared".
        validate: Names or a share of what does not test.
        standardize: "run" (each run by its training trials), "all", or None.
        average: Means over the repeats of a stimulus, on all sides; else single trials train and
            means test.
        people: "alternate" or "concatenate".
        batch_size: Rows in a step, over all processes.
        seed: Of the split and of the order.
    """

    def __init__(
        self,
        dataset: str | None = None,
        *,
        subjects: list[str] | None = None,
        root: Path | str | None = None,
        reader: dict[str, Any] | None = None,
        responses: Sequence[Responses] | None = None,
        stimuli: StimulusTable | Mapping[str, Any] | Path | str | None = None,
        split_by: str = "shared",
        test: list[str] | float = 0.1,
        validate: list[str] | float = 0.1,
        standardize: str | None = "run",
        average: bool = True,
        people: str = "alternate",
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (dataset is None) == (responses is None):
            raise ValueError("ResponseData: give either a dataset or responses.")
        if people not in ("alternate", "concatenate") or (people == "concatenate" and not average):
            raise ValueError(
                f"ResponseData: people {people!r} with average {average}; expected alternate or "
                "concatenate, and for concatenate average: true, as a row is a stimulus."
            )
        self.dataset, self.people, self.average = dataset, people, average
        self.split_by, self.test, self.validate = split_by, test, validate
        self.standardize, self.batch_size, self.seed = standardize, batch_size, seed
        self.subjects, self.root, self.reader = subjects, root, dict(reader or {})
        self._given = None if responses is None else list(responses)
        self._stimuli = stimuli
        self._corpus: Any = None
        self.tables: dict[str, PairTable] = {}
        self.responses: list[Responses] = []
        self.names: tuple[str, ...] = ()

    @property
    def n_channels(self) -> int:
        """Outputs a model needs: of everybody together, or of whoever has most."""
        self.setup()
        sizes = [one.values.shape[1] for one in self.responses]
        return sum(sizes) if self.people == "concatenate" else max(sizes)

    @property
    def n_people(self) -> int:
        """How many people there are."""
        self.setup()
        return len(self.responses)

    @property
    def regions(self) -> tuple[str, ...]:
        """Region of each channel; empty where it is not known, or differs between people."""
        self.setup()
        every = [one.sensors.region for one in self.responses]
        if self.people == "concatenate":
            return tuple(r for one in every for r in one) if all(every) else ()
        return every[0] if len(set(every)) == 1 else ()

    def setup(self, stage: str | None = None) -> None:
        """Read, split, scale and average; refuse a stimulus on two sides."""
        if self.tables:
            return
        self.responses = self._read()
        whole = self.split_by == "subject"
        held = (0.0, 0.0) if whole else self._held()
        kept = self._of_people() if whole else [self._sides(r, *held) for r in self.responses]
        names = dict.fromkeys(n for sides in kept for one in sides.values() for n in one.stimulus)
        self.names = tuple(names)
        vectors = self._vectors(self.names)
        contents = dict(zip(self.names, vectors, strict=True))
        # Between people too: who saw a test stimulus of another in training has seen it.
        train, test = ([n for s in kept for n in s[side].stimulus] for side in ("train", "test"))
        if not whole:  # where the question is of new people, stimuli may be the same
            refuse_shared_stimuli(train, test, contents=contents)
        index = {name: i for i, name in enumerate(self.names)}
        self.tables = {
            side: self._table([sides[side] for sides in kept], vectors, index) for side in SIDES
        }

    def _read(self) -> list[Responses]:
        if self._given is not None:
            if not self._given:
                raise ValueError("ResponseData: the list of responses is empty.")
            return self._given
        assert self.dataset is not None
        corpus = open_corpus(self.dataset, root=None if self.root is None else Path(self.root))
        source: Any = corpus.reader
        if not hasattr(source, "responses"):
            raise ValueError(
                f"ResponseData: {self.dataset} has recordings, not responses to stimuli. Datasets "
                "with responses name a reader of neurofm.io.responses, or a simulation of pictures."
            )
        if self.reader:
            arguments = {**vars(source), **self.reader}
            source = type(source)(**{k: v for k, v in arguments.items() if not k.startswith("_")})
        self._corpus = source
        everybody = source.people()
        wanted = everybody if self.subjects is None else [str(s) for s in self.subjects]
        unknown = sorted(set(wanted) - set(everybody))
        if unknown:
            raise ValueError(f"ResponseData: no subject {unknown}; there are {everybody}.")
        return [source.responses(subject) for subject in wanted]

    def _held(self) -> tuple[Sequence[str] | float, Sequence[str] | float]:
        """What tests and what validates; shares are drawn once for all people."""
        tested, validated = self._tested(), self.validate
        if self.split_by == "run":
            return tested, validated
        by_name = [
            name
            for one in self.responses
            for name in (self._categories(one) or dict.fromkeys(one.stimulus, "")).items()
        ]
        names = sorted({group or name for name, group in by_name})
        rng = np.random.default_rng(self.seed)
        if isinstance(tested, float | int):
            tested = _drawn(names, tested, rng, "test")
        if isinstance(validated, float | int):
            validated = _drawn(sorted(set(names) - set(tested)), validated, rng, "validate")
        return tested, validated

    def _sides(
        self,
        one: Responses,
        tested: Sequence[str] | float,
        validated: Sequence[str] | float,
    ) -> dict[str, Responses]:
        groups = set((self._categories(one) or dict.fromkeys(one.stimulus, "")).items())
        own = {group or name for name, group in groups} | set(one.run)
        if isinstance(tested, Sequence):  # of what everybody saw, what this person saw
            tested = [name for name in tested if name in own] or tested
        if isinstance(validated, Sequence):
            validated = [name for name in validated if name in own]
        split = split_trials(
            one,
            by="stimulus" if self.split_by == "shared" else self.split_by,
            test=tested,
            validate=validated,
            categories=self._categories(one),
            repeats="drop" if self.split_by == "run" else "refuse",
            seed=self.seed,
        )
        if self.standardize is not None:
            one = standardized(one, split.train, by=self.standardize)
        sides = {name: one.pick(list(rows)) for name, rows in split.sides.items()}
        return {
            name: averaged(side) if len(side) and (self.average or name == "test") else side
            for name, side in sides.items()
        }

    def _of_people(self) -> list[dict[str, Responses]]:
        """Every person on one side."""
        names = [one.recording.subject for one in self.responses]
        if len({one.sensors.names for one in self.responses}) > 1 or self.people == "concatenate":
            raise ValueError(
                f"ResponseData: a split by subject with people {self.people!r} whose channels are "
                "not the same; expected alternate and the same channels in all. Average voxels "
                "over parcels of an atlas first."
            )
        rng = np.random.default_rng(self.seed)
        side: dict[str, str] = {}
        for what, wanted in (("test", self.test), ("validate", self.validate)):
            left = [name for name in names if name not in side]
            named = _drawn(left, wanted, rng, what) if isinstance(wanted, float | int) else wanted
            unknown = sorted(set(named) - set(left))
            if unknown:
                raise ValueError(f"ResponseData: {what} names {unknown}; there are {left}.")
            side |= dict.fromkeys(named, what)
        if len(side) == len(names) or "test" not in side.values():
            raise ValueError(
                f"ResponseData: of {len(names)} people {len(side)} test or validate; expected some "
                "to train and some to test."
            )
        found = []
        for one, name in zip(self.responses, names, strict=True):
            z = one if self.standardize is None else standardized(one, by=self.standardize)
            own = side.get(name, "train")
            z = averaged(z) if self.average or own == "test" else z
            found.append({s: z if s == own else z.pick([]) for s in SIDES})
        return found

    def _tested(self) -> Sequence[str] | float:
        if self.split_by != "shared":
            return self.test
        shared = tuple(self._corpus.shared()) if self._corpus is not None else ()
        if not shared:
            raise ValueError(
                "ResponseData: no list of shared test stimuli is known; choose split_by stimulus, "
                "category or run, with `test`."
            )
        return shared

    def _categories(self, one: Responses) -> dict[str, str] | None:
        if self.split_by != "category":
            return None
        if self._corpus is None:
            raise ValueError("ResponseData: split_by category needs a dataset that knows them.")
        return dict(zip(one.stimulus, self._corpus.categories_of(one.stimulus), strict=True))

    def _vectors(self, names: Sequence[str]) -> np.ndarray:
        given = self._stimuli
        if given is None:
            if self._corpus is None:
                raise ValueError("ResponseData: give `stimuli` with `responses`.")
            return np.asarray(self._corpus.images(names), dtype=np.float32)
        if isinstance(given, str | Path):
            given = StimulusTable.read(given)
        if not isinstance(given, StimulusTable):
            given = StimulusTable.of(given)
        return given.vectors[given.positions(names)]

    def _table(
        self, people: list[Responses], vectors: np.ndarray, index: Mapping[str, int]
    ) -> PairTable:
        trailing = {one.values.shape[2:] for one in people}
        if len(trailing) > 1:
            raise ValueError(
                f"ResponseData: people have responses of {sorted(trailing)} samples; expected the "
                "same for all."
            )
        sizes = [one.values.shape[1] for one in people]
        if self.people == "concatenate":
            names = list(dict.fromkeys(n for one in people for n in one.stimulus))
            row = {name: i for i, name in enumerate(names)}
            values = np.full((len(names), sum(sizes), *trailing.pop()), np.nan, dtype=np.float32)
            first = 0
            for one, size in zip(people, sizes, strict=True):
                values[[row[n] for n in one.stimulus], first : first + size] = one.values
                first += size
            subject = np.zeros(len(names), dtype=np.int64)
        else:
            names = [n for one in people for n in one.stimulus]
            values = np.full((len(names), max(sizes), *trailing.pop()), np.nan, dtype=np.float32)
            first = 0
            for one, size in zip(people, sizes, strict=True):
                values[first : first + len(one), :size] = one.values
                first += len(one)
            subject = np.repeat(np.arange(len(people)), [len(one) for one in people])
        stimulus = np.array([index[n] for n in names], dtype=np.int64)
        return PairTable(vectors, values, stimulus, subject.astype(np.int64))

    def _loader(self, side: str) -> PairLoader:
        self.setup()
        return PairLoader(
            self.tables[side],
            batch_size=self.batch_size,
            shuffle=side == "train",
            seed=self.seed,
            together=self.people == "alternate",
        )

    def train_dataloader(self) -> PairLoader:
        """Shuffled pairs of the training side."""
        return self._loader("train")

    def val_dataloader(self) -> PairLoader | list[Any]:
        """Pairs of the validation side, in order; no loader if that side is empty."""
        self.setup()
        return self._loader("validate") if len(self.tables["validate"]) else []

    def test_dataloader(self) -> PairLoader:
        """Pairs of the test side, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> PairLoader:
        """Pairs of the test side, in order."""
        return self._loader("test")


def _drawn(names: Sequence[str], share: float, rng: np.random.Generator, what: str) -> list[str]:
    if not 0 <= share < 1:
        raise ValueError(f"ResponseData: {what} is {share}, expected a share below 1, or names.")
    count = max(1, round(share * len(names))) if share else 0
    return [names[i] for i in rng.permutation(len(names))[:count]]
