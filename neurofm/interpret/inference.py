"""How sure is a similarity of RDMs: permuted and resampled conditions; layers against references.

A permutation relabels the conditions of one RDM (rows and columns together): the shuffled control.
The bootstrap draws conditions with replacement; a pair made of two copies of one condition is left
out, because it is zero by construction.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.interpret.rsa import compare, compare_rdms, rdm, same_conditions
from neurofm.shapes import Float, Int
from neurofm.types import RDM, Result


@dataclass(frozen=True)
class PermutationTest:
    """A similarity beside those of relabelled conditions.

    Args:
        value: Of the data.
        null: Of each permutation.
        p: One-sided, the identity counted once: never zero.
    """

    value: float
    null: Float[np.ndarray, " permutation"]
    p: float

    @property
    def band(self) -> tuple[float, float]:
        """2.5th and 97.5th percentile of the null."""
        return _percentiles(self.null)


def draw_permutations(
    n_conditions: int,
    n: int,
    *,
    generator: np.random.Generator,
    groups: Sequence[Hashable] | None = None,
) -> Int[np.ndarray, "permutation condition"]:
    """Orders of the conditions, shuffled within each group if groups are given.

    Groups say which conditions are exchangeable: with pseudo-trials of several subjects, the
    subject, or differences between persons count as chance.
    """
    orders = np.tile(np.arange(n_conditions), (n, 1))
    codes = np.zeros(n_conditions, dtype=int)
    if groups is not None:
        codes = np.unique([str(group) for group in groups], return_inverse=True)[1]
        if len(codes) != n_conditions:
            raise ValueError(f"permutations: {len(codes)} groups for {n_conditions} conditions.")
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        orders[:, members] = generator.permuted(orders[:, members], axis=1)
    return orders


def permutation_test(
    a: RDM,
    b: RDM,
    *,
    orders: Int[np.ndarray, "permutation condition"],
    method: str = "rho-a",
) -> PermutationTest:
    """Is `a` more similar to `b` than with its conditions relabelled?

    Args:
        orders: From `draw_permutations`; the same for several RDMs makes their nulls comparable.
    """
    same_conditions(a, b)
    value = compare_rdms(a, b, method)
    null = _null(a, b, orders, method)
    known = null[np.isfinite(null)]
    # Rounding must not make a relabelling that changes nothing count as smaller.
    above = int((known >= value - 1e-12).sum())
    p = (1 + above) / (1 + len(known)) if np.isfinite(value) else float("nan")
    return PermutationTest(value, null, p)


def _null(a: RDM, b: RDM, orders: np.ndarray, method: str) -> np.ndarray:
    square, upper = a.square(), np.triu_indices(len(a.labels), 1)
    null = np.empty(len(orders))
    # All permuted RDMs of a chunk at once, unless relabelling moves missing pairs about.
    chunk = max(1, 2_000_000 // max(len(upper[0]), 1))
    missing = np.isnan(b.values) | np.isnan(a.values)
    for start in range(0, len(orders), chunk):
        some = orders[start : start + chunk]
        moved = square[some[:, upper[0]], some[:, upper[1]]]
        if missing.any() and not (np.isnan(moved) <= missing).all():
            null[start : start + chunk] = [
                compare(one[None], b.values[None], method)[0, 0] for one in moved
            ]
        else:
            null[start : start + chunk] = compare(moved, b.values[None], method)[:, 0]
    return null


@dataclass(frozen=True)
class Bootstrap:
    """Similarities over resampled conditions.

    Args:
        values: NaN where a sample had fewer than three different conditions.
        skipped: How many those were.
    """

    values: Float[np.ndarray, " sample"]
    skipped: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by percentiles."""
        return _percentiles(self.values)


def bootstrap_conditions(
    a: RDM,
    b: RDM,
    *,
    samples: Int[np.ndarray, "sample condition"],
    method: str = "rho-a",
) -> Bootstrap:
    """Similarity when conditions are drawn with replacement.

    Args:
        samples: Indices, such as `generator.integers(n, size=(1000, n))`.
    """
    same_conditions(a, b)
    first, second = a.square(), b.square()
    rows, columns = np.triu_indices(samples.shape[1], 1)
    values = np.full(len(samples), np.nan)
    skipped = 0
    for i, sample in enumerate(samples):
        if len(np.unique(sample)) < 3:
            skipped += 1
            continue
        left, right = sample[rows], sample[columns]
        real = left != right
        pairs = (left[real], right[real])
        values[i] = compare(first[pairs][None], second[pairs][None], method)[0, 0]
    return Bootstrap(values, skipped)


def layer_rsa(
    patterns: Mapping[str, Float[np.ndarray, "condition p"]],
    references: Mapping[str, RDM],
    *,
    generator: np.random.Generator,
    metric: str = "correlation",
    method: str = "rho-a",
    groups: Sequence[Hashable] | None = None,
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
) -> list[Result]:
    """How similar is each layer to each reference, beside relabelled conditions?

    Args:
        patterns: Layer to one row per condition, in the references' order.
        references: Name to RDM: class structure, the recording itself, another network.
        metric: Of the layers' RDMs.
        groups: Within which conditions are exchangeable (subjects); see `draw_permutations`.

    Returns:
        One `Result` per layer and reference, layers in order: the interval is a bootstrap over
        conditions, `chance` the mean of the permutations, `n` the number of conditions. `detail`
        holds layer, reference, p, p_family (against the largest of all layers in each permutation:
        corrected for having looked at several), null_low and null_high (2.5 and 97.5 %), metric,
        method.
    """
    if not patterns or not references:
        raise ValueError("layer_rsa: needs at least one layer and one reference.")
    labels = next(iter(references.values())).labels
    n = len(labels)
    orders = draw_permutations(n, n_permutations, generator=generator, groups=groups)
    samples = generator.integers(n, size=(n_bootstrap, n))
    layers = {}
    for name, value in patterns.items():
        if len(value) != n:
            raise ValueError(
                f"layer_rsa: layer {name!r} has {len(value)} conditions, the references {n}."
            )
        layers[name] = rdm(value, metric, labels=labels)
    rows: dict[str, list[_Row]] = {}
    for key, reference in references.items():
        tests = {
            name: permutation_test(layer, reference, orders=orders, method=method)
            for name, layer in layers.items()
        }
        highest = np.fmax.reduce([test.null for test in tests.values()])
        for name, test in tests.items():
            drawn = bootstrap_conditions(layers[name], reference, samples=samples, method=method)
            p_family = (1 + int((highest >= test.value - 1e-12).sum())) / (1 + n_permutations)
            rows.setdefault(name, []).append(_Row(key, test, drawn, p_family))
    results = []
    for name, found in rows.items():
        for row in found:
            low, high = row.drawn.interval
            null_low, null_high = row.test.band
            detail = {
                "layer": name,
                "reference": row.reference,
                "p": row.test.p,
                "p_family": row.p_family,
                "null_low": null_low,
                "null_high": null_high,
                "metric": metric,
                "method": method,
                "unit_of_replication": "conditions",
            }
            results.append(
                Result(
                    name=f"{name} ~ {row.reference}",
                    value=row.test.value,
                    unit=method,
                    low=low,
                    high=high,
                    n=n,
                    chance=_mean(row.test.null),
                    detail=detail,
                )
            )
    return results


@dataclass(frozen=True)
class _Row:
    reference: str
    test: PermutationTest
    drawn: Bootstrap
    p_family: float


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
