"""What a region would like to see: activity in it alone, decoded; and control images beside.

Two ways to an image: the decoder of Brain-Diffuser run on activity that is 1 in a region and 0
elsewhere, and diffusion guided by an encoder (`guidance`). Either is worth only as much as the
response to its images, measured again, exceeds that to images made for random voxels.

Source: Ozcelik & VanRullen 2023 (Brain-Diffuser, arXiv 2303.05334), with the norms of its code; Luo
et al. 2023 (BrainDiVE, arXiv 2306.03089).
Axes: region, voxel, image; token dim.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neurofm.metrics import Moments
from neurofm.shapes import Bool, Float
from neurofm.stats import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Lengths that predictions are brought to before the intercept is added, as published; the latents
# of the autoencoder are then made to have `LATENT_NORM`.
NORMS = {"autoencoder": 50.0, "text": 9.0, "vision": 15.0}
LATENT_NORM = 80.0


def region_activity(
    regions: Mapping[str, Bool[np.ndarray, " voxel"]], n_voxels: int
) -> Float[np.ndarray, "region voxel"]:
    """1 in a region and 0 elsewhere, a row for each.

    Raises:
        ValueError: A mask of other voxels, or an empty one.
    """
    rows = np.zeros((len(regions), n_voxels), dtype=np.float32)
    for row, (name, mask) in zip(rows, regions.items(), strict=True):
        mask = np.asarray(mask)
        if mask.shape != (n_voxels,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"region {name!r}: {mask.dtype} of shape {mask.shape} with {int(mask.sum())} "
                f"voxels in it; expected a bool mask of the decoder's {n_voxels} voxels, not empty."
            )
        row[mask] = 1
    return rows


def scaled_direction(
    change: Float[np.ndarray, "region ... dim"],
    intercept: Float[np.ndarray, "... dim"],
    *,
    norm: float | int,
) -> Float[np.ndarray, "region ... dim"]:
    """What activity adds to the intercept, with a set length; tokens each by themselves.

    Args:
        change: Activity times weights, without the intercept.
        intercept: Of the decoder.
        norm: Length over the last axis.
    """
    length = np.linalg.norm(change, axis=-1, keepdims=True)
    return change / (length + 1e-8) * norm + intercept


def rescaled_latents(
    latents: Float[np.ndarray, "region latent"],
    target: Moments,
    *,
    norm: float | int = LATENT_NORM,
) -> Float[np.ndarray, "region latent"]:
    """Latents of regions, z-scored over them, given the training latents' moments and one length.

    Raises:
        ValueError: Fewer than two regions, which cannot be z-scored.
    """
    if len(latents) < 2:
        raise ValueError(
            f"rescaled_latents: {len(latents)} region; latents are z-scored over regions (13 as "
            "published), so give at least two."
        )
    own = Moments.of(latents)
    z = np.divide(latents - own.mean, own.std, out=np.zeros_like(latents), where=own.std > 0)
    matched = z * target.std + target.mean
    return matched / (np.linalg.norm(matched, axis=1, keepdims=True) + 1e-8) * norm


@dataclass(frozen=True)
class RegionImages:
    """Images made for a region, and how it answers to them.

    Args:
        region: Name.
        images: Made for it.
        response: Mean response of the region to each.
        control_images: The first one of each random set of voxels of the same size.
        control_response: Mean response of the *region* to the images of each random set.
        natural_response: Mean response of the region to each natural image, if some were given.
        p: Of a random set doing as well, one-sided, the region counted in.
        tuning: The same for every region: name to its mean response to these images, measured
            again like `response`; the own region is among them.
        tuning_natural: Name to mean and standard deviation over the natural images, if some were
            given.
    """

    region: str
    images: Float[Tensor, "image 3 height width"]
    response: Float[np.ndarray, " image"]
    control_images: Float[Tensor, "control 3 height width"]
    control_response: Float[np.ndarray, " control"]
    natural_response: Float[np.ndarray, " natural"]
    p: float
    tuning: Mapping[str, float] = field(default_factory=dict)
    tuning_natural: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """Mean response to its own images minus that to images for random voxels."""
        return float(self.response.mean() - self.control_response.mean())

    def interval(self, *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Of the mean response to its own images, over images."""
        return bootstrap_interval(self.response, level=level, seed=seed)

    @property
    def percentile(self) -> float:
        """Natural images, %, that it answers to less than to its own on average; or NaN."""
        if not self.natural_response.size:
            return float("nan")
        return float(100 * (self.natural_response < self.response.mean()).mean())

    def __str__(self) -> str:
        text = (
            f"{self.region}: response {self.response.mean():.3g} to its images, "
            f"{self.control_response.mean():.3g} to those for random voxels (p {self.p:.2g})"
        )
        if self.natural_response.size:
            text += f", above {self.percentile:.0f} % of natural images"
        return text

    def plot(self) -> Figure:
        """Images, control images, and responses of this and of all regions."""
        from neurofm.reconstruct.drawings import plot_region_images

        return plot_region_images(self)


def optimal_images(
    make: Callable[[Bool[np.ndarray, " voxel"]], Float[Tensor, "image 3 height width"]],
    respond: Callable[[Tensor], Tensor],
    regions: Mapping[str, Bool[np.ndarray, " voxel"]],
    *,
    natural: Float[Tensor, "natural 3 height width"] | None = None,
    n_controls: int = 19,
    seed: int = 0,
) -> list[RegionImages]:
    """Make images for regions and for random voxels, and measure the regions' responses again.

    Args:
        make: A mask of voxels to images, 0 to 1: a decoder of `region_activity`, or `synthesise`.
        respond: Images to responses, `image voxel`. Not the encoder that guided the synthesis: an
            independent one (other stimuli, another network), the brain itself, or in a simulation
            the truth. What an encoder guided is no evidence of what the brain does.
        regions: Mask of each.
        natural: Images that people saw, for comparison.
        n_controls: Random sets of voxels per region; the smallest p is 1 / (n_controls + 1).
        seed: Of the sets.
    """
    if n_controls < 1:
        raise ValueError(f"optimal_images: {n_controls} controls, expected at least one.")
    rng = np.random.default_rng(seed)
    found = []
    everyone: dict[str, np.ndarray] = {name: np.asarray(mask) for name, mask in regions.items()}
    for name, mask in regions.items():
        region = np.asarray(mask)
        if region.dtype != bool or not region.any():
            raise ValueError(f"optimal_images: region {name!r} is empty or no mask of bool.")
        images = make(region)
        response = _mean_response(respond, images, region)
        seen = np.empty(0) if natural is None else _mean_response(respond, natural, region)
        controls, control = [], []
        for _ in range(n_controls):
            drawn = np.zeros_like(region)
            drawn[rng.choice(len(region), int(region.sum()), replace=False)] = True
            made = make(drawn)
            controls.append(made[0])
            control.append(float(_mean_response(respond, made, region).mean()))
        luck = np.array(control)
        p = (np.sum(luck >= response.mean() - 1e-12) + 1) / (n_controls + 1)
        usual = {} if natural is None else _over(respond, natural, everyone)
        found.append(
            RegionImages(
                region=name,
                images=images,
                response=response,
                control_images=torch.stack(controls),
                control_response=luck,
                natural_response=seen,
                p=float(p),
                tuning={k: float(v.mean()) for k, v in _over(respond, images, everyone).items()},
                tuning_natural={k: (float(v.mean()), float(v.std())) for k, v in usual.items()},
            )
        )
    return found


def _over(
    respond: Callable[[Tensor], Tensor], images: Tensor, regions: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Mean response of each region to each image."""
    return {name: _mean_response(respond, images, mask) for name, mask in regions.items()}


def _mean_response(
    respond: Callable[[Tensor], Tensor], images: Tensor, region: np.ndarray
) -> np.ndarray:
    with torch.no_grad():
        response = respond(images)
    if response.ndim != 2 or response.shape[1] != len(region):
        raise ValueError(
            f"optimal_images: responses of shape {tuple(response.shape)} for a mask of "
            f"{len(region)} voxels."
        )
    return response[:, torch.from_numpy(region)].double().mean(1).cpu().numpy()
