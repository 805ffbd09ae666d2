"""Vectors of stimuli by name: what windows carry as targets where stimuli are no classes.

A file holds one array per stimulus under the stimulus' name, which is the label of the events at
which it was shown: `.npz` (numpy) or `.safetensors`. All arrays have one shape: features, or
features over time (speech).
Axes: stimulus; feature [time].
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurofm.data.cuts import fits
from neurofm.io import Corpus
from neurofm.io.tensors import existing, read_tensors, write_tensors
from neurofm.shapes import Float


@dataclass(frozen=True)
class StimulusTable:
    """Vectors of stimuli.

    Args:
        names: Of the stimuli, as events are labelled.
        vectors: float32, one for each name.

    Raises:
        ValueError: A name comes twice, numbers of both differ, or a vector is not finite.
    """

    names: tuple[str, ...]
    vectors: Float[np.ndarray, "stimulus feature *time"]

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.vectors):
            raise ValueError(
                f"StimulusTable: {len(self.names)} names for {len(self.vectors)} vectors; expected "
                "one of each for every stimulus, and at least one stimulus."
            )
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise ValueError(f"StimulusTable: {twice!r} comes twice. Keep one vector of it.")
        bad = ~np.isfinite(self.vectors.reshape(len(self.vectors), -1)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"StimulusTable: {int(bad.sum())} of {len(bad)} vectors hold NaN or infinite "
                f"values, such as that of {self.names[int(bad.argmax())]!r}. Compute them anew."
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def width(self) -> int:
        """Features of a vector."""
        return self.vectors.shape[1]

    @classmethod
    def of(cls, vectors: Mapping[str, Any], *, where: str = "StimulusTable") -> StimulusTable:
        """From one array per name.

        Args:
            where: Name of the file, for messages.

        Raises:
            ValueError: The arrays differ in shape, or are single numbers.
        """
        shapes = {np.shape(value) for value in vectors.values()}
        if len(shapes) != 1 or shapes == {()}:
            raise ValueError(
                f"{where}: arrays of shapes {sorted(shapes)[:4]}, expected one shape for all "
                "stimuli, of at least one axis."
            )
        stacked = np.stack([np.asarray(value, dtype=np.float32) for value in vectors.values()])
        return cls(tuple(vectors), stacked)

    @classmethod
    def read(cls, path: Path | str) -> StimulusTable:
        """From a `.npz` or `.safetensors` file.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Another format, damaged, or not a table.
        """
        path = existing(path)
        if path.suffix == ".safetensors":
            tensors = read_tensors(path)
            return cls.of({k: v.float().numpy() for k, v in tensors.items()}, where=str(path))
        if path.suffix != ".npz":
            raise ValueError(f"{path}: expected a table of stimuli as .npz or .safetensors.")
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.of({name: file[name] for name in file.files}, where=str(path))
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise ValueError(
                f"{path}: not a complete .npz file ({error}). Write it anew."
            ) from error

    def write(self, path: Path | str) -> None:
        """To a `.safetensors` file, all or nothing."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"{path}: a table of stimuli is written as .safetensors.")
        vectors = torch.from_numpy(np.ascontiguousarray(self.vectors, dtype=np.float32))
        write_tensors(path, {k: v.clone() for k, v in zip(self.names, vectors, strict=True)}, {})

    def positions(self, names: Sequence[str]) -> np.ndarray:
        """Where stimuli are in the table.

        Raises:
            ValueError: One is not.
        """
        place = {name: i for i, name in enumerate(self.names)}
        missing = [name for name in names if name not in place]
        if missing:
            raise ValueError(
                f"StimulusTable: {len(missing)} of {len(names)} stimuli have no vector, such as "
                f"{missing[0]!r}; there are {len(self)} such as {self.names[0]!r}. Names must be "
                "spelled as events are labelled."
            )
        return np.array([place[name] for name in names], dtype=np.int64)


def embedded_by(
    corpora: Sequence[Corpus], names: Sequence[str], *, avoid: Sequence[str] = ()
) -> StimulusTable:
    """What the reader of a simulated corpus says of its stimuli.

    Args:
        names: Labels of events, stimuli and others.
        avoid: Patterns of labels that are no stimuli.

    Raises:
        ValueError: Several corpora, or a reader that knows no embeddings.
    """
    reader: Any = corpora[0].reader if len(corpora) == 1 else None
    if not hasattr(reader, "embed"):
        listed = ", ".join(corpus.name for corpus in corpora)
        raise ValueError(
            f"embeddings: reader: {listed} has no reader that knows the embeddings of its stimuli. "
            "Name a file of them (`neurofm.data.StimulusTable`)."
        )
    chosen = tuple(name for name in names if not fits(name, avoid))
    return StimulusTable(chosen, np.asarray(reader.embed(chosen), dtype=np.float32))
