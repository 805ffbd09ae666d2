"""Evidence in a known place: does a method find the burst that the network uses?

A detector whose weights are written down measures the power of one rhythm in one channel. Windows
of noise get a burst of that rhythm in that channel, for a while. A method that works puts its
evidence there: in that channel, in that stretch of time, in that band.

Source: Yang & Kim 2019 (attributions judged by planted evidence); the design is our own.
Axes: batch channel time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from neurofm.interpret.attribution.aggregation import by_band
from neurofm.interpret.attribution.evidence import Attribution, Function
from neurofm.shapes import Bool, Float

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Method = Callable[..., Attribution]  # method(function, batch, target)


@dataclass(frozen=True)
class PlantedEvidence:
    """How much of the evidence lies where it was planted.

    Args:
        share: Of the magnitude that lies in the planted channel and time.
        chance: Share of the window that is planted.
        auroc: Of magnitudes, planted samples against the others; 0.5 is chance.
        channel_share: Of the magnitude in the planted channel, whenever; NaN without channels.
        band_share: Of the planted channel's magnitude in the planted band; NaN where the method
            has no share by band.
        channel_chance: One over the number of channels.
        mean: Mean magnitude over windows, as the method gave it, channels and times.
        planted: Where it should be.
    """

    share: float
    chance: float
    auroc: float
    channel_share: float
    band_share: float
    channel_chance: float
    mean: Float[np.ndarray, "channel time"]
    planted: Bool[np.ndarray, "channel time"]

    @property
    def found(self) -> bool:
        """Above chance by rank, and at least twice its share."""
        return self.auroc > 0.6 and self.share > 2 * self.chance

    def plot(self) -> Figure:
        """Mean magnitude, the planted place outlined."""
        from neurofm.figures import plot_matrix

        return plot_matrix(
            self.mean,
            title=f"Planted evidence: {self.share:.0%} inside, chance {self.chance:.0%}",
            unit="|logit|",
            xlabel="sample",
            ylabel="channel",
            outlined=self.planted,
            written=False,
        )


class RhythmDetector(nn.Module):
    """Logits (0, power of one rhythm in one channel in units of the noise); known by construction.

    Args:
        channel: That it reads.
        frequency: Hz.
        sfreq: Hz.
        n_cycles: Length of the filter.
    """

    kernel: Tensor

    def __init__(
        self,
        channel: int,
        *,
        frequency: float | int,
        sfreq: float | int,
        n_cycles: float | int = 4.0,
    ) -> None:
        super().__init__()
        self.channel = channel
        n = max(3, round(n_cycles * sfreq / frequency))
        time = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) / sfreq
        angle = 2 * torch.pi * frequency * time
        window = torch.hann_window(n + 2, periodic=False, dtype=torch.float64)[1:-1]
        pair = torch.stack([torch.cos(angle) * window, torch.sin(angle) * window])
        pair = pair - pair.mean(1, keepdim=True)
        self.register_buffer("kernel", (pair / pair.norm(dim=1, keepdim=True))[:, None])

    def forward(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch 2"]:
        """See the class."""
        one = x[:, self.channel : self.channel + 1]
        power = F.conv1d(one, self.kernel.to(x.dtype)).square().sum(1).mean(1)
        return torch.stack([torch.zeros_like(power), power], dim=1)


def planted_windows(
    n: int,
    *,
    n_channels: int,
    n_times: int,
    sfreq: float | int,
    channel: int,
    frequency: float | int,
    place: slice,
    amplitude: float | int = 4.0,
    generator: torch.Generator,
) -> Float[Tensor, "batch channel time"]:
    """White noise of variance one with a burst of one rhythm, of random phase, in one place.

    Args:
        frequency: Hz.
        place: Samples of the burst, under a Hann window.
        amplitude: In standard deviations of the noise.
    """
    x = torch.randn(n, n_channels, n_times, generator=generator)
    time = torch.arange(n_times)[place] / sfreq
    if not len(time) or not 0 <= channel < n_channels:
        raise ValueError(
            f"planted_windows: burst in channel {channel}, samples {place.start} to {place.stop}, "
            f"is outside {n_channels} channels of {n_times} samples."
        )
    phase = 2 * torch.pi * torch.rand(n, 1, generator=generator)
    window = torch.hann_window(len(time) + 2, periodic=False)[1:-1]
    x[:, channel, place] += amplitude * window * torch.sin(2 * torch.pi * frequency * time + phase)
    return x


def planted_evidence(
    method: Method,
    *,
    n_channels: int,
    n_times: int,
    sfreq: float | int,
    frequency: float | int | None = None,
    n: int = 8,
    generator: torch.Generator,
    network: Function | None = None,
) -> PlantedEvidence:
    """Ask a method for the evidence of windows with a known burst.

    Args:
        method: Called with a function, windows and the target class 1.
        frequency: Hz; a fifth of `sfreq`, but at most 10 Hz, if not given.
        n: Windows.
        network: Looks for the burst; a `RhythmDetector` of channel 0 if not given.
    """
    frequency = min(10.0, sfreq / 5) if frequency is None else float(frequency)
    start, length = n_times // 2, max(4, n_times // 5)
    place = slice(start, min(n_times, start + length))
    x = planted_windows(
        n,
        n_channels=n_channels,
        n_times=n_times,
        sfreq=float(sfreq),
        channel=0,
        frequency=frequency,
        place=place,
        generator=generator,
    )
    cycles = max(0.5, min(4.0, (place.stop - place.start) * frequency / sfreq))
    network = network or RhythmDetector(0, frequency=frequency, sfreq=float(sfreq), n_cycles=cycles)
    target = torch.ones(n, dtype=torch.int64)
    result = method(network, x, target)
    planted: np.ndarray = np.zeros((n_channels, n_times), dtype=bool)
    planted[0, place] = True
    values = result.values.detach().abs().double()
    axes = result.axes
    if "channel" not in axes:
        planted = np.asarray(planted.any(0, keepdims=True))
        values = values.unsqueeze(1)
    if "time" not in axes:
        planted = np.asarray(planted.any(1, keepdims=True))
        values = values.unsqueeze(-1)
    if values.shape[1:] != planted.shape:
        raise ValueError(
            f"planted_evidence: {result.method} has axes {axes} of {tuple(result.values.shape)}; "
            "needed are channel, time or both, in the length of the input."
        )
    share = values[:, torch.from_numpy(planted)].sum(1) / values.flatten(1).sum(1)
    bands = float("nan")
    if result.coefficient is not None:
        edges = {"planted": (0.6 * frequency, 1.4 * frequency)}
        split = by_band(result, x, bands=edges, sfreq=float(sfreq)).values[:, 0].abs()
        bands = float(split[:, 0].sum() / split.sum())
    by_channel = values.sum(-1)
    return PlantedEvidence(
        share=float(share.mean()),
        chance=float(planted.mean()),
        auroc=_auroc(values.numpy().reshape(n, -1), planted.ravel()),
        channel_share=float((by_channel[:, 0] / by_channel.sum(1)).mean())
        if "channel" in axes
        else float("nan"),
        band_share=bands,
        channel_chance=1 / n_channels,
        mean=values.mean(0).numpy(),
        planted=planted,
    )


def _auroc(values: np.ndarray, positive: np.ndarray) -> float:
    """Mean over rows."""
    ranks = stats.rankdata(values, axis=1)[:, positive].sum(1)
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return float("nan")
    return float(((ranks - yes * (yes + 1) / 2) / (yes * no)).mean())
