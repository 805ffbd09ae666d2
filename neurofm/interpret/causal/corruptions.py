"""Corrupted counterparts of brain windows, for the corrupt run of patching.

The best corruption changes one thing and leaves the rest: a network given noise does many things
it would never do otherwise. All return windows of the same shape, paired with the given ones.

Axes: batch channel time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.interpret.attribution.evidence import Inputs, signals_of, with_inputs
from neurofm.interpret.attribution.integrated import surrogates
from neurofm.interpret.bands import remove_band
from neurofm.shapes import Int


def other_class(
    labels: Sequence[int] | np.ndarray,
    *,
    subject: Sequence[int] | np.ndarray | None = None,
    rng: np.random.Generator,
) -> Int[np.ndarray, " window"]:
    """For each window another one of another class, of the same subject: index to take.

    Raises:
        ValueError: A subject has one class only.
    """
    return _partner(labels, subject, "other_class", rng)


def other_subject(
    subject: Sequence[int] | np.ndarray,
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    rng: np.random.Generator,
) -> Int[np.ndarray, " window"]:
    """For each window one of another subject, of the same class if labels are given."""
    return _partner(subject, labels, "other_subject", rng)


def taken(batch: Inputs, index: Sequence[int] | np.ndarray) -> Inputs:
    """The windows at an index, such as `other_class` gives."""
    at = torch.as_tensor(np.asarray(index))
    if isinstance(batch, Batch):
        return batch._map(lambda t: t[at.to(t.device)])
    return batch[at.to(batch.device)]


def shuffled_patches(batch: Inputs, patch: int, *, rng: np.random.Generator) -> Inputs:
    """Patches of so many samples in a random order, the same for all channels of a window."""
    x = signals_of(batch)
    n, rest = divmod(x.shape[-1], patch)
    if rest or n < 2:
        raise ValueError(
            f"shuffled_patches: {x.shape[-1]} samples in patches of {patch}; give two "
            "whole ones or more."
        )
    cut = x.unflatten(-1, (n, patch))
    orders = torch.as_tensor(np.stack([rng.permutation(n) for _ in range(len(x))])).to(x.device)
    index = orders[:, None, :, None].expand_as(cut)
    return with_inputs(batch, cut.gather(2, index).flatten(-2))


def phase_randomised(batch: Inputs, *, generator: torch.Generator) -> Inputs:
    """The same spectra and cross-spectra with random phases: rhythms stay, events go."""
    return with_inputs(batch, surrogates(signals_of(batch), 1, generator=generator)[0])


def band_stopped(batch: Inputs, sfreq: float | int, low: float | int, high: float | int) -> Inputs:
    """Without the frequencies from `low` to `high`, Hz."""
    return with_inputs(batch, remove_band(signals_of(batch), float(sfreq), float(low), float(high)))


def noisy(batch: Inputs, *, sigma: float | int = 3.0, generator: torch.Generator) -> Inputs:
    """With Gaussian noise of `sigma` times each channel's standard deviation in its window."""
    x = signals_of(batch)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return with_inputs(batch, x + sigma * x.std(-1, keepdim=True) * noise)


def _partner(
    differ: Sequence[int] | np.ndarray,
    agree: Sequence[int] | np.ndarray | None,
    who: str,
    rng: np.random.Generator,
) -> np.ndarray:
    one = np.asarray(differ)
    two = np.zeros(len(one), int) if agree is None else np.asarray(agree)
    if one.shape != two.shape:
        raise ValueError(f"{who}: {len(one)} and {len(two)} entries; one per window in both.")
    found = np.empty(len(one), np.int64)
    for k in range(len(one)):
        fits = np.flatnonzero((one != one[k]) & (two == two[k]))
        if not len(fits):
            raise ValueError(
                f"{who}: window {k} ({one[k]!r}, group {two[k]!r}) has no partner in the batch. "
                "Take windows so that every group holds at least two values."
            )
        found[k] = rng.choice(fits)
    return found


def difference(clean: Inputs, corrupt: Inputs) -> Tensor:
    """Size of what a corruption changes, relative to the window: small is minimal."""
    a, b = signals_of(clean).double().flatten(1), signals_of(corrupt).double().flatten(1)
    return (a - b).norm(dim=1) / a.norm(dim=1).clamp(min=1e-12)
