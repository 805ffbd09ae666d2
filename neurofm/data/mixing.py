"""Which windows an epoch draws from several corpora, and how they are dealt to batches.

Everything follows from seed and epoch: nothing is kept between epochs, so that a run resumes at any
batch of any epoch, and every process works out the same plan by itself. The windows of a batch are
the same for any number of processes; each takes a consecutive part of them.

A corpus whose share of an epoch is smaller than the corpus goes round in one fixed random order and
takes the next piece of it each epoch: no window comes twice in an epoch, and all have come once
before one comes again. Source of the temperature: multilingual sampling, arXiv 1911.02116.
Axes: window = position among the windows to draw from; corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.shapes import Int


def shares(
    sizes: Mapping[str, int],
    weights: Mapping[str, float] | None = None,
    *,
    temperature: float = 1.0,
) -> dict[str, float]:
    """Fraction of an epoch that comes from each corpus.

    Args:
        sizes: Windows of each corpus, above 0.
        weights: Relative to each other; 0 leaves a corpus out.
        temperature: Without weights, shares go with size ** (1 / temperature): 1 = every window
            alike, large = every corpus alike.

    Raises:
        ValueError: Weights that do not name exactly these corpora, are negative or all 0, or come
            together with a temperature; a temperature below 1.
    """
    if weights is None:
        if not temperature >= 1:
            raise ValueError(f"shares: temperature is {temperature}, expected 1 or more.")
        parts = {name: float(n) ** (1 / temperature) for name, n in sizes.items()}
    else:
        if temperature != 1:
            raise ValueError(
                f"shares: weights and a temperature of {temperature} were given; the weights say "
                "everything. Drop one of the two."
            )
        if set(weights) != set(sizes):
            raise ValueError(
                f"shares: weights name {sorted(weights)}, but windows come from {sorted(sizes)}. "
                "Give every corpus a weight; 0 leaves it out."
            )
        parts = {name: float(weights[name]) for name in sizes}
        if min(parts.values()) < 0 or not 0 < sum(parts.values()) < np.inf:
            raise ValueError(f"shares: weights {dict(weights)} must be 0 or more, and not all 0.")
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()}


class Mixing:
    """Draws the windows of an epoch.

    Args:
        corpus: Corpus of each window, a position in `names`.
        weights: See `shares`.
        temperature: See `shares`.
        epoch_windows: Windows in an epoch. If not given: all windows, or with weights or a
            temperature as many as can be drawn in these shares without drawing one twice.
        seed: Of the order in which a corpus is gone through.

    Attributes:
        counts: Windows that an epoch has of each corpus; every epoch the same.
    """

    def __init__(
        self,
        corpus: Int[np.ndarray, " window"],
        names: Sequence[str],
        *,
        weights: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        epoch_windows: int | None = None,
        seed: int = 0,
    ) -> None:
        if epoch_windows is not None and epoch_windows < 1:
            raise ValueError(f"Mixing: epoch_windows is {epoch_windows}, expected at least 1.")
        self.n_windows = len(corpus)
        self.seed = seed
        found = np.bincount(corpus, minlength=len(names))
        missing = [name for name, n in zip(names, found, strict=True) if not n]
        wanted = {} if weights is None else weights
        if any(wanted.get(name, 0) > 0 for name in missing):
            raise ValueError(f"Mixing: no window of {missing} is among those to draw from.")
        sizes = {name: int(n) for name, n in zip(names, found, strict=True) if n}
        if weights is not None:
            weights = {k: v for k, v in weights.items() if k not in missing}
        self.shares = shares(sizes, weights, temperature=temperature)
        # A stable sort gathers the windows of each corpus, in their order.
        order = np.argsort(corpus, kind="stable")
        edges = np.cumsum(found)[:-1]
        self._members = dict(zip(names, np.split(order, edges), strict=True))
        self._whole = weights is None and temperature == 1 and epoch_windows is None
        if epoch_windows is None:
            used = [(sizes[name], share) for name, share in self.shares.items() if share > 0]
            epoch_windows = len(corpus) if self._whole else int(min(n / s for n, s in used) + 1e-9)
        self.counts = _rounded(self.shares, max(epoch_windows, 1))

    @property
    def repeats(self) -> dict[str, float]:
        """How often a window of each corpus comes in one epoch, on average."""
        return {name: n / len(self._members[name]) for name, n in self.counts.items()}

    def draw(self, epoch: int) -> Int[np.ndarray, " drawn"]:
        """The windows of an epoch, corpus after corpus."""
        if self._whole:
            return np.arange(self.n_windows)
        drawn = []
        for i, (name, count) in enumerate(self.counts.items()):
            members = self._members[name]
            rounds, rest = divmod(count, len(members))
            drawn.extend([members] * rounds)
            if rest:
                order = np.random.default_rng([self.seed, 0, i]).permutation(members)
                at = epoch * rest % len(members)
                drawn.append(np.concatenate([order, order[:rest]])[at : at + rest])
        return np.concatenate(drawn)


def _rounded(parts: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers with this sum, nearest to the fractions (largest remainders)."""
    exact = {name: part * total for name, part in parts.items()}
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in order[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class Plan:
    """The batches of one process in one epoch.

    Args:
        order: Windows, batch after batch.
        edges: Where each batch starts in `order`, and the end of the last.
        padding: Windows that come once more than drawn, over all processes, so that each has as
            many: fewer than there are processes, for each incomplete batch.
    """

    order: Int[np.ndarray, " drawn"]
    edges: Int[np.ndarray, " edge"]
    padding: int

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, i: int) -> Int[np.ndarray, " batch"]:
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        return self.order[self.edges[i] : self.edges[i + 1]]


def plan_batches(
    drawn: Int[np.ndarray, " drawn"],
    bucket: Int[np.ndarray, " drawn"],
    *,
    batch_size: int,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
    shuffle: np.random.Generator | None = None,
) -> Plan:
    """Deal windows to batches of one bucket each, and the windows of each batch to processes.

    All processes have equally many batches, and at the same place in the epoch equal parts of the
    same batch, so that none waits for another. An incomplete batch that does not divide by their
    number is filled up with some of its own windows once more.

    Args:
        drawn: Windows of the epoch, in the order wanted.
        bucket: Of each of them.
        batch_size: Windows in a batch, over all processes.
        drop_last: Leave out the incomplete last batch of a bucket, unless it is its only one.
        shuffle: Puts the batches of several buckets into a random order; without, bucket comes
            after bucket in the order of their first windows.

    Raises:
        ValueError: The batch size does not divide by the number of processes.
    """
    if batch_size % world:
        raise ValueError(
            f"plan_batches: batch_size {batch_size} counts the windows of a step over all "
            f"processes and is no multiple of their number, {world}. Use "
            f"{max(batch_size // world, 1) * world}."
        )
    codes, first, counts = np.unique(bucket, return_index=True, return_counts=True)
    if len(codes) > 1:
        by_bucket = np.argsort(bucket, kind="stable")
        ends = np.cumsum(counts)
        members = [drawn[by_bucket[e - n : e]] for e, n in zip(ends, counts, strict=True)]
    else:
        members = [drawn] * len(codes)
    batches: list[np.ndarray] = []
    padding = 0
    for i in np.argsort(first, kind="stable").tolist():
        whole = len(members[i]) // batch_size * batch_size
        kept = whole if drop_last and whole else len(members[i])
        for low in range(0, kept, batch_size):
            batch = members[i][low : min(low + batch_size, kept)]
            each = -(-len(batch) // world)
            padding += each * world - len(batch)
            if world > 1:
                batch = np.resize(batch, each * world)[rank * each : (rank + 1) * each]
            batches.append(batch)
    if shuffle is not None and len(codes) > 1:
        batches = [batches[i] for i in shuffle.permutation(len(batches)).tolist()]
    edges = np.cumsum([0, *map(len, batches)])
    order = np.concatenate(batches) if batches else drawn[:0]
    return Plan(order, edges, padding)
