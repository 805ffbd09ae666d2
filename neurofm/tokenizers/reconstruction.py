"""How well a window was reconstructed: in time, in correlation, in amplitude and phase spectrum.

Source: the stage-1 objective of OpenTSLab/BrainOmni.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurofm.shapes import Float


def standardize(
    windows: Float[Tensor, "... sample"],
) -> Float[Tensor, "... sample"]:
    """Each window minus its mean, divided by its standard deviation."""
    centred = windows - windows.mean(-1, keepdim=True)
    return centred / (windows.std(-1, keepdim=True) + 1e-6)


def reconstruction_losses(
    target: Float[Tensor, "... sample"], output: Float[Tensor, "... sample"]
) -> dict[str, Tensor]:
    """Means over windows: absolute error "time", correlation "pcc", "amplitude" and "phase" error.

    Spectra are of Hamming-windowed signals, with orthonormal scaling.
    """
    target, output = target.float(), output.float()
    n = target.shape[-1]
    a = target - target.mean(-1, keepdim=True)
    b = output - output.mean(-1, keepdim=True)
    covariance = (a * b).sum(-1) / (n - 1)
    correlation = covariance / (target.std(-1) * output.std(-1) + 1e-6)
    taper = torch.hamming_window(n, device=target.device)
    spectra = torch.fft.rfft(torch.stack([target, output]) * taper, norm="ortho")
    amplitude, phase = spectra.abs(), spectra.angle()
    return {
        "time": (target - output).abs().mean(),
        "pcc": correlation.mean(),
        "amplitude": (amplitude[0] - amplitude[1]).abs().mean(),
        "phase": (phase[0] - phase[1]).abs().mean(),
    }
