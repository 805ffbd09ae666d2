"""Tokens of windows read from stores, as `Tokens` of a batch.

Axes: batch token level dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Tokens
from neurofm.data.cuts import Cut
from neurofm.data.table import RecordingTable
from neurofm.io import Store
from neurofm.io.stores.blocks import TOKENS
from neurofm.io.stores.inventory import is_store
from neurofm.io.stores.remote import RemoteFiles
from neurofm.io.stores.tokens import TokenShape, read_grid, read_windows
from neurofm.shapes import Int

_REMEMBERED = 4096  # recordings whose shape is kept at hand


class StoredTokens:
    """Tokens of windows.

    Args:
        stores: Of tokens.
        table: Of the recordings that the windows are of.
        recording: Recording of each window, not decreasing.
        start: First sample of each window.
        cut: How the windows were cut.
        prepared: Keys of the recordings of the stores of signals that the table is of, if it is not
            of `stores`.

    Raises:
        ValueError: The tokens are of windows cut otherwise, of several tokenizers, or lacking for
            a recording.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        table: RecordingTable,
        recording: Int[np.ndarray, " window"],
        start: Int[np.ndarray, " window"],
        cut: Cut,
        *,
        prepared: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self._stores = list(stores)
        for store in stores:
            _check_cut(store, cut)
        made_by = sorted({str(store.about.get("tokenizer")) for store in stores})
        if len(made_by) > 1:
            raise ValueError(
                f"Windows: tokens of several tokenizers, {' and '.join(made_by)}. Tokenize all "
                "datasets with one."
            )
        self.made_by = made_by[0]
        self._table, self._recording, self._start = table, recording, start
        self._rank = np.arange(len(recording)) - np.searchsorted(recording, recording)
        self._store, self._place = table.store, table.place
        if prepared is not None:
            self._store, self._place = self._beside(prepared)
        self._known: dict[tuple[int, int], tuple[TokenShape, Tensor, Tensor]] = {}
        self._grids: dict[bytes, tuple[Tensor, Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_known": {}, "_grids": {}}

    def _beside(self, prepared: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        """Store and place of the tokens of each recording of the table."""
        where = {
            store.entries[i].provenance["prepared"]: (s, i)
            for s, store in enumerate(self._stores)
            for i in range(len(store))
        }
        n = len(self._table)
        found = np.full((2, n), -1, dtype=np.int32)
        for i in np.unique(self._recording).tolist():
            key = prepared[self._table.store[i]][self._table.place[i]]
            if key not in where:
                raise ValueError(
                    f"Windows: no tokens of {self._table.recording(i).id} as it is prepared now "
                    f"({key}). Run `neurofm tokenize` again: it makes what is missing."
                )
            found[:, i] = where[key]
        return found[0], found[1]

    def batch(self, index: Int[np.ndarray, " batch"]) -> Tokens:
        """Tokens of these windows, padded to the largest number with mask False, channel -1.

        Where values were not kept they have no features, and padding has code -1;
        `identity.with_values` looks the values up.

        Raises:
            OSError: Tokens are damaged, truncated or missing.
            ValueError: They are of other windows.
        """
        recording = self._recording[index]
        owner = list(
            zip(self._store[recording].tolist(), self._place[recording].tolist(), strict=True)
        )
        self._prefetch(owner, index)
        known = [self._about(*item) for item in owner]
        first = known[0]
        n, most = len(index), max(shape.n_tokens for shape, _, _ in known)
        levels, dim = first[0].n_levels, first[0].dim
        if any((shape.n_levels, shape.dim) != (levels, dim) for shape, _, _ in known):
            raise ValueError("Windows: tokens of one batch differ in their levels or features.")
        mask = np.zeros((n, most), dtype=bool)
        codes = np.full((n, most, levels), 0 if dim else -1, dtype=np.int64)
        values = torch.zeros(n, most, dim)
        for i in np.lexsort((self._rank[index], recording)).tolist():
            shape, rank = known[i][0], int(self._rank[index[i]])
            store, place = owner[i]
            held = next(read_windows(self._stores[store], place, shape, [rank]))
            if int(held["start"]) != int(self._start[index[i]]):
                raise ValueError(
                    f"{self._stores[store].where}: window {rank} of "
                    f"{self._table.recording(int(recording[i])).id} begins at sample "
                    f"{int(held['start'])}, expected {int(self._start[index[i]])}: its events "
                    "changed since. Run `neurofm tokenize` again."
                )
            mask[i, : shape.n_tokens] = held["mask"]
            codes[i, : shape.n_tokens] = held["codes"]
            if dim:
                values[i, : shape.n_tokens] = _floats(held["values"], shape.values)
        same = all(item[1] is first[1] for item in known)
        return Tokens(
            values=values,
            mask=torch.from_numpy(mask),
            channel=first[1].expand(n, -1) if same else _padded([k[1] for k in known], most, -1),
            time=first[2].expand(n, -1) if same else _padded([k[2] for k in known], most, 0),
            codes=torch.from_numpy(codes) if levels else None,
            made_by=self.made_by,
        )

    def _prefetch(self, owner: Sequence[tuple[int, int]], index: np.ndarray) -> None:
        for s, store in enumerate(self._stores):
            mine = [(at, k) for k, (held, at) in enumerate(owner) if held == s]
            if not mine or not isinstance(store.source, RemoteFiles):
                continue
            blocks = []
            for at, k in mine:
                shape = self._about(s, at)[0]
                blocks.append((shape.grid_blocks + int(self._rank[index[k]])) * shape.block)
            size = [self._about(s, at)[0].block for at, _ in mine]
            stops = [low + n for low, n in zip(blocks, size, strict=True)]
            store.prefetch([at for at, _ in mine], blocks, stops)

    def _about(self, store: int, place: int) -> tuple[TokenShape, Tensor, Tensor]:
        """Shape, and channel and time of each token; equal ones are one object."""
        found = self._known.get((store, place))
        if found is None:
            held = self._stores[store]
            shape = TokenShape.read(held.entries[place])
            channel, time = read_grid(held, place, shape)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
                self._grids.clear()
            grid = self._grids.setdefault(
                channel.tobytes() + time.tobytes(),
                (torch.from_numpy(channel.astype(np.int64)), torch.from_numpy(time)),
            )
            found = self._known[store, place] = (shape, *grid)
        return found


def _padded(rows: Sequence[Tensor], most: int, fill: int) -> Tensor:
    out = rows[0].new_full((len(rows), most), fill)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _floats(values: np.ndarray, kind: str) -> Tensor:
    if kind == "bfloat16":
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16).float()
    return torch.from_numpy(values.astype(np.float32))


def _check_cut(store: Store, cut: Cut) -> None:
    mine, theirs = cut.document(), store.about.get("cut", {})
    wrong = [f"{k}: {theirs.get(k)} against {v}" for k, v in mine.items() if theirs.get(k) != v]
    if wrong:
        raise ValueError(
            f"{store.where}: its tokens are of windows cut otherwise ({'; '.join(wrong)}). Make "
            "the recipe's data agree with the store, or run `neurofm tokenize` for these windows."
        )


def token_stores(where: Path | str, names: Sequence[str], cut: Cut) -> list[Path]:
    """The stores of tokens of some datasets.

    Args:
        where: Folder of the stores, or a store, as `neurofm tokenize` printed it.
        names: Of the datasets.
        cut: How windows are cut, which chooses among several stores of a dataset.

    Raises:
        FileNotFoundError: There is none of a dataset.
        ValueError: There are several, of other tokenizers say.
    """
    folder = Path(where)
    stores = [folder] if is_store(folder) else []
    if not stores and folder.is_dir():
        stores = [path for path in sorted(folder.iterdir()) if path.is_dir() and is_store(path)]
    opened = [Store(path) for path in stores]
    found: list[Path] = []
    for name in names:
        mine = [s for s in opened if s.about.get("dataset") == name and s.columns.is_tokens.all()]
        if not mine:
            raise FileNotFoundError(
                f"{folder}: no tokens of {name}. Make them: `neurofm tokenize --config RECIPE`, "
                "with the recipe that trains on them."
            )
        fitting = [s for s in mine if s.about.get("cut") == cut.document()] or mine
        if len(fitting) > 1:
            listed = "; ".join(
                f"{s.where} by {s.about.get('tokenizer')} ({s.about.get('values')} kept of values)"
                for s in fitting
            )
            raise ValueError(f"{folder}: several stores of tokens of {name}: {listed}. Name one.")
        found.append(fitting[0].path)
    return found


def holds_tokens(stores: Sequence[Store]) -> bool:
    """Whether these are stores of tokens.

    Raises:
        ValueError: Some are, some are not.
    """
    kinds = {bool(store.columns.is_tokens.any()) for store in stores if len(store)}
    if len(kinds) > 1:
        raise ValueError(
            f"Windows: stores of {TOKENS} and of signals together; give those of tokens as "
            "`tokens`."
        )
    return kinds == {True}
