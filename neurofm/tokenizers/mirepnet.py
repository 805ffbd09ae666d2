"""MIRepNetTokenizer: a window of 45 template electrodes as overlapping tokens of all channels.

A convolution along time and one across all electrodes, with nothing between them, then batch
normalization, ELU, a moving average of 75 samples every 15, and a linear map. No codes: the tokens
are continuous and learned together with the model behind them.

The two convolutions are one linear map, so their kernels are multiplied first and applied once: a
third of the arithmetic and none of the 64 x 45 intermediate signals, for the same numbers.

Source: staraink/MIRepNet (MIT), arXiv 2507.20254.
Axes: batch channel time; token = 99 samples of all channels, every 15 samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.contract import check_values
from neurofm.nn.batch_norm import BatchNorm1d
from neurofm.shapes import Float
from neurofm.units import Kind


@configured
class MIRepNetTokenizer(nn.Module):
    """Convolutional tokens. Defaults: the published size.

    Electrodes are known by their place: `neurofm.data.ToTemplate` brings any montage into the
    template's order. Nothing is normalized here. The published weights expect signals of 8-30 Hz
    after Euclidean alignment (`neurofm.data.AlignRecording`), whose amplitudes are near 1.

    Args:
        dim: Features of a token.
        n_channels: Electrodes of the template.
        sfreq: Hz, of the batches it accepts.
        dropout: Of the averaged features, in training mode.
        kinds: Kinds of channels it accepts.
    """

    n_codes = 0
    by_place = "all"  # the electrodes of the template, in its order

    def __init__(
        self,
        dim: int = 256,
        *,
        n_channels: int = 45,
        sfreq: float = 250.0,
        dropout: float = 0.5,
        n_temporal: int = 64,
        n_spatial: int = 128,
        kernel: int = 25,
        pool: int = 75,
        stride: int = 15,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        self.dim, self.n_channels, self.sfreq = dim, n_channels, sfreq
        self.kernel, self.pool, self.stride = kernel, pool, stride
        self.kinds = tuple(Kind[kind.upper()] for kind in kinds)
        self.temporal = nn.Conv2d(1, n_temporal, (1, kernel))
        self.spatial = nn.Conv2d(n_temporal, n_spatial, (n_channels, 1))
        self.norm = BatchNorm1d(n_spatial)
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Conv2d(n_spatial, dim, 1)

    def n_tokens(self, samples: int) -> int:
        """Tokens of a window; samples behind the last whole one are not seen."""
        return max((samples - self.kernel + 1 - self.pool) // self.stride + 1, 0)

    def fused(self) -> tuple[Float[Tensor, "feature channel kernel"], Float[Tensor, " feature"]]:
        """Kernel and bias of the two convolutions in one."""
        spatial = self.spatial.weight.squeeze(-1)  # feature temporal channel
        kernel = torch.einsum("ftc,tk->fck", spatial, self.temporal.weight.flatten(1))
        bias = self.spatial.bias
        assert bias is not None and self.temporal.bias is not None
        return kernel, bias + spatial.sum(2) @ self.temporal.bias

    def embed(self, x: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch token dim"]:
        """Tokens of plain windows."""
        features = F.elu(self.norm(F.conv1d(x, *self.fused())))
        mean = self.dropout(F.avg_pool1d(features, self.pool, self.stride))
        return self.projection(mean.unsqueeze(2)).squeeze(2).transpose(1, 2)

    def forward(self, batch: Batch) -> Tokens:
        """Tokens of each window; `time` is the middle of the samples a token comes from.

        Raises:
            ValueError: Rate, kind or number of channels, length or values are not those expected.
        """
        values = self.embed(self.signal(batch))
        shape, device = values.shape[:2], values.device
        middle = (self.kernel - 1 + self.pool) / 2
        time = (torch.arange(shape[1], device=device) * self.stride + middle) / self.sfreq
        return Tokens(
            values=values,
            mask=torch.ones(shape, dtype=torch.bool, device=device),
            channel=torch.full(shape, -1, device=device),
            time=time.expand(shape),
        )

    def signal(self, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """The template's channels of a batch, without padding."""
        check_values(batch, model="MIRepNetTokenizer")
        if batch.unit not in ("physical", "z"):
            raise ValueError(f"MIRepNetTokenizer: unit {batch.unit!r} is not 'physical' or 'z'.")
        if abs(batch.sfreq - self.sfreq) > 1e-3 * self.sfreq:
            raise ValueError(
                f"MIRepNetTokenizer: the batch has {batch.sfreq:g} Hz, expected {self.sfreq:g} Hz. "
                f"Prepare the data with Resample(sfreq={self.sfreq:g})."
            )
        real, n = batch.channel_mask, self.n_channels
        if not bool(real[:, :n].all() & (real.sum(1) == n).all()):
            counts = sorted(set(real.sum(1).tolist()))
            raise ValueError(
                f"MIRepNetTokenizer: windows have {', '.join(map(str, counts))} real channels, "
                f"expected the {n} electrodes of the template, in its order and before any "
                "padding. End the preparation of the data with ToTemplate."
            )
        for value in batch.kind[:, :n].unique().tolist():
            if Kind(value) not in self.kinds:
                names = ", ".join(kind.name for kind in self.kinds)
                raise ValueError(
                    f"MIRepNetTokenizer: the batch has {Kind(value).name} channels, expected "
                    f"{names}. Prepare the data with PickKinds or ToTemplate."
                )
        if not self.n_tokens(batch.x.shape[-1]):
            least = self.kernel - 1 + self.pool
            raise ValueError(
                f"MIRepNetTokenizer: windows of {batch.x.shape[-1]} samples are shorter than a "
                f"token. Set window_s to at least {least / self.sfreq:g}."
            )
        return batch.x[:, :n].float()
