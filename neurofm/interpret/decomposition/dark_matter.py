"""What a sparse autoencoder leaves: how much of its error is a linear function of its input.

The error that a linear map predicts from the input is structure that more latents could learn; the
rest is noise or structure that no sum of few directions has.

Source: Engels et al. 2024, "Decomposing the dark matter of sparse autoencoders".
Axes: sample dim. float64.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurofm.interpret.arrays import require_finite, takes_either_by_torch
from neurofm.shapes import Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENOUGH = 10  # samples per feature


@takes_either_by_torch
def linear_error(
    x: Float[Tensor, "sample dim"], error: Float[Tensor, "sample out"]
) -> tuple[Float[Tensor, "sample out"], Float[Tensor, "sample out"]]:
    """The part of the error that is an affine function of x (least squares), and the rest."""
    design = torch.cat([x.double(), x.new_ones(len(x), 1, dtype=torch.float64)], 1)
    solved = _affine(x.double(), error.double())
    linear = design @ solved
    return linear, error.double() - linear


@takes_either_by_torch
def explained(found: Float[Tensor, "sample out"], true: Float[Tensor, "sample out"]) -> Tensor:
    """Share of the variance explained, all columns taken together."""
    true = true.double()
    spread = (true - true.mean(0)).square().sum()
    return 1 - (true - found.double()).square().sum() / spread


def _affine(x: Tensor, y: Tensor) -> Float[Tensor, "coefficient out"]:
    design = torch.cat([x, x.new_ones(len(x), 1)], 1)
    if len(design) <= design.shape[1]:
        raise ValueError(
            f"dark matter: {len(x)} samples for {x.shape[1]} features: a linear map would fit "
            f"anything. Use at least {ENOUGH * x.shape[1]} samples."
        )
    # By singular values: features of a network may depend on each other.
    return torch.linalg.pinv(design) @ y


@dataclass(frozen=True)
class DarkMatter:
    """Of the variance at a site: what an autoencoder says, and what it misses, on held-out samples.

    Args:
        reconstructed: Share of the variance that is reconstructed.
        linear: Share in the part of the error that a linear map predicts from the input.
        nonlinear: Share in the rest of the error.
        error_explained: R² of the error by the input, on held-out samples; 0 is what its mean says.
        size_explained: R² of the error's squared norm by the input, on held-out samples.
        n_train: Samples the map was fitted on.
        n_test: Samples it was judged on.
        n_latents: Width of the autoencoder.
    """

    reconstructed: float
    linear: float
    nonlinear: float
    error_explained: float
    size_explained: float
    n_train: int
    n_test: int
    n_latents: int

    def plot(self) -> Figure:
        """The three shares as bars."""
        return compare_widths({f"{self.n_latents} latents": self})


def dark_matter(
    autoencoder: torch.nn.Module,
    train: Float[Tensor, "train dim"],
    test: Float[Tensor, "test dim"],
) -> DarkMatter:
    """Split the error of an autoencoder.

    Args:
        autoencoder: In evaluation mode; what it is called with comes back reconstructed.
        train: Fits the linear map, at least ten times as many samples as features; not those of
            recordings in `test`, whose samples resemble their neighbours.
        test: Judges it.
    """
    if train.ndim != 2 or test.ndim != 2 or train.shape[1] != test.shape[1] or len(test) < 2:
        raise ValueError(
            f"dark_matter: train of {tuple(train.shape)}, test of {tuple(test.shape)}; expected "
            "sample dim with the same features, two samples or more."
        )
    for name, part in (("train", train), ("test", test)):
        require_finite(f"dark_matter ({name})", part, "samples")
    if not (test != test[0]).any():
        raise ValueError(f"dark_matter: the {len(test)} test samples do not vary.")
    if len(train) < ENOUGH * train.shape[1]:
        warnings.warn(
            f"dark_matter: {len(train)} samples for {train.shape[1]} features; with fewer than "
            f"{ENOUGH} per feature the linear part is told too small.",
            stacklevel=2,
        )
    with torch.no_grad():
        error, left = ((part - autoencoder(part)).double() for part in (train, test))
    x, held = train.double(), test.double()
    ones = held.new_ones(len(held), 1)
    by_input = torch.cat([held, ones], 1) @ _affine(x, error)
    size = torch.cat([held, ones], 1) @ _affine(x, error.square().sum(1, keepdim=True))
    spread = (held - held.mean(0)).square().sum()
    missed, rest = left.square().sum() / spread, (left - by_input).square().sum() / spread
    return DarkMatter(
        reconstructed=float(1 - missed),
        linear=float(missed - rest),
        nonlinear=float(rest),
        error_explained=float(explained(by_input, left)),
        size_explained=float(explained(size, left.square().sum(1, keepdim=True))),
        n_train=len(train),
        n_test=len(test),
        n_latents=int(getattr(autoencoder, "n_latents", 0)),
    )


def compare_widths(found: Mapping[str, DarkMatter]) -> Figure:
    """Shares of the variance for several autoencoders, such as of growing width."""
    from neurofm.figures import plot_bars

    if not found:
        raise ValueError("compare_widths: nothing to compare.")
    shares = {
        "reconstructed": {name: one.reconstructed for name, one in found.items()},
        "error, linear in the input": {name: one.linear for name, one in found.items()},
        "error, not linear": {name: one.nonlinear for name, one in found.items()},
    }
    n = next(iter(found.values())).n_test
    return plot_bars(
        shares, title=f"What autoencoders leave, {n} held-out samples", unit="share of variance"
    )
