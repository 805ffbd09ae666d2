"""Windows of prepared recordings, as a torch Dataset whose unit of work is a whole batch.

Only numbers are kept per window (recording, first sample, class): samples are read when a batch is
asked for, straight into the batch, in the order in which they lie on disk. Recordings with other
channels go into the same batch with padding and a mask.

Use with a loader: `DataLoader(windows, batch_size=64, collate_fn=identity)`; `__getitems__` then
gets the whole list of indices and returns one `Batch`.
Axes: batch channel time.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neurofm.batch import Batch
from neurofm.data.padding import SensorTables
from neurofm.data.rows import Row
from neurofm.io import Entry, Store
from neurofm.io.corpus import same_entity


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
        recordings: Sequence[int] | None = None,
        subjects: Sequence[str | int] | None = None,
        runs: Sequence[str | int] | None = None,
    ) -> None:
        if not window_s > 0 or (stride_s is not None and not stride_s > 0):
            raise ValueError(
                f"Windows: window of {window_s} s every {stride_s} s; both must be above 0."
            )
        given = [store] if isinstance(store, (Store, Path, str)) else list(store)
        self.stores = [item if isinstance(item, Store) else Store(item) for item in given]
        self.window_s = window_s
        self.stride_s = window_s if stride_s is None else stride_s
        self.labels = None if labels is None else tuple(labels)
        self.offset_s = offset_s
        self.entries: tuple[Entry, ...] = tuple(e for s in self.stores for e in s.entries)
        # Store, place in it and scale of each recording.
        self._where = [
            (s, i, None if e.scale is None else torch.from_numpy(e.scale).unsqueeze(1))
            for s, held in enumerate(self.stores)
            for i, e in enumerate(held.entries)
        ]
        chosen = range(len(self.entries)) if recordings is None else recordings
        bad = [i for i in chosen if not 0 <= i < len(self.entries)]
        if bad:
            raise ValueError(
                f"Windows: recording {bad[0]} does not exist; there are {len(self.entries)}."
            )
        wanted = [
            i
            for i in chosen
            if _is_one_of(self.entries[i].recording.subject, subjects)
            and _is_one_of(self.entries[i].recording.run, runs)
        ]
        self._recording, self._start, self._y = self._cut(wanted)
        self._tables = SensorTables.of(self.entries)

    def _n_times(self, entry: Entry) -> int:
        return max(1, round(self.window_s * entry.sfreq))

    def _cut(self, chosen: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Recording, first sample and class of every window."""
        where, starts, classes = [], [], []
        short, outside, seen = 0, 0, 0
        for i in chosen:
            entry = self.entries[i]
            n = self._n_times(entry)
            if n > entry.n_times:
                short += 1
                continue
            if self.labels is None:
                step = max(1.0, self.stride_s * entry.sfreq)
                count = int((entry.n_times - n) / step + 1e-9) + 1
                start = np.rint(np.arange(count) * step).astype(np.int64)
                start = start[start + n <= entry.n_times]
                y = np.full(len(start), -1)
            else:
                events = [event for event in entry.events if event.label in self.labels]
                onset = np.array([event.onset for event in events], dtype=np.float64)
                start = np.rint((onset + self.offset_s) * entry.sfreq).astype(np.int64)
                y = np.array([self.labels.index(event.label) for event in events], dtype=np.int64)
                inside = (start >= 0) & (start + n <= entry.n_times)
                seen += len(events)
                outside += int((~inside).sum())
                start, y = start[inside], y[inside]
            starts.append(start)
            classes.append(y)
            where.append(np.full(len(start), i))
        if short:
            warnings.warn(
                f"Windows: {short} of {len(chosen)} recordings are shorter than {self.window_s} s "
                "and are left out.",
                stacklevel=3,
            )
        if outside:
            warnings.warn(
                f"Windows: {outside} of {seen} events are too close to the start or end of their "
                f"recording for a window of {self.window_s} s at {self.offset_s:+g} s; left out.",
                stacklevel=3,
            )
        if not sum(len(start) for start in starts):
            raise ValueError(self._why_empty(chosen, seen))
        return (
            np.concatenate(where).astype(np.int32),
            np.concatenate(starts).astype(np.int64),
            np.concatenate(classes).astype(np.int64),
        )

    def _why_empty(self, chosen: list[int], seen: int) -> str:
        if not chosen:
            return "Windows: no recordings. Run `neurofm prepare`, or choose other recordings."
        if self.labels is None or seen:
            longest = max(self.entries[i].duration for i in chosen)
            return (
                f"Windows: no window of {self.window_s} s at {self.offset_s:+g} s fits into any of "
                f"{len(chosen)} recordings; the longest lasts {longest:.3f} s."
            )
        counts = Counter(event.label for i in chosen for event in self.entries[i].events)
        have = ", ".join(f"{label} ({n})" for label, n in counts.most_common()) or "none at all"
        return (
            f"Windows: no event is labelled {' or '.join(map(repr, self.labels))} in "
            f"{len(chosen)} recordings. Labels there: {have}."
        )

    @cached_property
    def subjects(self) -> list[str]:
        """Names behind `Batch.subject`; with the corpus in front when there are several."""
        return sorted({self._subject(entry) for entry in self.entries})

    @cached_property
    def _several(self) -> bool:
        return len({entry.recording.dataset for entry in self.entries}) > 1

    def _subject(self, entry: Entry) -> str:
        recording = entry.recording
        return f"{recording.dataset}/{recording.subject}" if self._several else recording.subject

    @cached_property
    def _subject_index(self) -> np.ndarray:
        index = {name: i for i, name in enumerate(self.subjects)}
        return np.array([index[self._subject(entry)] for entry in self.entries], dtype=np.int64)

    @cached_property
    def _sfreqs(self) -> np.ndarray:
        return np.array([entry.sfreq for entry in self.entries])

    @cached_property
    def rows(self) -> list[Row]:
        """What each window is, for splits and their audit."""
        rows = []
        columns = (self._recording.tolist(), self._start.tolist(), self._y.tolist())
        for i, start, y in zip(*columns, strict=True):
            entry = self.entries[i]
            rows.append(
                Row(
                    subject=self._subject(entry),
                    session=entry.recording.session,
                    run=entry.recording.run,
                    recording=entry.recording.id,
                    start=start / entry.sfreq,
                    stop=(start + self._n_times(entry)) / entry.sfreq,
                    label=None if self.labels is None else self.labels[y],
                )
            )
        return rows

    @property
    def sfreq(self) -> float:
        """Hz.

        Raises:
            ValueError: The recordings of these windows have several rates.
        """
        rates = sorted(set(self._sfreqs[np.unique(self._recording)].tolist()))
        if len(rates) > 1:
            raise ValueError(_several_rates(rates))
        return float(rates[0])

    @property
    def n_outputs(self) -> int:
        """Number of classes; 0 without labels."""
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

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.batch(indices)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The windows at `indices`, in that order.

        Raises:
            ValueError: They have different sampling rates.
            OSError: A recording is damaged, truncated or missing.
        """
        index = np.asarray(indices, dtype=np.int64)
        recording, start = self._recording[index], self._start[index]
        rates = self._sfreqs[recording]
        sfreq = float(rates[0])
        if (rates != sfreq).any():
            raise ValueError(_several_rates(sorted(set(rates.tolist()))))
        n = self._n_times(self.entries[recording[0]])
        n_channels, geometry = self._tables.batch(recording)
        x = _empty(len(index), n_channels, n)
        rows, array = x.unbind(0), x.numpy()
        scratch = np.empty((n_channels, n), dtype=np.int16)
        integers = torch.from_numpy(scratch)
        # In the order of the disk: neighbouring reads find the file open and the page in memory.
        order = np.lexsort((start, recording))
        numbers, starts = recording.tolist(), start.tolist()
        for position in order.tolist():
            i, first = numbers[position], starts[position]
            held, at, scale = self._where[i]
            own = len(self.entries[i].sensors)
            if own < n_channels:
                array[position, own:] = 0
            if scale is None:
                self.stores[held].read_raw(at, first, first + n, array[position, :own])
                continue
            # torch casts and scales rows of a few hundred samples faster than numpy.
            self.stores[held].read_raw(at, first, first + n, scratch[:own])
            row = rows[position] if own == n_channels else rows[position][:own]
            row.copy_(integers if own == n_channels else integers[:own])
            row.mul_(scale)
        return Batch(
            x=x,
            sfreq=sfreq,
            onset=torch.from_numpy(start / sfreq),
            subject=torch.from_numpy(self._subject_index[recording]),
            recording=torch.from_numpy(recording.astype(np.int64)),
            y=None if self.labels is None else torch.from_numpy(self._y[index]),
            channel_mask=geometry["channel_mask"],
            kind=geometry["kind"],
            position=geometry["position"],
            orientation=geometry["orientation"],
            has_position=geometry["has_position"],
        )


def _is_one_of(value: str | None, wanted: Sequence[str | int] | None) -> bool:
    return wanted is None or any(same_entity(value, item) for item in wanted)


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
