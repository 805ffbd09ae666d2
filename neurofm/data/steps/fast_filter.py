"""Zero-phase FIR filters and a change of rate in one pass through the frequency domain.

Several symmetric filters, applied one after the other, are one filter: the product of their
frequency responses. A Fourier change of rate keeps the low part of the spectrum. So a block of
samples is transformed once, multiplied, cut or padded, and transformed back at the new rate. Blocks
overlap by the filters' length (overlap-save), which bounds the memory and keeps the transforms in
the processor's cache; channels go through in groups, because a transform of several channels at
once uses the processor's vectors.

The clock is exact: a block's length is a multiple of the ratio's denominator, so that sample k of
the result lies at k / new rate, over hours.

Axes: channel time.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import scipy.fft

from neurofm.shapes import Float

_GROUP = 8  # channels transformed at once, fewer where a block is the whole of a long recording
_VALUES = 2**24  # samples in a group of blocks: 64 MB
_MARGIN = 2000  # samples beyond the filters' reach, over which what is left of a sinc dies away
_TARGETS = tuple(2**k for k in range(14, 19))  # block lengths tried; longer ones leave the cache
# Above this gain at the Nyquist frequency the cut of the spectrum rings further than a block.
_SHARP = 0.01


def exact_ratio(old: float, new: float, n: int) -> Fraction:
    """The shortest ratio of the rates whose error over n samples is below 1e-4 samples."""
    exact = Fraction(new) / Fraction(old)
    limit = 1
    while abs(exact - (ratio := exact.limit_denominator(limit))) * n > Fraction(1, 10_000):
        limit *= 2
    return ratio


def filter_resample(
    data: Float[np.ndarray, "channel time"],
    taps: Sequence[np.ndarray],
    ratio: Fraction = Fraction(1),
) -> Float[np.ndarray, "channel new_time"]:
    """Filter, then change the rate; float32 in and out, every channel for itself.

    Both ends are continued by a point reflection, as MNE does it, for as long as the filters reach.

    Args:
        taps: Symmetric FIR filters at the old rate, each of its own odd length; none to change the
            rate only.
        ratio: New rate over old rate.
    """
    n = data.shape[1]
    fade = _MARGIN if ratio != 1 else 0
    reach = sum(len(item) // 2 for item in taps) + fade
    size, overlap = _blocks(n, reach, ratio, taps)
    gain = _response(taps, size, ratio)
    new_size = int(size * ratio)
    hop = size - 2 * overlap
    result = np.empty((len(data), round(n * ratio)), dtype=np.float32)
    skip = int(overlap * ratio)
    together = max(1, min(_GROUP, _VALUES // size))
    for first in range(0, len(data), together):
        group = np.ascontiguousarray(data[first : first + together], dtype=np.float32)
        # float32 keeps seven digits: take an offset out before, put it back behind.
        offset = group[:, :: max(n // 4096, 1)].mean(axis=1, keepdims=True)
        block = np.empty((len(group), size), dtype=np.float32)
        for start in range(0, n, hop):
            _fill(block, group, offset, start - overlap, reach, fade)
            spectrum = scipy.fft.rfft(block)[:, : len(gain)]
            spectrum *= gain
            new = scipy.fft.irfft(spectrum, new_size, overwrite_x=True)
            at = int(start * ratio)
            length = min(int(hop * ratio), result.shape[1] - at)
            if length > 0:
                into = result[first : first + together, at : at + length]
                np.add(new[:, skip : skip + length], offset * _dc(taps), out=into)
    return result


def _dc(taps: Sequence[np.ndarray]) -> np.float32:
    return np.float32(np.prod([item.sum() for item in taps]))


def _blocks(n: int, reach: int, ratio: Fraction, taps: Sequence[np.ndarray]) -> tuple[int, int]:
    """Length of a block, and of its overlap on each side: multiples of the ratio's denominator."""
    unit = ratio.denominator
    overlap = -(-reach // unit) * unit

    def length(target: int) -> int:
        return unit * scipy.fft.next_fast_len(-(-target // unit), real=True)

    whole = length(n + 2 * overlap)
    if _is_sharp(ratio, taps):
        return whole, overlap
    sizes = [size for t in _TARGETS if (size := length(t)) >= 4 * overlap] or [length(4 * overlap)]
    # A transform costs a little more per sample the longer it is.
    best = min(sizes, key=lambda size: size * (10 + np.log2(size)) / (size - 2 * overlap))
    return min(best, whole), overlap


def _is_sharp(ratio: Fraction, taps: Sequence[np.ndarray]) -> bool:
    """Whether the change of rate cuts the spectrum where the filters let it through."""
    if ratio == 1:
        return False
    edge = min(ratio, Fraction(1))  # of the old Nyquist frequency
    gain = 1.0
    for item in taps:
        distance = np.arange(-(len(item) // 2), len(item) // 2 + 1)
        gain *= abs(float(item @ np.cos(np.pi * float(edge) * distance)))
    return gain > _SHARP


def _response(taps: Sequence[np.ndarray], size: int, ratio: Fraction) -> np.ndarray:
    """float32 gain of the kept part of the spectrum, with the scale of the shorter inverse."""
    gain = np.full(size // 2 + 1, float(ratio))
    for item in taps:
        half = len(item) // 2
        centred = np.zeros(size)
        centred[: half + 1] = item[half:]
        if half:
            centred[-half:] = item[:half]
        gain *= scipy.fft.rfft(centred).real
    new_size = int(size * ratio)
    gain = gain[: min(size, new_size) // 2 + 1]
    if new_size < size and new_size % 2 == 0:
        gain[-1] *= 2  # the negative frequency folds onto it
    elif new_size > size and size % 2 == 0:
        gain[-1] /= 2
    return gain.astype(np.float32)


def _fill(
    block: np.ndarray, data: np.ndarray, offset: np.ndarray, start: int, reach: int, fade: int
) -> None:
    """Samples `start` to `start + size`, less the offset, the ends continued."""
    n, stop = data.shape[1], start + block.shape[1]
    low, high = max(start, 0), min(stop, n)
    np.subtract(data[:, low:high], offset, out=block[:, low - start : high - start])
    if start < 0:
        block[:, :-start] = _beyond(data, offset, -start, reach, fade)[:, ::-1]
    if stop > n:
        block[:, n - start :] = _beyond(data[:, ::-1], offset, stop - n, reach, fade)


def _beyond(data: np.ndarray, offset: np.ndarray, length: int, reach: int, fade: int) -> np.ndarray:
    """`length` samples before the first one, nearest first: reflected, the last `fade` fading."""
    edge = data[:, :1] - offset
    inner = min(length, reach, data.shape[1] - 1)
    result = np.zeros((len(data), length), dtype=np.float32)
    result[:, :inner] = 2 * edge - (data[:, 1 : inner + 1] - offset)
    fade = min(inner, fade)
    if fade:
        ramp = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, fade + 1) / (fade + 1))
        result[:, inner - fade : inner] *= ramp.astype(np.float32)
    return result
