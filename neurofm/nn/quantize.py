"""Vector quantization and residual vector quantization.

Each level quantizes what the previous levels left over, so a token is a short tuple of codes,
coarse first. Codebooks follow their assigned vectors by an exponential moving average and start
from k-means of the first batch. Distances and averages are computed in float32 under autocast; with
torch.distributed, counts and sums are added over processes, and the start and the vectors that dead
codes move to are drawn from all of them: the codebook is that of one process with the whole batch.

Source: van den Oord et al. 2017 (vector quantization); Zeghidour et al. 2021 (residual levels);
Fifty et al. 2024 (rotation trick).
Axes: level = index of the quantizer, code = entry of one codebook, row = vector to quantize.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.cards import configured
from neurofm.nn.linear import linear
from neurofm.nn.processes import all_reduce, broadcast, draw_numbers, draw_rows
from neurofm.shapes import Float, Int

logger = logging.getLogger(__name__)

EPS = 1e-6


@dataclass(frozen=True)
class Quantized:
    """What a quantizer returns.

    Args:
        values: Quantized vectors; gradients reach the input through them.
        codes: int64, coarse level first.
        loss: Commitment loss; carries gradients in training mode only.
    """

    values: Float[Tensor, "... dim"]
    codes: Int[Tensor, "... level"]
    loss: Float[Tensor, ""]


def rotate_onto(
    source: Float[Tensor, "row dim"], target: Float[Tensor, "row dim"]
) -> Float[Tensor, "row dim"]:
    """`target`, as a rotation and scaling of `source` that gradients pass through.

    The value equals `target` up to rounding; the rotation and the scale are constants to autograd,
    so the angle between gradient and code is preserved.
    """
    source_norm = source.norm(dim=-1, keepdim=True).clamp(min=EPS)
    target_norm = target.norm(dim=-1, keepdim=True).clamp(min=EPS)
    u = (source / source_norm).detach()
    v = (target / target_norm).detach()
    w = F.normalize(u + v, dim=-1, eps=EPS)
    along = (source * w).sum(-1, keepdim=True)
    rotated = source - 2 * along * w + 2 * (source * u).sum(-1, keepdim=True) * v
    return rotated * (target.norm(dim=-1, keepdim=True) / source_norm).detach()


def straight_through(source: Tensor, target: Tensor) -> Tensor:
    """`target`, with the gradient of `source`."""
    return source + (target - source).detach()


def nearest(x: Float[Tensor, "row dim"], centres: Float[Tensor, "code dim"]) -> Int[Tensor, " row"]:
    """Index of the nearest centre by Euclidean distance; the first of equals."""
    return linear(x, -2 * centres, centres.square().sum(1)).argmin(1)


def kmeans(
    x: Float[Tensor, "row dim"],
    n: int,
    *,
    iterations: int = 10,
    sample: int = 4096,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "code dim"], Float[Tensor, " code"]]:
    """Lloyd's algorithm on a random sample of the rows, of all processes in a distributed run.

    Args:
        sample: Rows to draw; with replacement if there are fewer.

    Returns:
        Centres, and how many sampled rows the last iteration gave to each (at least 1). An empty
        cluster keeps its centre.
    """
    x = draw_rows(x, sample, generator)
    centres = x[draw_numbers(len(x), n, generator, x.device).to(x.device)]
    count = x.new_ones(n)
    for _ in range(iterations):
        code = nearest(x, centres)
        count = x.new_zeros(n).index_add_(0, code, x.new_ones(len(x)))
        total = torch.zeros_like(centres).index_add_(0, code, x)
        moved = total / count.clamp(min=1).unsqueeze(1)
        centres = torch.where((count > 0).unsqueeze(1), moved, centres)
    count = count.clamp(min=1)
    broadcast(centres, count)  # the same sample, but each process may start from other ones of it
    return centres, count


class VectorQuantizer(nn.Module):
    """One codebook that follows its vectors.

    Args:
        dim: Features of the input.
        codebook_dim: Features of a code; linear maps lead there and back if it differs from `dim`.
        codebook_size: Number of codes.
        rotation_trick: Pass gradients by rotation; otherwise straight through.
        decay: Of the moving averages.
        init_embed_avg: "scaled" starts the running sum at centre x count. "upstream" starts it at
            the centre, as the original code does; its first update then shrinks every code by its
            count.
        restart_below: Codes whose running count falls below this are moved onto random inputs of
            the batch. 0, the effect of the original code, never does.
    """

    codebook: Tensor
    codebook_sum: Tensor
    count: Tensor
    initialized: Tensor

    def __init__(
        self,
        dim: int,
        *,
        codebook_dim: int,
        codebook_size: int,
        rotation_trick: bool = True,
        decay: float = 0.99,
        commitment: float = 0.25,
        init_embed_avg: Literal["scaled", "upstream"] = "scaled",
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        if init_embed_avg not in ("scaled", "upstream"):
            raise ValueError(
                f"VectorQuantizer: init_embed_avg {init_embed_avg!r} is not 'scaled' or 'upstream'."
            )
        self.rotation_trick = rotation_trick
        self.decay = decay
        self.commitment = commitment
        self.init_embed_avg = init_embed_avg
        self.restart_below = restart_below
        same = codebook_dim == dim
        self.project_in = nn.Identity() if same else nn.Linear(dim, codebook_dim)
        self.project_out = nn.Identity() if same else nn.Linear(codebook_dim, dim)
        self.register_buffer("codebook", torch.zeros(codebook_size, codebook_dim))
        self.register_buffer("codebook_sum", torch.zeros(codebook_size, codebook_dim))
        self.register_buffer("count", torch.zeros(codebook_size))
        self.register_buffer("initialized", torch.zeros(1))
        # Remembered in Python, so that an accelerator is not asked on every call.
        self._ready = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._ready = False
        super()._load_from_state_dict(*args, **kwargs)

    def forward(
        self, x: Float[Tensor, "row dim"], *, generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantize rows; in training mode the codebook then moves towards them."""
        z = self.project_in(x)
        with torch.autocast(z.device.type, enabled=False):
            z = z.float()
            rows = z.detach()
            if not self._ready:
                self._initialize(rows, generator)
            codes = nearest(rows, self.codebook)
            code = F.embedding(codes, self.codebook)
            if torch.is_grad_enabled() and z.requires_grad:
                passed = (rotate_onto if self.rotation_trick else straight_through)(z, code)
                if not self.training:
                    passed = code + (passed - passed.detach())  # the code to the last bit
            else:
                passed = code
            loss = self.commitment * F.mse_loss(z, passed.detach())
            if self.training:
                self._update(rows, codes, generator)
            else:
                loss = loss.detach()
        return Quantized(self.project_out(passed), codes, loss)

    def lookup(self, codes: Int[Tensor, " *grid"]) -> Float[Tensor, "*grid dim"]:
        """Vectors of codes."""
        return self.project_out(F.embedding(codes, self.codebook))

    @torch.no_grad()
    def _initialize(self, rows: Tensor, generator: torch.Generator | None) -> None:
        self._ready = True
        if bool(self.initialized):
            return
        centres, count = kmeans(rows, len(self.codebook), generator=generator)
        total = centres * count.unsqueeze(1) if self.init_embed_avg == "scaled" else centres
        self.codebook.copy_(centres)
        self.codebook_sum.copy_(total)
        self.count.copy_(count)
        self.initialized.fill_(1)
        logger.info("codebook of %d codes initialized by k-means", len(centres))

    @torch.no_grad()
    def _update(self, rows: Tensor, codes: Tensor, generator: torch.Generator | None) -> None:
        count = torch.zeros_like(self.count).index_add_(0, codes, rows.new_ones(len(rows)))
        total = torch.zeros_like(self.codebook_sum).index_add_(0, codes, rows)
        all_reduce(count, total)
        self.count.lerp_(count, 1 - self.decay)
        self.codebook_sum.lerp_(total, 1 - self.decay)
        if self.restart_below > 0:
            self._restart(rows, generator)
        whole = self.count.sum()
        smoothed = (self.count + EPS) / (whole + len(self.count) * EPS) * whole
        self.codebook.copy_(self.codebook_sum / smoothed.unsqueeze(1))

    def _restart(self, rows: Tensor, generator: torch.Generator | None) -> None:
        fresh = draw_rows(rows, len(self.count), generator)
        dead = self.count < self.restart_below
        self.count.masked_fill_(dead, self.restart_below)
        restarted = torch.where(dead.unsqueeze(1), fresh * self.restart_below, self.codebook_sum)
        self.codebook_sum.copy_(restarted)


@configured
class ResidualVQ(nn.Module):
    """Levels of `VectorQuantizer`, each on what the previous ones left over.

    Args:
        dim: Features of the input.
        num_quantizers: Levels. The other arguments are those of each level.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_quantizers: int,
        codebook_dim: int,
        codebook_size: int,
        rotation_trick: bool = True,
        decay: float = 0.99,
        init_embed_avg: Literal["scaled", "upstream"] = "scaled",
        restart_below: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_codes, self.n_levels = codebook_size, num_quantizers
        self.levels = nn.ModuleList(
            VectorQuantizer(
                dim,
                codebook_dim=codebook_dim,
                codebook_size=codebook_size,
                rotation_trick=rotation_trick,
                decay=decay,
                init_embed_avg=init_embed_avg,
                restart_below=restart_below,
            )
            for _ in range(num_quantizers)
        )

    @property
    def initialized(self) -> bool:
        """Whether the codebooks have started."""
        first = cast(VectorQuantizer, self.levels[0])
        return first._ready or bool(first.initialized)

    def forward(
        self, x: Float[Tensor, "... dim"], *, generator: torch.Generator | None = None
    ) -> Quantized:
        """Quantize vectors of any leading shape; the loss is the mean over levels."""
        residual = x.flatten(0, -2)
        total = torch.zeros_like(residual)
        codes, losses = [], []
        for level in self.levels:
            part = level(residual, generator=generator)
            residual = residual - part.values.detach()
            total = total + part.values
            codes.append(part.codes)
            losses.append(part.loss)
        shape = x.shape[:-1]
        return Quantized(
            total.reshape(x.shape),
            torch.stack(codes, -1).reshape(*shape, len(codes)),
            torch.stack(losses).mean(),
        )

    def lookup(self, codes: Int[Tensor, "... level"]) -> Float[Tensor, "... dim"]:
        """Sum of the vectors of each token's codes."""
        parts = []
        for level, code in zip(self.levels, codes.unbind(-1), strict=False):
            parts.append(cast(VectorQuantizer, level).lookup(code))
        return torch.stack(parts).sum(0)


def codebook_health(codes: Int[Tensor, "... level"], codebook_size: int) -> dict[str, list[float]]:
    """How well the codes of some tokens use each codebook; see `health_of_counts`."""
    return health_of_counts(count_codes(codes, codebook_size))


def count_codes(codes: Int[Tensor, "... level"], codebook_size: int) -> Int[Tensor, "level code"]:
    """How often each code occurs; counts of several batches can be added."""
    levels = codes.flatten(0, -2).unbind(-1)
    return torch.stack([torch.bincount(level, minlength=codebook_size) for level in levels])


def health_of_counts(counts: Int[Tensor, "level code"]) -> dict[str, list[float]]:
    """How well tokens use each codebook.

    Args:
        counts: How often each code occurs.

    Returns:
        One value per level: "usage" (fraction of codes seen), "perplexity" (number of equally
        likely codes with the same entropy), "dead" (codes never seen) and "entropy" (nats; the loss
        of a predictor that knows the code frequencies alone).
    """
    health: dict[str, list[float]] = {"usage": [], "perplexity": [], "dead": [], "entropy": []}
    for level in counts.cpu():
        count = level.double()
        share = count / count.sum()
        entropy = float(-(share * share.clamp(min=1e-300).log()).sum())
        used = int((count > 0).sum())
        health["usage"].append(used / len(count))
        health["perplexity"].append(float(torch.tensor(entropy).exp()))
        health["dead"].append(float(len(count) - used))
        health["entropy"].append(entropy)
    return health
