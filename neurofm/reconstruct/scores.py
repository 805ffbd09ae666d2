"""How good reconstructed images are, each score beside what images of something else get.

Source: Ozcelik & VanRullen 2023 (PixCorr, SSIM, two-way identification); see `neurofm.metrics` for
the definitions.
Axes: stimulus, 3 height width (0 to 1).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurofm.metrics import pixel_correlation, ssim
from neurofm.metrics.retrieval import two_way_by_prediction
from neurofm.shapes import Float
from neurofm.stats import bootstrap_interval
from neurofm.types import Result


def score_images(
    seen: Float[Tensor, "stimulus 3 height width"],
    made: Float[Tensor, "image 3 height_ width_"],
    *,
    features: dict[str, Callable[[Tensor], Tensor]] | None = None,
    size: int | None = None,
    n_resamples: int = 2000,
) -> list[Result]:
    """PixCorr, SSIM and two-way identification by pixels and by networks.

    Args:
        seen: What people saw.
        made: The reconstruction of each.
        features: Networks by name: images to `stimulus ...`. Published are AlexNet (layers 2 and
            5), Inception v3 and CLIP; what is identified depends on what a network sees.
        size: Both are resized to it (bicubic; published 425); the size of `seen` if not given.
        n_resamples: Of the bootstrap over stimuli.

    Returns:
        One result per score with its 95 % interval over stimuli (of one person: they say nothing
        of other people) and chance: two-way 0.5, others the mean over all wrong pairs that come
        from shifting one set against the other. `detail["values"]` has a number per stimulus.

    Raises:
        ValueError: Other numbers of images, fewer than three, or values that are not finite.
    """
    if len(seen) != len(made) or len(seen) < 3:
        raise ValueError(
            f"score_images: {len(seen)} seen and {len(made)} made images; expected one each, and "
            "at least three."
        )
    for name, images in (("seen", seen), ("made", made)):
        if not torch.isfinite(images).all():
            raise ValueError(f"score_images: the images {name} hold values that are not finite.")
    side = size or seen.shape[-1]
    a, b = (_array(_resized(images, side)) for images in (seen, made))
    results = []
    for name, metric in (("PixCorr", pixel_correlation), ("SSIM", ssim)):
        n = len(a)
        shifts = sorted({1, n // 3 or 1, n // 2 or 1, n - 1})
        wrong = float(np.nanmean([metric(a, np.roll(b, k, axis=0)) for k in shifts]))
        results.append(_result(name, np.nan_to_num(metric(a, b)), wrong, n_resamples))
    looks: dict[str, Callable[[Tensor], Tensor]] = {"pixels": lambda x: _resized(x, side)}
    for name, look in (looks | (features or {})).items():
        with torch.no_grad():
            true, guess = (
                look(images).flatten(1).double().cpu().numpy() for images in (seen, made)
            )
        found = two_way_by_prediction(true, guess)
        results.append(_result(f"two-way, {name}", found, 0.5, n_resamples))
    return results


def _result(name: str, values: np.ndarray, chance: float, n_resamples: int) -> Result:
    low, high = bootstrap_interval(values, n_resamples=n_resamples)
    return Result(
        name=name,
        value=float(values.mean()),
        low=low,
        high=high,
        n=len(values),
        chance=chance,
        detail={"values": values.tolist()},
    )


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def _array(images: Tensor) -> np.ndarray:
    return images.detach().permute(0, 2, 3, 1).cpu().numpy()
