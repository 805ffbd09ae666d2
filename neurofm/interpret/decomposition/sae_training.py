"""Train a sparse autoencoder on the activations of a site, in plain torch.

Samples come in shuffled batches that mix recordings; latents that no longer speak are brought back
by an auxiliary loss: they have to explain what the others leave.

Source: Gao et al. 2024 (auxiliary loss, learning rate by width), Bricken et al. 2023 (unit rows).
Axes: sample dim latent step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.decomposition.selection import influence, largest
from neurofm.interpret.decomposition.sparse_autoencoder import SparseAutoencoder
from neurofm.shapes import Bool, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Chunks = Callable[[], Iterable[Any]]
AUXILIARY, NEVER = 1 / 32, 10_000_000
BUFFERED = 20  # batches among which samples are shuffled
WARM_UP, DECAY = 0.05, 0.2


@dataclass(frozen=True)
class Training:
    """How a training went.

    Args:
        unexplained: Share of the batch's variance that was not reconstructed.
        l0: Latents that spoke, per sample.
        dead: Share of latents that had not spoken for `dead_after` samples.
        n_samples: Seen, with repeats.
        n_dropped: Samples left out for a NaN or an infinity, with repeats.
        dead_after: Samples without a word after which a latent counted as dead.
    """

    unexplained: Float[np.ndarray, " step"]
    l0: Float[np.ndarray, " step"]
    dead: Float[np.ndarray, " step"]
    n_samples: int
    n_dropped: int
    dead_after: int

    def plot(self) -> Figure:
        """Both shares over steps."""
        from neurofm.figures import plot_curves

        steps = np.arange(1, len(self.dead) + 1)
        return plot_curves(
            {"variance unexplained": (steps, self.unexplained), "dead latents": (steps, self.dead)},
            title=f"Training, {self.n_samples} samples",
            ylabel="share",
        )


@takes_either_by_torch
def auxiliary(
    pre: Float[Tensor, "sample latent"],
    dead: Bool[Tensor, " latent"],
    error: Float[Tensor, "sample dim"],
    decoder: Float[Tensor, "latent dim"],
) -> tuple[Float[Tensor, "sample dim"], Float[Tensor, ""], Float[Tensor, ""]]:
    """What dead latents make of the error, and how far they miss it.

    The min(dim / 2, dead) largest of them take part, without the decoder's bias.

    Returns:
        Their sum; the squared miss summed over features; the same as a mean. Zeros if none is dead.
    """
    where = dead.nonzero()[:, 0]
    if not len(where):
        return torch.zeros_like(error), error.new_zeros(()), error.new_zeros(())
    k = max(min(error.shape[1] // 2, len(where)), 1)
    mine = pre[:, where]
    index = largest(mine.detach(), k)
    kept = torch.zeros_like(mine).scatter(-1, index, mine.relu().gather(-1, index))
    found = kept @ decoder[where]
    miss = (error - found).square()
    return found, miss.sum(-1).mean(), miss.mean()


@takes_either_by_torch
def geometric_median(x: Float[Tensor, "sample dim"], *, n_iter: int = 100) -> Float[Tensor, " dim"]:
    """The point with the least mean distance to all samples (Weiszfeld): a robust mean."""
    point = x.mean(0)
    for _ in range(n_iter):
        weight = 1 / (x - point).norm(dim=1).clamp(min=1e-12)
        new = (weight[:, None] * x).sum(0) / weight.sum()
        if (new - point).norm() <= 1e-7 * (1 + new.norm()):
            return new
        point = new
    return point


class Shuffled:
    """Endless batches of samples in random order; samples that are not finite are left out.

    Args:
        source: All samples, or a function that starts a pass over chunks of them (shards on disk).
            Chunks are mixed in a buffer, half of which is given out before more is read.
        gradients: Of the model's loss by the samples, with the first form; chunks of the second may
            be pairs. Scaled so that their mean norm is the square root of their length.
    """

    def __init__(
        self,
        source: Tensor | np.ndarray | Chunks,
        batch_size: int,
        *,
        gradients: Tensor | np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.source, self.batch_size, self.n_dropped = source, batch_size, 0
        self._pair: Any = source if gradients is None else (source, gradients)
        self._generator = torch.Generator().manual_seed(seed)

    def _chunks(self) -> Iterable[Any]:
        return cast(Chunks, self.source)() if callable(self.source) else [self._pair]

    def _finite(self, chunk: Any) -> Tensor:
        parts = chunk if isinstance(chunk, tuple) else (chunk,)
        if any(part.ndim < 2 for part in parts):
            raise ValueError(
                f"Shuffled: shapes {[part.shape for part in parts]}; expected sample dim."
            )
        rows = torch.cat([torch.as_tensor(part).flatten(0, -2) for part in parts], 1)
        good = rows.isfinite().all(1)
        self.n_dropped += int((~good).sum())
        return rows if bool(good.all()) else rows[good]

    def _mixed(self, rows: Tensor) -> Tensor:
        return rows[torch.randperm(len(rows), generator=self._generator).to(rows.device)]

    def __iter__(self) -> Iterator[Tensor]:
        whole = None if callable(self.source) else self._finite(self._pair)
        pool: list[Tensor] = []
        while True:
            seen = 0
            for chunk in [whole] if whole is not None else map(self._finite, self._chunks()):
                pool.append(chunk)
                seen += len(chunk)
                if whole is None and sum(map(len, pool)) >= BUFFERED * self.batch_size:
                    rows = self._mixed(torch.cat(pool))
                    half = len(rows) // 2 // self.batch_size * self.batch_size
                    yield from rows[:half].split(self.batch_size)
                    pool = [rows[half:]]
            if not seen:
                raise ValueError(
                    "sparse autoencoder: no sample without NaN or infinity to train on "
                    f"({self.n_dropped} left out)."
                )
            rows = self._mixed(torch.cat(pool))
            full = max(len(rows) // self.batch_size, 1)
            yield from rows[: full * self.batch_size].split(self.batch_size)
            # What fills no batch waits for the next pass; an array begins anew.
            pool = [] if whole is not None else [rows[full * self.batch_size :]]


def learning_rate(n_latents: int) -> float:
    """The default of a width."""
    return float(np.clip(2e-4 * (2**14 / n_latents) ** 0.5, 1e-4, 1e-3))


def descend(
    module: nn.Module,
    batches: Iterable[Tensor],
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    after: Callable[[], None] = lambda: None,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Adam with a warm-up over the first steps and a linear decay over the last fifth.

    Args:
        before: Called between gradient and step.
        after: Called after the step.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.9, 0.999))
    warm, decay = max(round(WARM_UP * steps), 1), max(round(DECAY * steps), 1)
    source = iter(batches)
    for step in range(steps):
        rate = min((step + 1) / warm, (steps - step) / decay, 1.0)
        optimizer.param_groups[0]["lr"] = lr * rate
        optimizer.zero_grad(set_to_none=True)
        loss(next(source)).backward()
        before()
        optimizer.step()
        after()


def train_autoencoder(
    autoencoder: SparseAutoencoder,
    source: Tensor | np.ndarray | Chunks,
    *,
    steps: int,
    gradients: Tensor | np.ndarray | None = None,
    batch_size: int = 4096,
    lr: float | None = None,
    dead_after: int | None = None,
    auxiliary_weight: float = AUXILIARY,
    length_weight: float = 0.0,
    bf16: bool = False,
    seed: int = 0,
) -> Training:
    """Fit the dictionary; the autoencoder is changed, and in evaluation mode afterwards.

    Args:
        source: Samples, `sample dim`, or a function that starts a pass over chunks of them. They go
            to the device of the autoencoder batch by batch.
        gradients: For select="gradient", see `Shuffled`.
        lr: By the width if not given.
        dead_after: Samples; 10 million, or a fifth of the training if that is less.
        length_weight: Of `(‖z‖ - ‖x‖)²`, the published addition for "top_afa".
        bf16: Large products in bfloat16, for GPUs.
        seed: Of the order of samples.

    Raises:
        ValueError: "gradient" without gradients, or the reverse.
    """
    if not callable(source) and (autoencoder.select == "gradient") != (gradients is not None):
        raise ValueError(
            f"train_autoencoder: select={autoencoder.select!r} "
            f"{'with' if gradients is not None else 'without'} gradients. "
            "select='gradient' chooses latents by the gradients of the model's loss, no other does."
        )
    batches = Shuffled(source, batch_size, gradients=gradients, seed=seed)
    device = autoencoder.decoder.device
    first = next(iter(batches)).to(device)[:, : autoencoder.dim].to(autoencoder.decoder.dtype)
    batches.n_dropped = 0
    _start(autoencoder, first)
    limit = (
        min(NEVER, steps * min(batch_size, len(first)) // 5) if dead_after is None else dead_after
    )
    run = _Run(autoencoder, limit, auxiliary_weight, length_weight, bf16)
    autoencoder.train()
    rate = learning_rate(autoencoder.n_latents) if lr is None else lr
    try:
        descend(
            autoencoder, batches, run.loss, steps=steps, lr=rate, before=run.project, after=run.norm
        )
    finally:
        autoencoder.eval()
    if run.edges:
        autoencoder.threshold.fill_(torch.stack(run.edges).mean())
    course = torch.stack(run.course).cpu().double().numpy()
    missed, spoke, dead = course.T
    return Training(missed, spoke, dead, run.n_samples, batches.n_dropped, limit)


@torch.no_grad()
def _start(autoencoder: SparseAutoencoder, x: Float[Tensor, "sample dim"]) -> None:
    if x.shape[1] != autoencoder.dim:
        raise ValueError(
            f"train_autoencoder: samples have {x.shape[1]} features, the autoencoder "
            f"{autoencoder.dim}."
        )
    length = x.norm(dim=1).mean()
    if not length > 0:
        raise ValueError("train_autoencoder: all samples are zero; is the site reached?")
    autoencoder.scale.fill_(autoencoder.dim**0.5 / length)
    autoencoder.decoder_bias.copy_(geometric_median(x * autoencoder.scale))


class _Run:
    """What a training carries from step to step."""

    def __init__(
        self,
        autoencoder: SparseAutoencoder,
        dead_after: int,
        auxiliary_weight: float,
        length_weight: float,
        bf16: bool,
    ) -> None:
        self.net, self.dead_after = autoencoder, dead_after
        self.auxiliary_weight, self.length_weight, self.bf16 = auxiliary_weight, length_weight, bf16
        device = autoencoder.decoder.device
        self.silent = torch.zeros(autoencoder.n_latents, dtype=torch.int64, device=device)
        self.course: list[Tensor] = []
        self.edges: list[Tensor] = []
        self.n_samples = 0

    def loss(self, rows: Float[Tensor, "sample column"]) -> Tensor:
        net = self.net
        rows = rows.to(net.decoder.device, net.decoder.dtype)
        x, slope = rows[:, : net.dim], rows[:, net.dim :]
        weight = None
        if slope.shape[1]:
            slope = slope * net.dim**0.5 / slope.norm(dim=1).mean().clamp(min=1e-30)
            weight = influence(slope, net.decoder.detach())
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            pre = net.pre_activations(x)
        spoke: Tensor
        length = None
        if net.gathers:
            index, kept = net.sparse(pre, weight)
            found = net.gather(index, kept)
            l0 = (kept > 0).sum(-1).to(x.dtype).mean()
            spoke = torch.zeros_like(self.silent).bool()
            spoke[index[kept > 0]] = True
        else:
            latents = net.chosen(pre, x, slope if slope.shape[1] else None)
            found, spoke = net.decode(latents), (latents > 0).any(0)
            l0 = (latents > 0).sum(-1).to(x.dtype).mean()
            length = latents.norm(dim=1) if self.length_weight else None
            if net.select == "batch_topk":
                self._edge(latents.detach())
        error = (x - found) * net.scale
        loss = error.square().mean()
        if self.length_weight and length is not None:
            loss = (
                loss + self.length_weight * (length - (x * net.scale).norm(dim=1)).square().mean()
            )
        dead = self.silent >= self.dead_after
        if self.auxiliary_weight and bool(dead.any()):
            loss = (
                loss + self.auxiliary_weight * auxiliary(pre, dead, error.detach(), net.decoder)[2]
            )
        with torch.no_grad():
            self.silent = torch.where(spoke, 0, self.silent + len(x))
            spread = ((x - x.mean(0)) * net.scale).square().mean()
            share = error.square().mean() / spread.clamp(min=1e-30)
            self.course.append(torch.stack([share, l0, dead.to(x.dtype).mean()]))
        self.n_samples += len(x)
        return loss

    def _edge(self, latents: Tensor) -> None:
        """The least contribution that was kept."""
        score = latents * self.net.norms.detach() if self.net.rescale else latents
        score = score[score > 0]
        if len(score):
            self.edges = [*self.edges[-199:], score.min()]

    @torch.no_grad()
    def project(self) -> None:
        """Take from the gradient what would only change the norms of the rows."""
        if not self.net.rescale:
            rows, slope = self.net.decoder, cast(Tensor, self.net.decoder.grad)
            slope -= (slope * rows).sum(1, keepdim=True) * rows

    @torch.no_grad()
    def norm(self) -> None:
        if not self.net.rescale:
            self.net.decoder.div_(self.net.norms.clamp(min=1e-12)[:, None])
