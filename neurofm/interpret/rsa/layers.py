"""Layers against references: similarity with its interval and its shuffled control."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurofm.interpret.rsa.bootstrap import resample
from neurofm.interpret.rsa.comparators import same_conditions
from neurofm.interpret.rsa.measures import rdm
from neurofm.interpret.rsa.permutations import (
    PermutationTest,
    draw_permutations,
    percentiles,
    permutation_test,
)
from neurofm.shapes import Float, Int
from neurofm.types import RDM, Result


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
        return percentiles(self.values)


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
    drawn = resample(a.values[None], b.values[None], method, conditions=samples)
    return Bootstrap(drawn.scores[:, 0], drawn.skipped)


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


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
