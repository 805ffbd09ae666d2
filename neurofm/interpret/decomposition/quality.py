"""How good a dictionary is: what it leaves unexplained, how many latents speak, how alike they are.

Axes: sample dim latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neurofm.interpret.arrays import takes_either_by_torch
from neurofm.interpret.decomposition.sparse_autoencoder import SparseAutoencoder
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIKE = 0.9  # cosine above which two latents say the same
_ROWS = 4096


@takes_either_by_torch
def unexplained(
    x: Float[Tensor, "sample dim"], found: Float[Tensor, "sample dim"]
) -> Float[Tensor, ""]:
    """Share of the variance that a reconstruction misses; above 1 if it is worse than the mean."""
    x = x.double()
    return (x - found.double()).square().sum() / (x - x.mean(0)).square().sum()


@takes_either_by_torch
def l0(latents: Float[Tensor, "sample latent"]) -> Float[Tensor, ""]:
    """How many latents speak, mean over samples."""
    return (latents != 0).sum(-1).double().mean()


@takes_either_by_torch
def dead_fraction(latents: Float[Tensor, "sample latent"]) -> Float[Tensor, ""]:
    """Share of the latents that speak for no sample."""
    return (latents == 0).all(0).double().mean()


@takes_either_by_torch
@torch.no_grad()
def closest(decoder: Float[Tensor, "latent dim"]) -> Float[Tensor, " latent"]:
    """Cosine of each latent's direction with the most similar other one."""
    rows = torch.nn.functional.normalize(decoder.detach(), dim=1)
    found = []
    for start in range(0, len(rows), _ROWS):
        cosine = rows[start : start + _ROWS] @ rows.T
        cosine[torch.arange(len(cosine)), torch.arange(len(cosine)) + start] = -1.0
        found.append(cosine.amax(1))
    return torch.cat(found)


@dataclass(frozen=True)
class Quality:
    """A dictionary judged on samples, best of recordings it was not trained on.

    Args:
        unexplained: Share of the variance that is not reconstructed; 1 is what the mean leaves.
        low: Lower end of its 95 % interval over groups; NaN without groups or with fewer than 3.
        high: Upper end.
        l0: Latents that speak, per sample.
        density: Share of samples for which each latent speaks.
        closest: See `closest`.
        n_samples: Judged on.
        n_dropped: Left out for a NaN or an infinity.
        n_groups: Groups of samples the interval is over.
    """

    unexplained: float
    low: float
    high: float
    l0: float
    density: Float[np.ndarray, " latent"]
    closest: Float[np.ndarray, " latent"]
    n_samples: int
    n_dropped: int
    n_groups: int

    @property
    def dead(self) -> float:
        """Share of latents that spoke for no sample."""
        return float((self.density == 0).mean())

    @property
    def alike(self) -> float:
        """Share of latents with another one of cosine above 0.9: absorbed or twice the same."""
        return float((self.closest > ALIKE).mean())

    def __str__(self) -> str:
        return (
            f"{self.unexplained:.3f} of the variance unexplained "
            f"({self.low:.3f} to {self.high:.3f} over {self.n_groups} groups; the mean leaves 1), "
            f"{self.l0:.1f} of {len(self.density)} latents speak, {self.dead:.1%} never, "
            f"{self.alike:.1%} have a double; {self.n_samples} samples, {self.n_dropped} left out"
        )

    def plot(self) -> Figure:
        """How often latents speak, and how alike their directions are."""
        from neurofm.interpret.decomposition.drawings import plot_quality

        return plot_quality(self)


@torch.no_grad()
def judge_autoencoder(
    autoencoder: SparseAutoencoder,
    samples: Tensor | np.ndarray,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    known: Sequence[Any] | np.ndarray | None = None,
) -> Quality:
    """Reconstruct samples and count.

    Args:
        autoencoder: In evaluation mode.
        samples: `sample dim`.
        groups: Recording or subject of each sample; the interval is over these, because samples of
            one recording resemble each other.
        known: What is known of each sample, such as its channel or source: variance then is that
            around the mean of its kind. Tokens often differ most by where they are, and a
            dictionary is not to be praised for knowing that.
    """
    x = torch.as_tensor(samples)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"judge_autoencoder: shape {tuple(x.shape)}; expected sample dim, 2 up.")
    good = x.isfinite().all(1)
    x = x[good]
    if not len(x):
        raise ValueError("judge_autoencoder: no sample without NaN or infinity.")
    counts, missed, speaking = torch.zeros(autoencoder.n_latents), [], 0
    for part in x.split(_ROWS):
        part = part.to(autoencoder.decoder.device, autoencoder.decoder.dtype)
        latents = autoencoder.encode(part)
        counts += (latents != 0).sum(0).cpu()
        speaking += int((latents != 0).sum())
        missed.append((part - autoencoder.decode(latents)).double().square().sum(1).cpu())
    error = torch.cat(missed).numpy()
    rest = x.double() - x.double().mean(0)
    if known is not None:
        kinds, place = np.unique(np.asarray(known)[good.cpu().numpy()], return_inverse=True)
        kind_of = torch.as_tensor(place, device=x.device)
        sums = rest.new_zeros(len(kinds), x.shape[1]).index_add(0, kind_of, rest)
        rest = rest - (sums / torch.bincount(kind_of)[:, None])[kind_of]
    spread = rest.square().sum(1).cpu().numpy()
    low = high = float("nan")
    n_groups = 0
    if groups is not None:
        if len(groups) != len(good):
            raise ValueError(
                f"judge_autoencoder: {len(groups)} groups for {len(good)} samples; one each."
            )
        _, where = np.unique(np.asarray(groups)[good.cpu().numpy()], return_inverse=True)
        pairs = np.stack([np.bincount(where, value) for value in (error, spread)])
        n_groups = pairs.shape[1]
        low, high = bootstrap_interval(
            np.arange(n_groups),
            statistic=lambda index: float(np.divide(*pairs[:, index.astype(int)].sum(1))),
            method="percentile",
        )
    return Quality(
        unexplained=float(error.sum() / spread.sum()),
        low=low,
        high=high,
        l0=speaking / len(x),
        density=(counts / len(x)).double().numpy(),
        closest=closest(autoencoder.decoder).double().cpu().numpy(),
        n_samples=len(x),
        n_dropped=int((~good).sum()),
        n_groups=n_groups,
    )
