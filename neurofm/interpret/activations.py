"""Activations: arrays that share their windows, from a network's layers or from the brain.

Axes: the first axis is always window; what follows is the source's own (token dim, channel time).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurofm.shapes import Bool, Float

Reduce = str | Callable[[np.ndarray], np.ndarray]
REDUCTIONS = ("none", "mean_time", "mean_tokens", "flatten")


@dataclass(frozen=True)
class Activations:
    """Arrays that share their windows: layers of a network, electrodes, regions.

    Args:
        data: Name to array, window first.
        mask: Name to bool, window × second axis, True = real; only where something is padded.
        labels: Condition of each window.
        subject: Subject of each window.
        run: Run (cross-validation fold) of each window.
        position: Name to metres, coordinates of the second axis (channel, voxel).
    """

    data: Mapping[str, np.ndarray]
    mask: Mapping[str, np.ndarray] = field(default_factory=dict)
    labels: Sequence[Any] | None = None
    subject: Sequence[Any] | None = None
    run: Sequence[Any] | None = None
    position: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = {name: len(value) for name, value in self.data.items()}
        for key in ("labels", "subject", "run"):
            if getattr(self, key) is not None:
                counts[key] = len(getattr(self, key))
        if len(set(counts.values())) > 1:
            raise ValueError(f"Activations: every entry needs the same windows, got {counts}.")
        for name, mask in self.mask.items():
            expected = self.data[name].shape[:2]
            if mask.shape != expected:
                raise ValueError(
                    f"Activations: mask of {name!r} has shape {mask.shape}, expected {expected}."
                )

    def __len__(self) -> int:
        return len(next(iter(self.data.values()), ()))

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.data:
            raise KeyError(f"Activations: no {name!r}.{near_misses(name, list(self.data))}")
        return self.data[name]

    @property
    def names(self) -> tuple[str, ...]:
        """What was recorded, in the order asked for."""
        return tuple(self.data)

    def patterns(self, name: str, *, reduce: Reduce = "flatten") -> Float[np.ndarray, "window p"]:
        """One row per window, padding left out of means.

        Args:
            name: Which entry.
            reduce: "flatten", "mean_tokens" (over everything between window and the last axis),
                "mean_time" (over the last axis), or a function.

        Raises:
            ValueError: Flattening padded windows, whose columns would not mean the same.
        """
        value, mask = self[name], self.mask.get(name)
        if reduce == "flatten" and mask is not None and not mask.all():
            raise ValueError(
                f"Activations: windows of {name!r} differ in length ({int((~mask).sum())} padded "
                "places), so their columns do not correspond. Use reduce='mean_tokens'."
            )
        reduced = apply_reduction(value, mask, reduce)
        return reduced.reshape(len(reduced), -1)

    def select(self, index: Sequence[int] | np.ndarray) -> Activations:
        """The windows at `index`, in that order."""
        index = np.asarray(index)

        def pick(values: Sequence[Any] | None) -> Sequence[Any] | None:
            return None if values is None else np.asarray(values)[index].tolist()

        return Activations(
            data={name: value[index] for name, value in self.data.items()},
            mask={name: value[index] for name, value in self.mask.items()},
            labels=pick(self.labels),
            subject=pick(self.subject),
            run=pick(self.run),
            position=self.position,
        )


def apply_reduction(
    value: np.ndarray, mask: Bool[np.ndarray, "window token"] | None, reduce: Reduce
) -> np.ndarray:
    """Shrink one array; see `Activations.patterns`. "none" returns it unchanged."""
    if callable(reduce):
        return reduce(value)
    if reduce == "none":
        return value
    if reduce == "flatten":
        return value.reshape(len(value), -1)
    if reduce == "mean_time":
        return value.mean(-1) if value.ndim > 2 else value
    if reduce == "mean_tokens":
        if value.ndim < 3:
            return value
        middle = tuple(range(1, value.ndim - 1))
        if mask is None:
            return value.mean(middle)
        weight = np.broadcast_to(
            mask.reshape(mask.shape + (1,) * (value.ndim - 2)), (*value.shape[:-1], 1)
        )
        total = (value * weight).sum(middle)
        return total / np.maximum(weight.sum(middle), 1).astype(value.dtype)
    raise ValueError(f"reduce={reduce!r} is not one of {REDUCTIONS} or a function.")


def near_misses(name: str, known: list[str]) -> str:
    """A question naming the known names most like this one, or nothing."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    last = name.rsplit(".", 1)[-1]
    close += [k for k in known if k.rsplit(".", 1)[-1] == last and k not in close][:2]
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
