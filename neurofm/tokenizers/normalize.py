"""Scale and geometry of a batch as BrainTokenizer was trained on them.

Source: OpenTSLab/BrainOmni, preprocessing. Its constants are in SI (volts, tesla, tesla per metre);
here they are converted to the working units of `neurofm.units`.
Axes: batch channel time; three position axes are metres before, dimensionless after.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurofm.batch import Batch
from neurofm.shapes import Bool, Float, Int
from neurofm.units import UNITS, Kind

MEG = (Kind.MAG, Kind.GRAD, Kind.AXIAL)
# Added to the standard deviation of a kind, in SI: beside EEG in volts this is not negligible.
EPS_SI = {Kind.MAG: 1e-13, Kind.GRAD: 1e-13, Kind.AXIAL: 1e-13}
EPS_SI_ELECTRODE = 1e-5


def _of(kind: Tensor, kinds: tuple[Kind, ...]) -> Tensor:
    return torch.isin(kind, torch.tensor([int(k) for k in kinds], device=kind.device))


def normalize_amplitude(
    x: Float[Tensor, "batch channel time"],
    kind: Int[Tensor, "batch channel"],
    channel_mask: Bool[Tensor, "batch channel"],
) -> Float[Tensor, "batch channel time"]:
    """Per window and kind: subtract the mean over channels at every sample, divide by one scale.

    The scale is the standard deviation over all channels and samples of that kind plus a constant
    (10 µV for electrodes, 100 fT for magnetometers and axial gradiometers, 1 fT/cm for planar
    gradiometers), so relative amplitudes between channels remain.

    Args:
        x: Working units.
        kind: `units.Kind`; every electrode kind has the constant of EEG.

    Returns:
        Dimensionless; zero where `channel_mask` is False.
    """
    out = torch.zeros_like(x)
    for value in kind[channel_mask].unique().tolist():
        unit = UNITS[Kind(value)]
        eps = EPS_SI.get(Kind(value), EPS_SI_ELECTRODE) * unit.per_si
        chosen = ((kind == value) & channel_mask).unsqueeze(-1)
        count = chosen.sum(1, keepdim=True).clamp(min=1)
        part = torch.where(chosen, x, 0)
        part = torch.where(chosen, part - part.sum(1, keepdim=True) / count, 0)
        # The mean over channels is zero at every sample, so the variance is the mean square.
        square = part.square().sum((1, 2), keepdim=True) / (count * x.shape[-1])
        # A lone channel is its own mean: zero, whose square root has no finite gradient.
        out = out + part / (square.clamp(min=1e-12).sqrt() + eps)
    return out


def normalize_positions(
    position: Float[Tensor, "batch channel 3"],
    kind: Int[Tensor, "batch channel"],
    known: Bool[Tensor, "batch channel"],
) -> Float[Tensor, "batch channel 3"]:
    """Centre each window's electrodes, and apart from them its MEG coils, on zero with one scale.

    Args:
        position: Metres.
        known: True for a real channel whose position is known.

    Returns:
        Positions divided by sqrt(3 x mean squared distance from their centre); zeros where unknown.
    """
    out = torch.zeros_like(position)
    meg = _of(kind, MEG)
    for group in (known & ~meg, known & meg):
        chosen = group.unsqueeze(-1)
        count = chosen.sum(1, keepdim=True).clamp(min=1)
        centred = torch.where(chosen, position, 0)
        centred = torch.where(chosen, centred - centred.sum(1, keepdim=True) / count, 0)
        square = centred.square().sum((1, 2), keepdim=True) / count
        out = out + centred / (3 * square).clamp(min=1e-12).sqrt()
    return out


def sensor_type(kind: Int[Tensor, "batch channel"]) -> Int[Tensor, "batch channel"]:
    """0 electrode, 1 magnetometer, 2 planar or axial gradiometer."""
    gradiometer = _of(kind, (Kind.GRAD, Kind.AXIAL))
    return (kind == Kind.MAG).long() + 2 * gradiometer.long()


def geometry(batch: Batch) -> Float[Tensor, "batch channel 6"]:
    """Normalized position and, for MEG coils, orientation of each channel."""
    known = batch.has_position & batch.channel_mask
    position = normalize_positions(batch.position, batch.kind, known)
    meg = (_of(batch.kind, MEG) & batch.channel_mask).unsqueeze(-1)
    return torch.cat([position, torch.where(meg, batch.orientation, 0)], -1).float()
