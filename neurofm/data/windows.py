"""Windows of prepared recordings, as a torch Dataset whose unit of work is a whole batch.

Only numbers are kept per window (recording, first sample, class): samples are read when a batch is
asked for, straight into the batch, in the order in which they lie on disk. Recordings with other
channels go into the same batch with padding and a mask.

Use with a loader: `DataLoader(windows, batch_size=64, collate_fn=identity)`; `__getitems__` then
gets the whole list of indices and returns one `Batch`.
Axes: batch channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neurofm.batch import Batch
from neurofm.data.cuts import Cut
from neurofm.data.history import band_of, unit_of
from neurofm.data.padding import SensorTables
from neurofm.data.stimulus_table import StimulusTable
from neurofm.data.table import Entries, RecordingTable
from neurofm.data.tokenized.reading import StoredTokens, holds_tokens
from neurofm.data.window_rows import WindowRows
from neurofm.io import Entry, Store

AVOID = ("BAD*", "EDGE*")
Bucket = Literal["rate", "size", "sensors"]
_REMEMBERED = 4096  # recordings whose scale is kept at hand


@dataclass(frozen=True)
class SignalFacts:
    """What is known of recordings beside their samples.

    Args:
        band: Hz, what filters left; None if unknown or various.
        unit: "physical" or "z".
    """

    band: tuple[float, float] | None
    unit: str


class Windows(Dataset[Batch]):
    """Fixed-length windows of the recordings of one or several stores.

    Args:
        store: A store, its folder, or several of them.
        window_s: Seconds.
        stride_s: Seconds from one window to the next; the window's length if not given. Without
            effect when `labels` are given.
        labels: Cut one window per event with one of these labels; `y` is the position in this list.
            Without labels, windows cover the recordings and `y` is None.
        offset_s: Seconds from an event's onset to the start of its window; may be negative.
        recordings: Which recordings, by position in the stores' entries taken together; all if not
            given.
        subjects: Only these subjects; a store may hold more than this run asks for.
        runs: Only these runs.
        avoid: Patterns of event labels that no window may touch, in any case: unusable parts
            ("BAD ...", MNE's convention) and joins of pieces that did not follow each other
            ("EDGE ..."). Windows that cover recordings start anew behind such an event.
        tokens: Stores of the recordings' tokens, read beside the signal. Where `store` itself holds
            tokens, they are read and no signal is.
        embeddings: Vectors of stimuli: one window per event that is labelled by the name of one
            (of `labels`, if given), and the vectors as targets of a batch.

    Raises:
        ValueError: No window can be cut, or no event has a requested label; the message lists the
            labels that exist.
    """

    def __init__(
        self,
        store: Store | Path | str | Sequence[Store | Path | str],
        *,
        window_s: float,
        stride_s: float | None = None,
        labels: Sequence[str] | None = None,
        offset_s: float = 0.0,
        recordings: Sequence[int] | np.ndarray | None = None,
        subjects: Sequence[str | int] | None = None,
        runs: Sequence[str | int] | None = None,
        avoid: Sequence[str] = AVOID,
        tokens: Sequence[Store | Path | str] | None = None,
        embeddings: StimulusTable | None = None,
    ) -> None:
        if not window_s > 0 or (stride_s is not None and not stride_s > 0):
            raise ValueError(
                f"Windows: window of {window_s} s every {stride_s} s; both must be above 0."
            )
        given = [store] if isinstance(store, (Store, Path, str)) else list(store)
        self.stores = [item if isinstance(item, Store) else Store(item) for item in given]
        self.window_s = window_s
        self.stride_s = window_s if stride_s is None else stride_s
        if embeddings is not None:
            labels = embeddings.names if labels is None else labels
            self._place = embeddings.positions(labels)
            self._vectors = torch.from_numpy(embeddings.vectors)
        self.embeddings = embeddings
        self.labels = None if labels is None else tuple(labels)
        self.offset_s = offset_s
        self.table = RecordingTable.of(self.stores)
        self.entries: Sequence[Entry] = Entries(self.stores, self.table)
        self.cut = cut = Cut(window_s, self.stride_s, self.labels, offset_s, tuple(avoid))
        self._lengths = cut.lengths(self.table)
        wanted = self._wanted(recordings, subjects, runs)
        self._recording, self._start, self._y = cut.windows(self.table, wanted)
        self._sensors = SensorTables(self.stores, self.table)
        self._only_tokens = holds_tokens(self.stores)
        self._tokens = self._stored_tokens(tokens)
        self._scales: dict[int, Tensor | None] = {}
        self._facts: dict[int, SignalFacts] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "rows"} | {"_scales": {}}

    def _wanted(
        self,
        recordings: Sequence[int] | np.ndarray | None,
        subjects: Sequence[str | int] | None,
        runs: Sequence[str | int] | None,
    ) -> np.ndarray:
        """Positions of the recordings asked for, increasing."""
        wanted = self.table.named(subjects=subjects, runs=runs)
        if recordings is None:
            return wanted
        chosen = np.asarray(recordings, dtype=np.int64)
        bad = chosen[(chosen < 0) | (chosen >= len(self.table))]
        if len(bad):
            raise ValueError(
                f"Windows: recording {bad[0]} does not exist; there are {len(self.table)}."
            )
        return np.intersect1d(wanted, chosen)

    def _stored_tokens(self, given: Sequence[Store | Path | str] | None) -> StoredTokens | None:
        where = (self.table, self._recording, self._start, self.cut)
        if self._only_tokens:
            return StoredTokens(self.stores, *where)
        if given is None:
            return None
        stores = [item if isinstance(item, Store) else Store(item) for item in given]
        return StoredTokens(stores, *where, prepared=[store.keys for store in self.stores])

    @cached_property
    def subjects(self) -> list[str]:
        """Names behind `Batch.subject`; with the corpus in front when there are several."""
        return sorted(set(self._subject_names))

    @cached_property
    def _subject_names(self) -> list[str]:
        """Name of each recording's subject."""
        dataset, subject = self.table.dataset, self.table.subject
        pairs = zip(dataset.index.tolist(), subject.index.tolist(), strict=True)
        if len(dataset.names) == 1:
            return [subject.names[i] for _, i in pairs]
        return [f"{dataset.names[d]}/{subject.names[i]}" for d, i in pairs]

    @cached_property
    def _subject_index(self) -> np.ndarray:
        position = {name: i for i, name in enumerate(self.subjects)}
        return np.array([position[name] for name in self._subject_names], dtype=np.int64)

    @cached_property
    def rows(self) -> WindowRows:
        """What each window is, for splits and their audit; rows are made when looked at."""
        return WindowRows(
            self.table,
            subject=self._subject_names,
            entries=self.entries,
            recording=self._recording,
            start=self._start,
            length=self._lengths,
            y=self._y,
            labels=self.labels,
            stimuli=self.embeddings is not None,
        )

    def subject_of(self, recording: int) -> int:
        """What `Batch.subject` is for a recording."""
        return int(self._subject_index[recording])

    @property
    def recording(self) -> np.ndarray:
        """Recording of each window, by position in `entries`."""
        return self._recording

    @property
    def start(self) -> np.ndarray:
        """First sample of each window in its recording."""
        return self._start

    @property
    def y(self) -> np.ndarray | None:
        """int64, class (or stimulus) of each window by position in `labels`; None without."""
        return self._y

    def buckets(self, by: Bucket) -> np.ndarray:
        """Number of the bucket of each window; windows of one bucket go well in one batch.

        Args:
            by: "rate": one sampling rate, any sensors, padded and masked. "size": besides, numbers
                of channels within a factor of 1.25. "sensors": besides, the same sensors, so that
                nothing is padded.
        """
        keys = [self.table.sfreq]
        if by == "size":
            keys.append(np.floor(np.log(self.table.n_channels) / np.log(1.25) + 1e-9))
        elif by == "sensors":
            keys.append(self.table.sensors.astype(np.float64))
        elif by != "rate":
            raise ValueError(f"Windows.buckets by {by!r}: expected 'rate', 'size' or 'sensors'.")
        _, bucket = np.unique(np.stack(keys), axis=1, return_inverse=True)
        return bucket.reshape(-1).astype(np.int32)[self._recording]

    @property
    def sfreq(self) -> float:
        """Hz.

        Raises:
            ValueError: The recordings of these windows have several rates.
        """
        rates = np.unique(self.table.sfreq[np.unique(self._recording)]).tolist()
        if len(rates) > 1:
            raise ValueError(_several_rates(rates))
        return float(rates[0])

    @property
    def n_outputs(self) -> int:
        """Number of classes, or features of an embedding; 0 without labels."""
        if self.embeddings is not None:
            return self.embeddings.width
        return 0 if self.labels is None else len(self.labels)

    def __len__(self) -> int:
        return len(self._start)

    def __repr__(self) -> str:
        held = len(np.unique(self._recording))
        return f"Windows({len(self)} of {self.window_s} s from {held} recordings)"

    def __getitem__(self, index: int) -> Batch:
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return self.batch([index])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        return self.batch(indices)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The windows at `indices`, in that order.

        Raises:
            ValueError: They have different sampling rates.
            OSError: A recording is damaged, truncated or missing.
        """
        index = np.asarray(indices, dtype=np.int64)
        recording, start = self._recording[index], self._start[index]
        rates = self.table.sfreq[recording]
        sfreq = float(rates[0])
        if (rates != sfreq).any():
            raise ValueError(_several_rates(np.unique(rates).tolist()))
        n_channels, geometry = self._sensors.batch(recording)
        signal = self.signal(recording)
        shape = len(index), n_channels, int(self._lengths[recording[0]])
        if self._only_tokens:
            x = torch.tensor(torch.nan).expand(shape)
        else:
            x = _empty(*shape)
            self._fill(x, recording, start)
        return Batch(
            x=x,
            sfreq=sfreq,
            onset=torch.from_numpy(start / sfreq),
            subject=torch.from_numpy(self._subject_index[recording]),
            recording=torch.from_numpy(recording.astype(np.int64)),
            y=self._targets(index),
            channel_mask=geometry["channel_mask"],
            kind=geometry["kind"],
            position=geometry["position"],
            orientation=geometry["orientation"],
            has_position=geometry["has_position"],
            names=self.names(recording),
            band=signal.band,
            unit=signal.unit,
            tokens=None if self._tokens is None else self._tokens.batch(index),
        )

    def _targets(self, index: np.ndarray) -> Tensor | None:
        if self._y is None:
            return None
        y = self._y[index]
        return torch.from_numpy(y) if self.embeddings is None else self._vectors[self._place[y]]

    def signal(self, recording: Sequence[int] | np.ndarray) -> SignalFacts:
        """What the histories of these recordings say of their signal.

        Raises:
            ValueError: Some are in working units, others z-scores.
        """
        found = {self._facts_of(number) for number in np.unique(recording).tolist()}
        if len(found) == 1:
            return found.pop()
        if len({facts.unit for facts in found}) > 1:
            raise ValueError(
                "Windows: recordings in working units and z-scored ones in one batch. Prepare all "
                "corpora with the same steps."
            )
        return SignalFacts(None, found.pop().unit)

    def names(self, recording: Sequence[int] | np.ndarray) -> tuple[str, ...] | None:
        """Names of the channels if these recordings share them in one order, else None."""
        return self._sensors.names(np.asarray(recording))

    def _facts_of(self, recording: int) -> SignalFacts:
        try:
            return self._facts[recording]
        except KeyError:
            store = self.stores[self.table.store[recording]]
            history = store.history(int(self.table.place[recording]))
            band = band_of(history, sfreq=float(self.table.sfreq[recording]))
            return self._facts.setdefault(recording, SignalFacts(band, unit_of(history)))

    def _fill(self, x: Tensor, recording: np.ndarray, start: np.ndarray) -> None:
        """Read windows into `x`, batch channel time."""
        _, n_channels, n = x.shape
        rows, array = x.unbind(0), x.numpy()
        scratch = np.empty((n_channels, n), dtype=np.int16)
        integers = torch.from_numpy(scratch)
        stores, table = self.stores, self.table
        held, place = table.store[recording].tolist(), table.place[recording].tolist()
        sizes = table.n_channels[recording].tolist()
        # In the order of the disk: neighbouring reads find the file open and the page in memory.
        order = np.lexsort((start, recording)).tolist()
        for s, store in enumerate(stores):
            mine = np.flatnonzero(table.store[recording] == s)
            first = start[mine]
            store.prefetch(
                table.place[recording[mine]].tolist(), first.tolist(), (first + n).tolist()
            )
        numbers, starts = recording.tolist(), start.tolist()
        for position in order:
            first, own = starts[position], sizes[position]
            scale = self._scale(numbers[position])
            read = stores[held[position]].read_raw
            if own < n_channels:
                array[position, own:] = 0
            if scale is None:
                read(place[position], first, first + n, array[position, :own])
                continue
            # torch casts and scales rows of a few hundred samples faster than numpy.
            read(place[position], first, first + n, scratch[:own])
            row = rows[position] if own == n_channels else rows[position][:own]
            row.copy_(integers if own == n_channels else integers[:own])
            row.mul_(scale)

    def _scale(self, recording: int) -> Tensor | None:
        """Step of each channel of a recording, as a column; None for float32 samples."""
        try:
            return self._scales[recording]
        except KeyError:
            pass
        columns = self.stores[self.table.store[recording]].columns
        place = self.table.place[recording]
        scale = None
        if columns.is_int16[place]:
            low, high = columns.scale_at[place], columns.scale_at[place + 1]
            scale = torch.from_numpy(columns.scale[low:high].copy()).unsqueeze(1)
        if len(self._scales) >= _REMEMBERED:
            self._scales.clear()
        self._scales[recording] = scale
        return scale


def _empty(*shape: int) -> Tensor:
    """An uninitialised float32 tensor; in a worker, in shared memory, so that sending is free."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape)
    storage = torch.UntypedStorage._new_shared(4 * int(np.prod(shape)), device="cpu")
    return torch.empty(0).set_(storage, 0, shape)  # type: ignore[call-overload]


def _several_rates(rates: list[float]) -> str:
    listed = ", ".join(f"{rate:g}" for rate in rates)
    return (
        f"Windows: sampling rates {listed} Hz in one batch. Add `Resample` to the preprocessing of "
        "every corpus, or draw batches from recordings of one rate."
    )
