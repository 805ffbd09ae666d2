"""One codebook that follows its vectors from random initial codes.

Distances and averages are computed in float32 under autocast; with torch.distributed, the codebook
is that of one process with the whole batch, see `neurofm.nn.quantize`.

Source: van den Oord et al. 2017 (appendix A.1), as in TFM-Tokenizer (arXiv 2502.16060).
Axes: row = one vector to quantize, code = entry of the codebook.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.nn.processes import all_reduce, draw_rows
from neurofm.nn.quantize import kmeans, nearest
from neurofm.shapes import Float, Int

EPS = 1e-5
BLOCK = 8192  # rows compared with the codebook at once: bounds the matrix of distances


class EMAQuantizer(nn.Module):
    """Nearest code; in training mode the codebook then moves towards the rows.

    With `start="uniform"` and `restart_below=0`, the published behaviour, the first training step
    divides every code that no row chose by a count of nearly zero. Those codes land far away, with
    norms in the thousands, and are never chosen again: the vocabulary is what the first batch
    touched.

    Args:
        dim: Features of a row and of a code.
        n_codes: Entries of the codebook.
        decay: Of the moving averages.
        start: "uniform": small random codes. "kmeans": from the rows of the first training batch,
            with their counts.
        restart_below: Codes whose running count falls below this move onto random rows of the
            batch; 0 never does.
    """

    codebook: Tensor
    codebook_sum: Tensor
    count: Tensor

    def __init__(
        self,
        dim: int,
        *,
        n_codes: int,
        decay: float = 0.99,
        start: Literal["uniform", "kmeans"] = "uniform",
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        if start not in ("uniform", "kmeans"):
            raise ValueError(f"EMAQuantizer: start {start!r} is not 'uniform' or 'kmeans'.")
        self.decay, self.start, self.restart_below = decay, start, restart_below
        codes = (2 * torch.rand(n_codes, dim) - 1) / n_codes
        self.register_buffer("codebook", codes)
        self.register_buffer("codebook_sum", codes.clone())
        self.register_buffer("count", torch.zeros(n_codes))
        # Remembered in Python, so that an accelerator is not asked on every call.
        self._ready = start == "uniform"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = self.start == "uniform"
        super()._load_from_state_dict(*args, **kwargs)

    @property
    def started(self) -> bool:
        """Whether a training batch, or a checkpoint, has given the codes their start."""
        if not self._ready:
            self._ready = bool(self.count.any())
        return self._ready

    def forward(
        self, x: Float[Tensor, "... dim"], *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "... dim"], Int[Tensor, " ..."]]:
        """Codes' vectors, without gradients, and their indices, both from before the update."""
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            rows = x.float().flatten(0, -2)
            if self.training and not self.started:
                self._begin(rows, generator)
            codes = torch.cat([nearest(part, self.codebook) for part in rows.split(BLOCK)])
            values = F.embedding(codes, self.codebook)
            if self.training:
                self._update(rows, codes, generator)
        return values.reshape(x.shape), codes.reshape(x.shape[:-1])

    def lookup(self, codes: Int[Tensor, " *grid"]) -> Float[Tensor, "*grid dim"]:
        """Vectors of codes."""
        return F.embedding(codes, self.codebook)

    def _begin(self, rows: Tensor, generator: torch.Generator | None) -> None:
        self._ready = True
        centres, count = kmeans(rows, len(self.codebook), generator=generator)
        self.codebook.copy_(centres)
        self.codebook_sum.copy_(centres * count.unsqueeze(1))
        self.count.copy_(count)

    def _update(self, rows: Tensor, codes: Tensor, generator: torch.Generator | None) -> None:
        count = torch.zeros_like(self.count).index_add_(0, codes, rows.new_ones(len(rows)))
        total = torch.zeros_like(self.codebook_sum).index_add_(0, codes, rows)
        all_reduce(count, total)
        self.count.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.codebook_sum.mul_(self.decay).add_(total, alpha=1 - self.decay)
        if self.restart_below > 0:
            self._restart(rows, generator)
        whole = self.count.sum()
        smoothed = (self.count + EPS) / (whole + len(self.count) * EPS) * whole
        self.codebook.copy_(self.codebook_sum / smoothed.unsqueeze(1))

    def _restart(self, rows: Tensor, generator: torch.Generator | None) -> None:
        fresh = draw_rows(rows, len(self.count), generator)
        dead = self.count < self.restart_below
        self.count.masked_fill_(dead, self.restart_below)
        self.codebook_sum.copy_(
            torch.where(dead.unsqueeze(1), fresh * self.restart_below, self.codebook_sum)
        )
