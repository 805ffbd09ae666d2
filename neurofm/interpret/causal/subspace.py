"""Patching of directions, and the guard against directions that only seem to be used.

Inside the subspace spanned by U the corrupt run takes the clean value: a' = a + U U'(clean - a).
A direction that was searched for can change the output although the network never uses it: one
part of it varies with the input and goes nowhere (it is in the null space of what reads the site),
the other part reaches the output and never varies (a dormant path). Together they work; neither
does alone. The guard splits the direction and patches both parts, on windows it was not found on.

Source: Makelov et al. 2023 (interpretability illusion); Wu et al. 2024 (the reply).
Axes: dim is the last axis of the site.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.causal.activation_patching import Patching, activation_patching
from neurofm.interpret.causal.runs import Change, Edit, Metric, Run, apart, values_at
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def along(basis: Tensor) -> Change:
    """Change of an `Edit`: the other run's value inside a subspace, its own outside.

    Args:
        basis: A vector, or dim x direction; made orthonormal.
    """
    u = orthonormal(basis)

    def change(value: Tensor, source: Tensor) -> Tensor:
        if value.shape[-1] != len(u):
            raise ValueError(
                f"subspace: directions of {len(u)} units for values of {tuple(value.shape)}; "
                "expected those of the site's last axis."
            )
        at = u.to(value)
        return value + (source - value) @ at @ at.T

    return change


def directions(site: str, basis: Tensor) -> list[Edit]:
    """One edit for each direction (column) by itself."""
    return [Edit(site, along(basis[:, k]), f"{site} direction {k}") for k in range(basis.shape[1])]


def latents(
    site: str,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    which: Sequence[int],
) -> list[Edit]:
    """One edit for each latent of a sparse autoencoder; what it does not explain stays as it is."""

    def one(k: int) -> Change:
        def change(value: Tensor, source: Tensor) -> Tensor:
            here = encode(value)
            moved = here.clone()
            moved[..., k] = encode(source)[..., k]
            return value + (decode(moved) - decode(here)).to(value)

        return change

    return [Edit(site, one(k), f"{site} latent {k}") for k in which]


def orthonormal(basis: Tensor) -> Float[Tensor, "dim direction"]:
    """An orthonormal basis of what the columns span, float64.

    Raises:
        ValueError: Columns that depend on each other, or are not finite.
    """
    u = basis.double()
    u = u[:, None] if u.ndim == 1 else u
    if u.ndim != 2 or not torch.isfinite(u).all():
        raise ValueError(
            f"subspace: a basis of shape {tuple(basis.shape)}; finite dim x direction."
        )
    sizes = torch.linalg.svdvals(u)
    if sizes[-1] <= 1e-10 * sizes[0]:
        raise ValueError(
            f"subspace: {u.shape[1]} directions of rank {int((sizes > 1e-10 * sizes[0]).sum())}; "
            "leave out those that are zero or follow from others."
        )
    return torch.linalg.qr(u)[0]


@dataclass(frozen=True)
class SubspaceCheck:
    """A subspace patched as a whole, and in the parts that can and cannot reach the reader.

    Args:
        whole: Effect of the subspace.
        row: Of its part in the row space of the reader; NaN if there is none.
        null: Of its part in the null space, which a linear reader cannot see; NaN if there is none.
        variance: Variance of the data along the whole, row and null part, each per direction and
            relative to the mean over all dimensions.
        patching: The patched runs, windows held out.
    """

    whole: float
    row: float
    null: float
    variance: dict[str, float]
    patching: Patching

    @property
    def suspicious(self) -> tuple[str, ...]:
        """Reasons not to believe that the network uses this subspace."""
        found = []
        if np.isnan(self.row):
            found.append("all of it is in the null space of the reader, which cannot see it")
        elif not self.row >= 0.5 * self.whole:
            found.append(
                f"the part that reaches the reader has an effect of {self.row:.3g} by itself, of "
                f"{self.whole:.3g} for the whole: the rest acts through a dormant path"
            )
        if self.variance["whole"] < 0.01:
            found.append(
                f"the data vary along it {self.variance['whole']:.2g} times as much as along "
                "a mean dimension: the network hardly ever uses it"
            )
        return tuple(found)

    def plot(self) -> Figure:
        """Effects of the parts, and how much the data vary along each."""
        from neurofm.figures import plot_bars

        bars = {
            "effect": {"whole": self.whole, "row space": self.row, "null space": self.null},
            "variance": {
                "whole": self.variance["whole"],
                "row space": self.variance["row"],
                "null space": self.variance["null"],
            },
        }
        windows = self.patching.effect.shape[1]
        return plot_bars(
            bars, title=f"Subspace on {windows} held-out windows", unit="effect, relative variance"
        )


@torch.no_grad()
def check_subspace(
    model: nn.Module,
    site: str,
    basis: Tensor,
    reader: Tensor,
    *,
    found_on: Sequence[Any],
    held_out: tuple[Any, Any],
    run: Run | None = None,
    metric: Metric | None = None,
) -> SubspaceCheck:
    """Patch a found subspace, its row-space and its null-space part on windows held out.

    Args:
        basis: A vector, or dim x direction.
        reader: Weight, output x dim, of the linear map that reads the site next.
        found_on: Batches the subspace was found on.
        held_out: Clean and corrupt windows that are in none of those.
        metric: As in `activation_patching`.

    Warns:
        If the row-space part alone has less than half of the effect, or if the data vary along the
        subspace less than 1 % of what they vary along a mean dimension.
    """
    clean, corrupt = held_out
    apart(found_on, [clean, corrupt], "check_subspace")
    u = orthonormal(basis)
    if reader.ndim != 2 or reader.shape[1] != len(u):
        raise ValueError(
            f"check_subspace: a reader of shape {tuple(reader.shape)} for {len(u)} dimensions; "
            "output x dim, as the weight of nn.Linear."
        )
    _, sizes, right = torch.linalg.svd(reader.double().to(u.device), full_matrices=False)
    rows = right[sizes > 1e-10 * sizes[0]].T
    seen = rows @ (rows.T @ u)
    parts = {"whole": u, "row": _span(seen), "null": _span(u - seen)}
    edits = [Edit(site, along(v), name) for name, v in parts.items() if v.shape[1]]
    patching = activation_patching(model, clean, corrupt, edits, run=run, metric=metric)
    mean = dict(zip(patching.names, map(float, patching.mean), strict=True))
    data = []
    for batch in (*found_on, clean, corrupt):
        _, values = values_at(model, batch, [site], run=run)
        data += [v.double().flatten(0, -2) for v in values[site]]
    rows_ = torch.cat(data)
    rows_ = rows_ - rows_.mean(0)
    average = float(rows_.square().mean())
    variance = {
        name: float((rows_ @ v.to(rows_)).square().mean()) / average if v.shape[1] else float("nan")
        for name, v in parts.items()
    }
    result = SubspaceCheck(
        whole=mean["whole"],
        row=mean.get("row", float("nan")),
        null=mean.get("null", float("nan")),
        variance=variance,
        patching=patching,
    )
    for reason in result.suspicious:
        warnings.warn(f"check_subspace: {site!r}: {reason}.", stacklevel=2)
    return result


def _span(vectors: Tensor) -> Tensor:
    """Orthonormal basis of what is left of unit vectors after a projection."""
    left, sizes, _ = torch.linalg.svd(vectors, full_matrices=False)
    return left[:, sizes > 1e-8]
