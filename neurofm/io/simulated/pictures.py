"""Pictures of objects on natural-looking grounds, drawn from a name: nothing lies on disk.

The ground has the 1/f spectrum of natural scenes in three correlated colours. On it lies an object:
its category says its outline (a sum of radial harmonics), colour and texture (a grating); the
exemplar says where it lies, how large and how turned it is. `local_energy` and `local_colour` are
what early visual areas could see of a picture, `Eye.embed` a code of the whole picture with few
numbers, uncorrelated over pictures.

Source: Field 1987 (spectra of natural scenes, log-Gabor filters).
Axes: stimulus, 3 height width (red, green, blue; 0 to 1); place = cell of a square grid, by rows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import numpy as np
from scipy import fft

from neurofm.io.simulated.noise import seeded
from neurofm.shapes import Float

ORIENTATIONS = 4
CYCLES = (0.06, 0.14, 0.28)  # of the filters, per pixel of a picture of 64
_REFERENCE = 192  # pictures that say what is usual
_NAME = re.compile(r"category-(\d+)_(\d+)")


def picture_name(category: int, exemplar: int) -> str:
    """How a picture is called: `category-03_0017`."""
    return f"category-{category:02d}_{exemplar:04d}"


def category_of(name: str) -> str:
    """`category-03` of `category-03_0017`."""
    return name.partition("_")[0]


def draw_pictures(
    names: Sequence[str], *, seed: int = 0, size: int = 64
) -> Float[np.ndarray, "stimulus 3 height width"]:
    """Pictures by name, always the same for the same seed; 0 to 1.

    Raises:
        ValueError: A name that `picture_name` does not make, or a size below 16 pixels.
    """
    if size < 16:
        raise ValueError(f"draw_pictures: size {size} pixels, expected at least 16.")
    pictures = np.empty((len(names), 3, size, size), dtype=np.float32)
    for i, name in enumerate(names):
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"draw_pictures: no picture {name!r}; names look like {picture_name(3, 17)!r}."
            )
        pictures[i] = _draw(seed, int(match[1]), int(match[2]), size)
    return pictures


def _draw(seed: int, category: int, exemplar: int, size: int) -> np.ndarray:
    look, own = seeded(seed, "category", category), seeded(seed, "exemplar", category, exemplar)
    harmonics = 0.28 * look.standard_normal(4) / np.arange(1, 5) ** 0.5
    colour = look.uniform(0.1, 0.9, 3)
    waves, contrast = look.uniform(3, 14), look.uniform(0.1, 0.5)
    picture = _ground(own, size)
    row, column = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")
    at = own.uniform(0.3, 0.7, 2)
    radius, turn = own.uniform(0.16, 0.28), own.uniform(-0.5, 0.5)
    y, x = row - at[0], column - at[1]
    angle = np.arctan2(y, x) + turn
    outline = 1 + sum(a * np.cos((k + 2) * angle) for k, a in enumerate(harmonics))
    edge = 1.5 / size
    inside = np.clip((radius * np.clip(outline, 0.3, 1.8) - np.hypot(x, y)) / edge, 0, 1)
    along = np.cos(turn) * x + np.sin(turn) * y
    texture = 1 + contrast * np.sin(2 * np.pi * waves * along + own.uniform(0, 2 * np.pi))
    light = own.uniform(0.75, 1.15)
    thing = np.clip(light * colour[:, None, None] * texture, 0, 1)
    return (inside * thing + (1 - inside) * picture).astype(np.float32)


def _ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """1/f noise; the colours share most of it."""
    freqs = np.hypot(fft.fftfreq(size)[:, None], fft.rfftfreq(size)[None])
    freqs[0, 0] = 1.0
    slope = rng.uniform(0.9, 1.3)
    pair = rng.standard_normal((2, 3, *freqs.shape))
    spectrum = (pair[0] + 1j * pair[1]) / freqs**slope
    spectrum[:, 0, 0] = 0
    mixed = np.array([[1, 0.3, 0.1], [1, 0, -0.2], [1, -0.3, 0.1]])
    waves = fft.irfft2(np.einsum("ck,kyx->cyx", mixed, spectrum), (size, size))
    waves /= waves.std() + 1e-12
    return np.clip(rng.uniform(0.35, 0.6) + 0.16 * waves, 0, 1)


def local_energy(
    pictures: Float[np.ndarray, "stimulus 3 height width"], *, grid: int = 8
) -> Float[np.ndarray, "stimulus place scale orientation"]:
    """Contrast energy of grey, by place, spatial frequency and orientation (log of 1 + energy)."""
    n, _, height, width = pictures.shape
    grey = pictures.mean(axis=1)
    grey = grey - grey.mean(axis=(1, 2), keepdims=True)
    filters = _filters(height, width)
    found = np.empty((n, grid * grid, len(CYCLES), ORIENTATIONS), dtype=np.float32)
    for lo in range(0, n, 32):
        spectrum = fft.fft2(grey[lo : lo + 32].astype(np.float32))
        for k in range(len(CYCLES)):
            for o in range(ORIENTATIONS):
                # One side of the spectrum: the modulus is the energy of a quadrature pair.
                energy = np.abs(fft.ifft2(spectrum * filters[k, o]))
                found[lo : lo + 32, :, k, o] = np.log1p(20 * _cells(energy, grid))
    return found


def local_colour(
    pictures: Float[np.ndarray, "stimulus 3 height width"], *, grid: int = 8
) -> Float[np.ndarray, "stimulus place opponent"]:
    """Luminance, red against green and blue against yellow, by place."""
    red, green, blue = pictures[:, 0], pictures[:, 1], pictures[:, 2]
    parts = ((red + green + blue) / 3, red - green, blue - (red + green) / 2)
    return np.stack([_cells(part, grid) for part in parts], axis=-1).astype(np.float32)


def _cells(maps: np.ndarray, grid: int) -> np.ndarray:
    """Mean over the cells of a grid: stimulus, place."""
    rows = np.array_split(np.arange(maps.shape[1]), grid)
    columns = np.array_split(np.arange(maps.shape[2]), grid)
    strips = np.stack([maps[:, part].mean(axis=1) for part in rows], axis=1)
    cells = np.stack([strips[:, :, part].mean(axis=2) for part in columns], axis=2)
    return cells.reshape(len(maps), -1)


@functools.lru_cache(maxsize=8)
def _filters(height: int, width: int) -> np.ndarray:
    y, x = fft.fftfreq(height)[:, None], fft.fftfreq(width)[None]
    radius = np.hypot(y, x) * np.array(height / 64.0)
    radius[0, 0] = 1.0
    angle = np.arctan2(y, x)
    filters = np.empty((len(CYCLES), ORIENTATIONS, height, width), dtype=np.float32)
    for k, cycles in enumerate(CYCLES):
        band = np.exp(-0.5 * (np.log(radius / cycles) / 0.45) ** 2)
        band[0, 0] = 0
        for o in range(ORIENTATIONS):
            apart = np.angle(np.exp(1j * (angle - np.pi * o / ORIENTATIONS)))
            filters[k, o] = 2 * band * np.exp(-0.5 * (apart / (np.pi / ORIENTATIONS / 1.5)) ** 2)
    return filters


class Eye:
    """A code of whole pictures, whitened over pictures of the same seed.

    Args:
        seed: Of the pictures.
        size: Of the pictures, pixels.
        dim: Numbers of the code.
        categories: How many there are.
    """

    def __init__(self, *, seed: int = 0, size: int = 64, dim: int = 32, categories: int = 20):
        if not 1 <= dim <= _REFERENCE // 3:
            raise ValueError(f"Eye: dim is {dim}, expected 1 to {_REFERENCE // 3}.")
        self.dim = dim
        names = [picture_name(i % categories, 100_000 + i) for i in range(_REFERENCE)]
        seen = _glance(draw_pictures(names, seed=seed, size=size))
        self._mean, self._scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
        z = (seen - self._mean) / self._scale
        _, values, axes = np.linalg.svd(z, full_matrices=False)
        signs = np.sign(axes[:dim, np.argmax(np.abs(axes[:dim]), axis=1)].diagonal())
        self._axes = (signs[:, None] * axes[:dim]) * (_REFERENCE**0.5 / values[:dim, None])

    def embed(
        self, pictures: Float[np.ndarray, "stimulus 3 height width"]
    ) -> Float[np.ndarray, "stimulus feature"]:
        """The code: about zero mean and unit variance over pictures."""
        z = (_glance(pictures) - self._mean) / self._scale
        return (z @ self._axes.T).astype(np.float32)


@functools.lru_cache(maxsize=8)
def eye(*, seed: int, size: int, dim: int, categories: int) -> Eye:
    """The same `Eye` again without looking at its reference pictures again."""
    return Eye(seed=seed, size=size, dim=dim, categories=categories)


def _glance(pictures: np.ndarray) -> np.ndarray:
    energy = local_energy(pictures, grid=4).reshape(len(pictures), -1)
    colour = local_colour(pictures, grid=4).reshape(len(pictures), -1)
    return np.concatenate([energy, 2 * colour], axis=1).astype(np.float64)
