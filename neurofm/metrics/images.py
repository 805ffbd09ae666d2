"""How well reconstructed images agree with the ones that were seen, pixel by pixel.

Source: Ozcelik & VanRullen 2023 (both at 425 x 425 pixels); Wang et al. 2004 (structural
similarity), with the window, covariance and crop of scikit-image's Gaussian form.
Axes: image; height, width; colour = red, green, blue from 0 to 1, last.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d

from neurofm.metrics.signals import pearson_r
from neurofm.shapes import Float

_GREY = np.array([0.2125, 0.7154, 0.0721])
_SIGMA, _RADIUS = 1.5, 5  # a window of 11 pixels: 3.5 standard deviations to either side


def grey(
    images: Float[np.ndarray, "image height width colour"],
) -> Float[np.ndarray, "image height width"]:
    """Luminance, float64."""
    return np.asarray(images, dtype=np.float64) @ _GREY


def pixel_correlation(
    true: Float[np.ndarray, "image height width *colour"],
    predicted: np.ndarray,
) -> Float[np.ndarray, " image"]:
    """Pearson r over all pixels and colours of each image (PixCorr); NaN for a uniform image.

    Signed: a negative of the image has -1. (Taking absolute values inflates the mean.)
    """
    a, b = _images("pixel_correlation", true, predicted)
    return pearson_r(a.reshape(len(a), -1), b.reshape(len(b), -1))


def ssim(
    true: Float[np.ndarray, "image height width *colour"],
    predicted: np.ndarray,
    *,
    data_range: float | int = 1.0,
) -> Float[np.ndarray, " image"]:
    """Structural similarity of grey images, 1 = equal.

    Gaussian window of 11 x 11 pixels (sigma 1.5), population covariance, K1 = 0.01, K2 = 0.03;
    mean of the map without the 5 pixels at each border.

    Args:
        true: Grey, or red, green and blue in the last axis, turned grey here.
        data_range: Largest minus smallest possible value.
    """
    a, b = _images("ssim", true, predicted)
    if a.ndim == 4:
        a, b = grey(a), grey(b)
    if min(a.shape[1:]) <= 2 * _RADIUS:
        raise ValueError(
            f"ssim: images of {a.shape[1]} x {a.shape[2]} pixels; expected 11 x 11 or more."
        )
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    inside = slice(_RADIUS, -_RADIUS)
    return (above / below)[:, inside, inside].mean((1, 2))


def _blur(x: np.ndarray) -> np.ndarray:
    weight = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    weight /= weight.sum()
    return correlate1d(correlate1d(x, weight, axis=1), weight, axis=2)


def _images(name: str, true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if a.shape != b.shape or a.ndim not in (3, 4) or (a.ndim == 4 and a.shape[-1] != 3):
        raise ValueError(
            f"{name}: true has shape {a.shape} and predicted {b.shape}; expected equal image, "
            "height, width and, for colour, 3 in the last axis."
        )
    return a, b
