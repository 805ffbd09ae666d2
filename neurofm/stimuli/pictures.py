"""What can be computed of pictures without any network: contrast energy, colour, light, spectra.

Pictures are `stimulus 3 height width` (or one channel, grey), numbers from 0 to 1, or integers from
0 to 255. Frequencies are cycles per picture (along its height). All features are float32, a row per
picture; nothing is scaled over pictures, so features of one picture do not depend on others.

Source: Field 1987 (log-Gabor filters); Kay et al. 2008 (contrast energy as features of voxels);
Oliva & Torralba 2001 (energy spectra of scenes).
Axes: stimulus, 3 height width; feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurofm.shapes import Float

CYCLES = (2.0, 4.0, 8.0, 16.0)
_WIDTH = 0.55  # of a filter: standard deviation of log frequency, about 1.5 octaves in all
_BYTES = 64 << 20  # of filter responses worked on at a time
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class GaborLayout:
    """What the columns of `gabor_pyramid` are.

    Args:
        cycles: Per picture.
        orientation: Of the stripes' normal, radians from 0 (along columns) to below pi.
        row: Middle of the cell, 0 (top) to 1.
        column: Middle of the cell, 0 (left) to 1.
    """

    cycles: Float[np.ndarray, " feature"]
    orientation: Float[np.ndarray, " feature"]
    row: Float[np.ndarray, " feature"]
    column: Float[np.ndarray, " feature"]


def as_pictures(images: np.ndarray | Tensor) -> Float[Tensor, "stimulus channel height width"]:
    """Pictures as float32 from 0 to 1.

    Raises:
        ValueError: Another shape, NaN, or numbers outside 0 to 1 that are no integers of a byte.
    """
    x = torch.as_tensor(images)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        hint = " Move the last axis to the second place." if x.ndim == 4 and x.shape[3] == 3 else ""
        raise ValueError(
            f"pictures have shape {tuple(x.shape)}, expected (stimulus, 3 or 1, height, width)."
            f"{hint}"
        )
    if not len(x):
        raise ValueError("there is no picture.")
    if x.dtype == torch.uint8:
        return x.float() / 255
    x = x.float()
    low, high = float(x.min()), float(x.max())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(
            f"pictures hold numbers from {low:g} to {high:g}, expected 0 to 1. Divide by 255, or "
            "pass bytes (uint8)."
        )
    return x


def load_pictures(paths: Sequence[Path | str], *, size: int) -> np.ndarray:
    """Picture files as `stimulus 3 size size` from 0 to 1; the longer side is cut.

    Raises:
        FileNotFoundError: A file is missing; the first is named, and how many there are.
    """
    from PIL import Image

    missing = [str(path) for path in paths if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"load_pictures: {len(missing)} of {len(paths)} files are missing, such as "
            f"{missing[0]}."
        )
    found = np.empty((len(paths), 3, size, size), dtype=np.float32)
    for i, path in enumerate(paths):
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            picture = picture.crop((left, top, left + side, top + side))
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
            found[i] = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1) / 255
    return found


def grey(images: np.ndarray | Tensor) -> Float[Tensor, "stimulus height width"]:
    """Luminance, by the weights of ITU-R BT.601."""
    x = as_pictures(images)
    if x.shape[1] == 1:
        return x[:, 0]
    return torch.einsum("schw,c->shw", x, torch.tensor(_GREY))


def luminance(images: np.ndarray | Tensor, *, grid: int = 4) -> Float[np.ndarray, "stimulus cell"]:
    """Mean light of every cell of a grid, by rows; then its contrast (standard deviation)."""
    x = grey(images)[:, None]
    mean = _cells(x, grid)
    spread = (_cells(x**2, grid) - mean**2).clamp(min=0).sqrt()
    return torch.cat([mean[:, 0], spread[:, 0]], dim=1).numpy()


def colour(images: np.ndarray | Tensor, *, grid: int = 4) -> Float[np.ndarray, "stimulus feature"]:
    """Light, red against green and blue against yellow, each by cell.

    Raises:
        ValueError: Grey pictures: they have no colour.
    """
    x = as_pictures(images)
    if x.shape[1] == 1:
        raise ValueError("colour: pictures have one channel; use luminance.")
    red, green, blue = x.unbind(dim=1)
    opponent = torch.stack([x.mean(dim=1), red - green, blue - (red + green) / 2], dim=1)
    return _cells(opponent, grid).flatten(1).numpy()


def gabor_pyramid(
    images: np.ndarray | Tensor,
    *,
    cycles: Sequence[float | int] = CYCLES,
    orientations: int = 4,
    grid: int = 8,
    compress: bool = True,
) -> Float[np.ndarray, "stimulus feature"]:
    """Contrast energy by spatial frequency, orientation and place.

    The modulus of a quadrature pair of log-Gabor filters, averaged over cells: as many along a side
    as the filter has cycles, at most `grid`. `gabor_layout` says what the columns are.

    Args:
        cycles: Centres of the filters, per picture.
        compress: Take log(1 + 20 x energy), as strong contrasts saturate.

    Raises:
        ValueError: A frequency that the picture cannot hold (above half its pixels).
    """
    x = grey(images)
    height, width = x.shape[1:]
    _check_cycles(cycles, min(height, width))
    filters = _log_gabors(height, width, cycles, orientations)
    x = x - x.mean(dim=(1, 2), keepdim=True)
    step = max(1, _BYTES // (8 * height * width * orientations))
    parts = []
    for some in x.split(step):
        spectrum = torch.fft.fft2(some)[:, None]
        columns = []
        for k, cells in enumerate(_sides(cycles, grid)):
            energy = torch.fft.ifft2(spectrum * filters[k]).abs()
            columns.append(_cells(energy, cells).flatten(1))
        parts.append(torch.cat(columns, dim=1))
    energy = torch.cat(parts)
    return (torch.log1p(20 * energy) if compress else energy).numpy()


def gabor_layout(
    *, cycles: Sequence[float | int] = CYCLES, orientations: int = 4, grid: int = 8
) -> GaborLayout:
    """What the columns of `gabor_pyramid` with these arguments are."""
    rows: list[tuple[float, float, float, float]] = []
    for f, cells in zip(cycles, _sides(cycles, grid), strict=True):
        at = (np.arange(cells) + 0.5) / cells
        rows += [
            (float(f), np.pi * o / orientations, y, x)
            for o in range(orientations)
            for y in at
            for x in at
        ]
    table = np.array(rows)
    return GaborLayout(table[:, 0], table[:, 1], table[:, 2], table[:, 3])


def fourier_energy(
    images: np.ndarray | Tensor, *, radial: int = 8, orientations: int = 8
) -> Float[np.ndarray, "stimulus feature"]:
    """Log of the mean power in bins of frequency (octave-like, from 1 cycle on) and orientation.

    Raises:
        ValueError: Bins so narrow that one holds no frequency.
    """
    x = grey(images)
    height, width = x.shape[1:]
    # Without a window the edges of a picture would be its strongest contour.
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(
        width, periodic=False
    )
    x = (x - x.mean(dim=(1, 2), keepdim=True)) * window
    power = torch.fft.fft2(x).abs() ** 2 / (window**2).sum()
    y, z = _frequencies(height, width)
    radius, angle = torch.hypot(y, z), torch.remainder(torch.atan2(y, z), torch.pi)
    edges = torch.logspace(0, np.log2(min(height, width) / 2), radial + 1, base=2.0)
    ring = torch.bucketize(radius, edges[1:-1])
    ring = torch.where((radius >= 1) & (radius <= edges[-1]), ring, -1)
    sector = torch.remainder(torch.round(angle / torch.pi * orientations), orientations).long()
    index = torch.where(ring >= 0, ring * orientations + sector, radial * orientations).flatten()
    counts = torch.bincount(index, minlength=radial * orientations + 1)[:-1]
    if bool((counts == 0).any()):
        raise ValueError(
            f"fourier_energy: {radial} x {orientations} bins, of which {int((counts == 0).sum())} "
            f"hold no frequency of pictures of {height} x {width}. Use fewer bins."
        )
    sums = torch.zeros(len(x), radial * orientations + 1)
    sums.index_add_(1, index, power.flatten(1))
    return torch.log(sums[:, :-1] / counts + 1e-8).numpy()


def _sides(cycles: Sequence[float | int], grid: int) -> Iterator[int]:
    for f in cycles:
        yield int(min(max(round(f), 1), grid))


def _cells(x: Float[Tensor, "stimulus kind height width"], grid: int) -> Tensor:
    """stimulus, kind, cell."""
    return torch.nn.functional.adaptive_avg_pool2d(x, grid).flatten(2)


def _frequencies(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Cycles per picture along rows and columns."""
    y = torch.fft.fftfreq(height)[:, None] * height
    x = torch.fft.fftfreq(width)[None] * height  # both in cycles per height
    return y.expand(height, width), x.expand(height, width)


def _check_cycles(cycles: Sequence[float | int], pixels: int) -> None:
    if not cycles or min(cycles) <= 0 or max(cycles) > pixels / 2:
        raise ValueError(
            f"gabor_pyramid: {list(cycles)} cycles in a picture of {pixels} pixels; expected above "
            f"0 and at most {pixels / 2:g}."
        )


def _log_gabors(
    height: int, width: int, cycles: Sequence[float | int], orientations: int
) -> Float[Tensor, "scale orientation height width"]:
    """Filters on one side of the spectrum, so that a response is a quadrature pair."""
    y, x = _frequencies(height, width)
    radius = torch.hypot(y, x)
    radius[0, 0] = 1.0
    angle = torch.atan2(y, x)
    centre = torch.arange(orientations) * torch.pi / orientations
    apart = angle - centre[:, None, None]
    apart = torch.atan2(torch.sin(apart), torch.cos(apart))
    sector = torch.exp(-0.5 * (apart / (torch.pi / orientations / 1.5)) ** 2)
    filters = []
    for f in cycles:
        ring = torch.exp(-0.5 * (torch.log(radius / f) / _WIDTH) ** 2)
        ring[0, 0] = 0.0
        filters.append(2 * ring * sector)
    return torch.stack(filters)
