"""What TFM-Tokenizer does to a window before its first layer.

The original's loader resamples each segment to 200 Hz by its Fourier transform and divides each
channel by the 95th percentile of its absolute values. The scaling is part of the model here and
always applied, so units cancel. Resampling belongs to the preparation of the data (`Resample`
filters first); `fourier_resample` repeats the original's.

Source: Jathurshan0330/TFM-Tokenizer (MIT), arXiv 2502.16060.
Axes: row = one channel of one window; bin = 1 Hz from 0; frame = 1 s, every 0.5 s.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.shapes import Float
from neurofm.tokenizers.checks import check_batch
from neurofm.units import Kind

SFREQ = 200.0  # Hz
WINDOW = 200  # samples of a frame
HOP = 100  # samples between frames
QUANTILE = 0.95
EPS = 1e-8


def fourier_resample(x: Float[Tensor, "... time"], n: int) -> Float[Tensor, "... sample"]:
    """Resample a whole segment to `n` samples by cutting or padding its spectrum.

    The segment is treated as periodic: a jump between its ends rings at both.
    """
    before = x.shape[-1]
    if n == before:
        return x
    spectrum = torch.fft.rfft(x)
    fewer = min(n, before)
    kept = spectrum[..., : fewer // 2 + 1].clone()
    if fewer % 2 == 0:
        # The bin at half the lower rate stands for two when cut, is split in two when padded.
        kept[..., -1] *= 2 if n < before else 0.5
    return torch.fft.irfft(kept, n) * (n / before)


def percentile_scale(x: Float[Tensor, "... time"]) -> Float[Tensor, "... time"]:
    """Divide each channel by the 95th percentile of |x| plus 1e-8.

    Dimensionless. The constant is felt only by signals near 1e-8, as EEG in volts is and EEG in
    working units is not. A flat channel stays zero.
    """
    amplitude = x.abs()
    n = x.shape[-1]
    place = QUANTILE * (n - 1)
    low = int(place)
    below = amplitude.kthvalue(low + 1).values
    above = amplitude.kthvalue(min(low + 2, n)).values
    return x / (below + (place - low) * (above - below) + EPS).unsqueeze(-1)


def spectrum(x: Float[Tensor, "row time"], n_bins: int) -> Float[Tensor, "row bin frame"]:
    """Magnitudes of the short-time Fourier transform: Hann window, no padding at the ends."""
    window = torch.hann_window(WINDOW, device=x.device, dtype=x.dtype)
    frames = x.unfold(-1, WINDOW, HOP) * window
    return torch.fft.rfft(frames)[..., :n_bins].abs().transpose(1, 2)


def with_magnitude(
    x: Float[Tensor, "row time"], magnitude: Float[Tensor, "row bin frame"]
) -> tuple[Float[Tensor, "row frame sample"], Float[Tensor, "row frame sample"]]:
    """Frames of a signal through the Hann window, and the same with other magnitudes.

    Frequencies beyond the bins are left out of both.
    """
    window = torch.hann_window(WINDOW, device=x.device, dtype=x.dtype)
    found = torch.fft.rfft(x.unfold(-1, WINDOW, HOP) * window)[..., : magnitude.shape[1]]
    other = torch.polar(magnitude.transpose(1, 2).to(x.dtype), found.angle())
    return torch.fft.irfft(found, WINDOW), torch.fft.irfft(other, WINDOW)


def n_frames(samples: int) -> int:
    """Frames of a window; samples behind the last whole frame are not seen."""
    return (samples - WINDOW) // HOP + 1


def packed_signal(
    batch: Batch, *, kinds: Sequence[Kind], resample: bool
) -> Float[Tensor, "row time"]:
    """Scaled signal at 200 Hz of the real channels of all windows, one after the other.

    Args:
        resample: Bring another rate to 200 Hz as the original's loader does, instead of refusing.

    Raises:
        ValueError: Rate, kind of channel, length or values are not what the model expects.
    """
    x, mask = batch.x, batch.channel_mask
    same_rate = abs(batch.sfreq - SFREQ) <= 1e-3 * SFREQ
    if not same_rate and not resample:
        raise ValueError(
            f"TFMTokenizer: the batch has {batch.sfreq:g} Hz, expected {SFREQ:g} Hz. Prepare the "
            f"data with Resample(sfreq={SFREQ:g}), or set `resample: true` to resample each window "
            "as the original does."
        )
    samples = x.shape[-1] if same_rate else round(x.shape[-1] / batch.sfreq * SFREQ)
    if samples < WINDOW:
        raise ValueError(
            f"TFMTokenizer: windows of {x.shape[-1] / batch.sfreq:g} s are shorter than a frame. "
            f"Set window_s to at least {WINDOW / SFREQ:g}."
        )
    check_batch(batch, name="TFMTokenizer", kinds=kinds)
    rows = x[mask]
    if not same_rate:
        rows = fourier_resample(rows, samples)
    return percentile_scale(rows.float())
