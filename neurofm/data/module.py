"""BrainData: corpora, preprocessing, windows and a split, as one Lightning data module.

Recordings are prepared once to the store, windows are cut from it, and the split is made by
subject, session, run or time before any window is drawn; a leak stops the run. Several corpora,
EEG and MEG together, are mixed in chosen shares. The training loader has a state, so that a
checkpoint taken in the middle of an epoch resumes at the next window.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np

from neurofm import cards
from neurofm.data.audit import audit_summary, refuse_leakage
from neurofm.data.cuts import Cut
from neurofm.data.loader import BatchLoader
from neurofm.data.mixing import Mixing
from neurofm.data.preparing.prepare import prepare_corpus
from neurofm.data.rows import Row, Split
from neurofm.data.splits import by_group, by_time, chronological_few_shot
from neurofm.data.steps.preprocess import build_steps, default_steps
from neurofm.data.stimulus_table import StimulusTable, embedded_by
from neurofm.data.table import RecordingTable
from neurofm.data.tokenized.reading import token_stores
from neurofm.data.window_rows import WindowRows
from neurofm.data.windows import AVOID, Bucket, Windows
from neurofm.io import Corpus, Store, open_corpus
from neurofm.io.rules import same_entity

log = logging.getLogger(__name__)
By = Literal["subject", "session", "run", "recording", "time", "stimulus"]


class BrainData(lightning.LightningDataModule):
    """Windows of one or several corpora, split for training.

    Args:
        datasets: Names of dataset cards, or paths to cards of your own.
        preprocess: Steps as `class_path`/`init_args`, for all datasets or a list for each by its
            name; the default steps if not given.
        root: Folder of the recordings; otherwise `$NEUROFM_DATA/<folder of the card>`.
        store: Where prepared recordings are kept; otherwise `$NEUROFM_STORE` or the user's cache.
        subjects: Only these, of all datasets or of each by its name.
        runs: Only these, of all datasets or of each by its name.
        labels: Cut windows at events with these labels, which become classes 0, 1, ...; without
            labels windows tile the recordings.
        embeddings: File of a `StimulusTable`: windows are cut at events labelled by the names of
            its stimuli (of `labels`, if given), and their vectors are the targets. "reader": what
            the reader of a simulated corpus says of its stimuli.
        window_s: Length of a window, seconds.
        stride_s: Distance of unlabelled windows, seconds; their length if not given.
        offset_s: Start of a labelled window after the onset of its event, seconds.
        split_by: What may not be on two sides of the split. With `embeddings` no stimulus may be,
            whatever is named here.
        first_per_class: In place of `split_by`, `validate` and `test`: of every subject the first
            so many windows of each class train (a fraction: that share of them), the later ones
            test. Name the subjects that a model is calibrated to.
        avoid: Patterns of event labels that no window may touch or cross.
        validate: Values of `split_by` for validation (`["8"]`), or a fraction of them. Subjects of
            several datasets have the dataset in front (`["eegmmidb/8"]`). Stimuli may be patterns
            (`["test/*"]`).
        test: Values of `split_by` for test, or a fraction of them.
        weights: Share of each dataset, by name, in the training epochs.
        temperature: Without weights, how far the shares of the datasets are evened out: 1 = every
            window alike, large = every dataset alike.
        epoch_windows: Windows in a training epoch; see `Mixing` for how many if not given.
        bucket: What the windows of a batch have in common: "rate", "size" (similar numbers of
            channels) or "sensors" (the same, so that nothing is padded).
        batch_size: Windows in a step, over all processes.
        num_workers: Reader processes; reading is fast, 0 is often best.
        seed: Of the split (where fractions are given) and of the order of windows.
        dtype: "int16" (half the bytes) or "float32" in the store.
        tokens: Folder of stored tokens of these windows (`neurofm tokenize`), read in place of the
            signal; neither recordings nor prepared signals are needed then.
        signal: With `tokens`: read the signal as well, for models that need both.
    """

    def __init__(
        self,
        datasets: list[str],
        *,
        preprocess: list[dict[str, Any]] | dict[str, list[dict[str, Any]]] | None = None,
        root: Path | str | None = None,
        store: Path | str | None = None,
        subjects: list[str] | dict[str, list[str]] | None = None,
        runs: list[str] | dict[str, list[str]] | None = None,
        labels: list[str] | None = None,
        embeddings: Path | str | None = None,
        window_s: float = 4.0,
        stride_s: float | None = None,
        offset_s: float = 0.0,
        avoid: list[str] | None = None,
        split_by: By = "subject",
        first_per_class: int | float | None = None,
        validate: list[str] | float = 0.1,
        test: list[str] | float = 0.1,
        weights: dict[str, float] | None = None,
        temperature: float = 1.0,
        epoch_windows: int | None = None,
        bucket: Bucket = "rate",
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        dtype: Literal["int16", "float32"] = "int16",
        tokens: Path | str | None = None,
        signal: bool = False,
    ) -> None:
        super().__init__()
        self.datasets = datasets
        self.preprocess = preprocess
        self.root = None if root is None else Path(root)
        self.store = None if store is None else Path(store)
        self.subjects, self.runs = subjects, runs
        self.labels, self.embeddings = labels, embeddings
        self.window_s, self.stride_s, self.offset_s = window_s, stride_s, offset_s
        self.avoid = list(AVOID) if avoid is None else avoid
        self.weights, self.temperature = weights, temperature
        self.epoch_windows, self.bucket = epoch_windows, bucket
        self.split_by, self.validate, self.test = split_by, validate, test
        self.first_per_class = first_per_class
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.dtype: Literal["int16", "float32"] = dtype
        self.tokens, self.signal = None if tokens is None else Path(tokens), signal
        self.stores: list[Path] = []
        self._names: list[str] = []
        self.windows: Windows | None = None
        self.split: Split | None = None

    @property
    def n_outputs(self) -> int:
        """Number of classes, or features of an embedding (after `setup`); 0 without either."""
        if self.embeddings is not None and self.windows is not None:
            return self.windows.n_outputs
        return len(self.labels or ())

    @property
    def rows(self) -> Sequence[Row]:
        """One row per window."""
        if self.windows is None:
            raise ValueError("BrainData: call setup() first.")
        return self.windows.rows

    def prepare_data(self) -> None:
        """Preprocess what the store does not hold yet; what it holds is left alone."""
        if self.tokens is not None and not self.signal:
            self._names = [cards.path("datasets", name).stem for name in self.datasets]
            self._check_names(self._names)
            self.stores = token_stores(self.tokens, self._names, self._cut())
            return
        corpora = self._corpora()
        self.stores = [self._prepare(corpus) for corpus in corpora]
        self._names = [corpus.name for corpus in corpora]

    def _corpora(self) -> list[Corpus]:
        """The datasets, opened; every option by dataset names some of them."""
        corpora = [open_corpus(name, root=self.root) for name in self.datasets]
        self._check_names([corpus.name for corpus in corpora])
        return corpora

    def _check_names(self, names: Sequence[str]) -> None:
        if len(set(names)) < len(names):
            raise ValueError(f"BrainData: datasets {self.datasets} name one dataset twice.")
        for option in ("preprocess", "subjects", "runs", "weights"):
            given = getattr(self, option)
            unknown = sorted(set(given) - set(names)) if isinstance(given, dict) else []
            if unknown:
                raise ValueError(
                    f"BrainData: {option} are given for {unknown}, but the datasets are {names}."
                )

    def _cut(self) -> Cut:
        stride_s = self.window_s if self.stride_s is None else self.stride_s
        labels = None if self.labels is None else tuple(self.labels)
        return Cut(self.window_s, stride_s, labels, self.offset_s, tuple(self.avoid))

    def _prepare(self, corpus: Corpus) -> Path:
        specs = _of_dataset(self.preprocess, corpus.name)
        return prepare_corpus(
            corpus,
            build_steps(
                default_steps(corpus.card.get("modality")) if specs is None else specs,
                line_freq=corpus.line_freq,
            ),
            self.store,
            subjects=_of_dataset(self.subjects, corpus.name),
            runs=_of_dataset(self.runs, corpus.name),
            dtype=self.dtype,
        )

    def setup(self, stage: str | None = None) -> None:
        """Cut windows, split them, and refuse a split that leaks."""
        if self.windows is not None:
            return
        if not self.stores:
            self.prepare_data()
        stores = [Store(path) for path in self.stores]
        self.windows = Windows(
            stores,
            window_s=self.window_s,
            stride_s=self.stride_s,
            labels=self.labels,
            offset_s=self.offset_s,
            recordings=self._chosen(stores),
            avoid=self.avoid,
            tokens=self._beside(),
            embeddings=self._table(stores),
        )
        self.split = self._split(self.windows.rows)
        accepted = refuse_leakage(self.windows.rows, self.split)
        log.info(audit_summary(self.windows.rows, self.split, leaks=accepted))

    def _table(self, stores: Sequence[Store]) -> StimulusTable | None:
        """The vectors of stimuli."""
        if self.embeddings is None:
            return None
        if str(self.embeddings) != "reader":
            return StimulusTable.read(self.embeddings)
        names = self.labels or RecordingTable.of(stores).event_label.names
        return embedded_by(self._corpora(), names, avoid=self.avoid)

    def _beside(self) -> list[Path] | None:
        """Stores of tokens that are read beside the signal."""
        if self.tokens is None or not self.signal:
            return None
        return token_stores(self.tokens, self._names, self._cut())

    def _chosen(self, stores: Sequence[Store]) -> list[int] | None:
        """Positions of the recordings asked for; a store may hold more."""
        if self.subjects is None and self.runs is None:
            return None
        chosen, first = [], 0
        for store, name in zip(stores, self._names, strict=True):
            table = RecordingTable.of([store])
            kept = table.named(
                subjects=_of_dataset(self.subjects, name), runs=_of_dataset(self.runs, name)
            )
            chosen.extend((kept + first).tolist())
            first += len(table)
        return chosen

    def _split(self, rows: Sequence[Row]) -> Split:
        """Sides of the windows; windows of one recording and label are split as one row."""
        if self.first_per_class is not None:
            return self._first_split(rows, self.first_per_class)
        if self.split_by == "time" or not isinstance(rows, WindowRows):
            return self._split_rows(rows)
        few, of_window = rows.distinct()
        split = self._split_rows(few)
        number = {name: i for i, name in enumerate(split.sides)}
        side = np.full(len(few), -1)
        for name, members in split.sides.items():
            side[list(members)] = number[name]
        side = side[of_window]
        windows = {name: tuple(np.flatnonzero(side == i).tolist()) for name, i in number.items()}
        return Split(**windows, name=split.name, by=split.by)

    def _first_split(self, rows: Sequence[Row], first: int | float) -> Split:
        """The few shots of all subjects together."""
        if isinstance(self.validate, list) or isinstance(self.test, list):
            raise ValueError(
                "BrainData: first_per_class says which windows train and test; leave `validate` "
                "and `test` out."
            )
        splits = chronological_few_shot(rows, first)
        train, test = (
            tuple(sorted(i for split in splits for i in getattr(split, side)))
            for side in ("train", "test")
        )
        return Split(train, (), test, name=f"first-{first}-per-class", by="time")

    def _split_rows(self, rows: Sequence[Row]) -> Split:
        if isinstance(self.validate, list) or isinstance(self.test, list):
            if not (isinstance(self.validate, list) and isinstance(self.test, list)):
                raise ValueError(
                    "BrainData: give both `validate` and `test` as lists of values of "
                    f"`split_by: {self.split_by}`, or both as fractions."
                )
            return self._named_split(rows, self.validate, self.test)
        fractions = (1 - self.validate - self.test, self.validate, self.test)
        if self.split_by == "time":
            return by_time(rows, fractions=fractions)
        return by_group(rows, by=self.split_by, fractions=fractions, seed=self.seed)

    def _named_split(self, rows: Sequence[Row], validate: list[str], test: list[str]) -> Split:
        if self.split_by == "time":
            raise ValueError("BrainData: `split_by: time` takes fractions, not lists.")
        values = [str(getattr(row, self.split_by)) for row in rows]
        sides: dict[str, set[str]] = {}
        for side, names in {"validate": validate, "test": test}.items():
            # "04" in a file name and 4 in a recipe are the same run.
            same = fnmatchcase if self.split_by == "stimulus" else _same
            found = {name: {v for v in set(values) if same(v, name)} for name in names}
            unknown = [name for name, match in found.items() if not match]
            if unknown:
                raise ValueError(
                    f"BrainData: {side} names {self.split_by} {unknown}, which no window has; "
                    f"there are {sorted(set(values))}."
                )
            sides[side] = set().union(*found.values())
        both = sorted(sides["validate"] & sides["test"])
        if both:
            raise ValueError(
                f"BrainData: {self.split_by} {both} is named by `validate` and by `test`; each "
                "belongs to one side."
            )
        part = [
            "test" if v in sides["test"] else "validate" if v in sides["validate"] else "train"
            for v in values
        ]
        chosen = {
            name: tuple(i for i, p in enumerate(part) if p == name)
            for name in ("train", "validate", "test")
        }
        held = "-".join(map(str, test)) or "nothing"
        return Split(**chosen, name=f"{self.split_by}-{held}", by=self.split_by)

    def _loader(self, side: str) -> BatchLoader:
        if self.windows is None or self.split is None:
            raise ValueError("BrainData: call setup() first.")
        train = side == "train"
        if not getattr(self.split, side):
            raise ValueError(
                f"BrainData: no window is on the {side} side of the split by {self.split_by} "
                f"(validate: {self.validate}, test: {self.test}). Name other values, or give a "
                "larger fraction."
            )
        return BatchLoader(
            self.windows,
            getattr(self.split, side),
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            drop_last=train,
            num_workers=self.num_workers,
            bucket=self.bucket,
            mixing=self._mixing() if train else None,
        )

    def _mixing(self) -> Mixing | None:
        """Shares of the datasets on the training side; None if all windows come once."""
        if self.weights is None and self.temperature == 1 and self.epoch_windows is None:
            return None
        assert self.windows is not None and self.split is not None
        windows = self.windows
        mixing = Mixing(
            windows.table.store[windows.recording[list(self.split.train)]],
            self._names,
            weights=self.weights,
            temperature=self.temperature,
            epoch_windows=self.epoch_windows,
            seed=self.seed,
        )
        parts = (
            f"{n} of {name} ({mixing.repeats[name]:.2f} times each)"
            for name, n in mixing.counts.items()
        )
        log.info("windows of an epoch: %s", ", ".join(parts))
        return mixing

    def train_dataloader(self) -> BatchLoader:
        """Shuffled windows of the training side."""
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Windows of the validation side, in order; no loader if that side is empty."""
        if self.split is not None and not self.split.validate:
            return []
        return self._loader("validate")

    def test_dataloader(self) -> BatchLoader:
        """Windows of the test side, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """Windows of the test side, in order."""
        return self._loader("test")


def _of_dataset(given: Any, name: str) -> Any:
    """The value of an option for a dataset; a mapping has one for each, None where it is silent."""
    return given.get(name) if isinstance(given, dict) else given


def _same(value: str, asked: str) -> bool:
    """Whether an entity is the one asked for, `dataset/8` or `8` being the same as with zeros."""
    front, _, name = value.rpartition("/")
    asked_front, _, asked_name = asked.rpartition("/")
    return front == asked_front and same_entity(name, asked_name)
