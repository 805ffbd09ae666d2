"""Products of patterns with each other, block by block, and the pairs read from them.

Half of a Gram matrix is enough: on a CPU one triangle is computed by the BLAS routine for that
(half the work of a product), and what reads a Gram matrix here reads its upper triangle.

Axes: condition, p = column of a pattern, pair = upper triangle by rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from scipy.linalg import blas
from torch import Tensor

from neurofm.shapes import Bool, Float

BLOCK = 4096  # columns per product: bounds the float64 copy of the patterns
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def blocks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Stretches of columns, as float64."""
    for start in range(0, x.shape[-1], BLOCK):
        some = slice(start, min(start + BLOCK, x.shape[-1]))
        yield some, x[..., some].detach().double()


def row_sums(x: Float[Tensor, "*batch condition p"]) -> Float[Tensor, "*batch condition"]:
    """Sum of each pattern: NaN or infinite where one of its values is."""
    total = x.new_zeros(x.shape[:-1], dtype=torch.float64)
    for _, block in blocks(x):
        total += block.sum(-1)
    return total


def gram_matrix(
    x: Float[Tensor, "*batch condition p"],
    *,
    rows: Float[Tensor, "*batch condition"] | None = None,
    columns: bool = False,
    keep: Bool[Tensor, "*batch condition"] | None = None,
    dtype: str = "float64",
) -> Float[Tensor, "*batch condition condition"]:
    """Inner products of all pairs of patterns; only the upper triangle is to be read.

    Args:
        rows: Taken off every value of a pattern.
        columns: Take the mean over patterns off every column; distances do not change, but
            lose fewer digits.
        keep: Patterns that are not kept count as zero and stay out of the means.
        dtype: Of the products; sums of blocks are float64.
    """
    total = x.new_zeros((*x.shape[:-1], x.shape[-2]), dtype=torch.float64)
    out = None if keep is None else ~keep.unsqueeze(-1)
    for _, block in blocks(x):
        if rows is not None:
            block = block - rows.unsqueeze(-1)
        if out is not None:
            block = block.masked_fill(out, 0.0)
        if columns:
            block = block - _mean(block, keep)
            block = block if out is None else block.masked_fill(out, 0.0)
        total += _product(block.to(DTYPES[dtype]))
    return total


def _mean(block: Tensor, keep: Tensor | None) -> Tensor:
    if keep is None:
        return block.mean(-2, keepdim=True)
    number = keep.sum(-1).clamp(min=1)[..., None, None]
    return block.sum(-2, keepdim=True) / number


def _product(z: Tensor) -> Tensor:
    if z.ndim > 2 or z.device.type != "cpu":
        return z @ z.mT
    # BLAS thinks in columns: its lower triangle is the upper one of what numpy reads.
    rank_k = blas.dsyrk if z.dtype == torch.float64 else blas.ssyrk
    half = rank_k(1.0, z.contiguous().numpy().T, trans=1, lower=1)
    return torch.from_numpy(half.T)


def upper(
    square: Float[Tensor, "*batch n n"] | Bool[Tensor, "*batch n n"],
) -> Float[Tensor, "*batch pair"] | Bool[Tensor, "*batch pair"]:
    """Entries above the diagonal."""
    n = square.shape[-1]
    return torch.cat([square[..., i, i + 1 :] for i in range(n - 1)], -1)


def squared_distances(
    gram: Float[Tensor, "*batch condition condition"],
) -> Float[Tensor, "*batch pair"]:
    """Squared distances of all pairs; the matrix is used up."""
    own = gram.diagonal(dim1=-2, dim2=-1).clone()
    gram.mul_(-2).add_(own.unsqueeze(-1)).add_(own.unsqueeze(-2))
    return upper(gram)


def touching(missing: Bool[Tensor, "*batch condition"]) -> Bool[Tensor, "*batch pair"]:
    """Pairs that involve a missing condition."""
    return upper(missing.unsqueeze(-1) | missing.unsqueeze(-2))
