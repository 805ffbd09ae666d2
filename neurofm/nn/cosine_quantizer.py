"""Vector quantization on the unit sphere: one codebook of unit vectors that follow their queries.

An input is mapped to a short query of unit length and replaced by the nearest code, which is
normalized and mapped back. Codes get no gradient: they move towards the mean of the queries
assigned to them. The codebook starts from k-means of the first batch, in any mode. Distances and
averages are computed in float32 under autocast; with torch.distributed, the codebook is that of one
process with the whole batch, see `neurofm.nn.quantize`.

Source: Peng et al. 2022 (BEiT v2); Jiang et al. 2024 (LaBraM); as in Du-IN (arXiv 2405.11459).
Axes: row = one query, code = entry of the codebook.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.processes import all_reduce, count_rows, draw_numbers, take_rows
from neurofm.nn.quantize import Quantized, nearest, straight_through
from neurofm.shapes import Float, Int

KMEANS_ITERATIONS = 10


@configured
class CosineQuantizer(nn.Module):
    """One codebook of unit vectors between two learned maps.

    Args:
        dim: Features of the input and the output.
        n_codes: Entries of the codebook.
        code_dim: Features of a code.
        beta: Weight of the commitment loss.
        decay: Of the codes and the counts.
        kmeans: Start from k-means of the first batch; otherwise from random directions.
        count_in_eval: Whether `count` follows batches in evaluation mode too, as in the original.
            The counts are a record; nothing is computed from them.
    """

    codebook: Tensor
    count: Tensor
    initialized: Tensor

    def __init__(
        self,
        dim: int,
        *,
        n_codes: int,
        code_dim: int,
        beta: float = 1.0,
        decay: float = 0.99,
        kmeans: bool = True,
        count_in_eval: bool = True,
    ) -> None:
        super().__init__()
        self.n_codes, self.n_levels = n_codes, 1
        self.beta = beta
        self.decay = decay
        self.count_in_eval = count_in_eval
        self.project_in = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, code_dim))
        self.norm = nn.LayerNorm(code_dim)
        self.project_out = nn.Linear(code_dim, dim)
        self.register_buffer("codebook", F.normalize(torch.randn(n_codes, code_dim), dim=-1))
        self.register_buffer("count", torch.zeros(n_codes))
        self.register_buffer("initialized", torch.tensor([0.0 if kmeans else 1.0]))
        # Remembered in Python, so that an accelerator is not asked on every call.
        self._ready = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def started(self) -> bool:
        """Whether the codebook has started."""
        return self._ready or bool(self.initialized)

    def queries(self, x: Float[Tensor, "... dim"]) -> Float[Tensor, "... code_dim"]:
        """What is compared with the codes: unit vectors."""
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.project_in(x.float()), dim=-1)

    def forward(
        self, x: Float[Tensor, "... dim"], *, generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantize vectors; in training mode the codebook then moves towards their queries.

        `codes` has one level; `loss` is `beta` times the mean squared distance to the codes.
        """
        z = self.queries(x)
        rows = z.detach().flatten(0, -2)
        if not self._ready:
            self._ready = True
            if not bool(self.initialized):
                _, total = count_rows(rows)
                cpu = torch.device("cpu")
                self.start(rows, draw_numbers(total, len(self.codebook), generator, cpu))
        codes = nearest(rows, self.codebook).unflatten(0, z.shape[:-1])
        code = F.embedding(codes, self.codebook)
        loss = self.beta * F.mse_loss(z, code)
        out = self.project_out(self.norm(straight_through(z, code)))
        if self.training or self.count_in_eval:
            self._follow(rows, codes.flatten())
        return Quantized(out, codes.unsqueeze(-1), loss)

    def lookup(self, codes: Int[Tensor, "... level"]) -> Float[Tensor, "... dim"]:
        """Output vectors of codes."""
        return self.project_out(self.norm(F.embedding(codes[..., 0], self.codebook)))

    @torch.no_grad()
    def start(self, rows: Float[Tensor, "row code_dim"], first: Int[Tensor, " code"]) -> None:
        """Set the codebook by k-means: nearest by direction, centres scaled to unit length.

        Args:
            first: Rows that are the first centres, numbered over all processes. An empty cluster
                keeps its centre.
        """
        centres = take_rows(rows, first, before=count_rows(rows)[0])
        for _ in range(KMEANS_ITERATIONS):
            found = (rows @ centres.t()).argmax(1)
            count = rows.new_zeros(len(centres)).index_add_(0, found, rows.new_ones(len(rows)))
            total = torch.zeros_like(centres).index_add_(0, found, rows)
            all_reduce(count, total)
            moved = F.normalize(total / count.clamp(min=1).unsqueeze(1), dim=-1)
            centres = torch.where((count > 0).unsqueeze(1), moved, centres)
        self.codebook.copy_(centres)
        self.initialized.fill_(1)

    @torch.no_grad()
    def _follow(self, rows: Tensor, codes: Tensor) -> None:
        count = torch.zeros_like(self.count).index_add_(0, codes, rows.new_ones(len(rows)))
        total = torch.zeros_like(self.codebook).index_add_(0, codes, rows)
        if self.training:  # in evaluation processes may not come here equally often
            all_reduce(count, total)
        self.count.lerp_(count, 1 - self.decay)
        if not self.training:
            return
        mean = F.normalize(total / count.clamp(min=1).unsqueeze(1), dim=-1)
        target = torch.where((count > 0).unsqueeze(1), mean, self.codebook)
        moved = self.decay * self.codebook + (1 - self.decay) * target
        self.codebook.copy_(F.normalize(moved, dim=-1))
