"""TrialPatches: three ways to make tokens of a trial, for one montage and one length of window.

Multi-variate: a token is a patch of time of all channels. Uni-variate: a patch of time of one
channel. Whole-variate: the whole window of one channel. Every channel of a window is standardized
over time, a learned offset is added to it, and patches get sinusoidal positions in time.

Source: the token study of "Benchmarking ERP Analysis" (arXiv 2601.00573), after PatchTST and
iTransformer. It names the augmentations "mask" and "channel" without their shares; a tenth is
chosen here.
Axes: batch channel time; sample = place inside a patch; token = channel x patches + patch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.contract import Contract
from neurofm.nn.draw import draw_windows, keep_channels
from neurofm.shapes import Float
from neurofm.tokenizers.grid import channel_tokens


@configured
class TrialPatches(nn.Module):
    """Linear maps of patches. Learned together with the model that follows.

    Args:
        n_channels: Of every window.
        n_times: Samples of every window.
        variate: "multi" (patches of all channels), "uni" (of each channel), or "whole" (each
            channel in one piece).
        sfreq: Hz, of the batches it accepts.
        dim: Features of a token.
        patch: Samples of a patch; without meaning for "whole".
        stride: Samples from patch to patch; `patch` if not given. The last patch is filled up with
            the last sample.
        augment: In training mode one of these is drawn for each batch: "mask" sets samples to zero,
            each by itself, "channel" whole channels (at least one, never all). Empty for none.
        augment_share: Of the samples, or of the channels.
        kinds: Kinds of channels it accepts.
    """

    n_codes = 0
    position: Tensor

    def __init__(
        self,
        *,
        n_channels: int,
        n_times: int,
        variate: str = "uni",
        sfreq: float = 200.0,
        dim: int = 128,
        patch: int = 25,
        stride: int | None = None,
        augment: Sequence[str] = ("mask", "channel"),
        augment_share: float = 0.1,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        if variate not in ("multi", "uni", "whole"):
            raise ValueError(
                f"TrialPatches: variate is {variate!r}, expected 'multi', 'uni' or 'whole'."
            )
        unknown = set(augment) - {"mask", "channel"}
        if unknown or not 0 <= augment_share < 1:
            raise ValueError(
                f"TrialPatches: augment {list(augment)} with a share of {augment_share:g}; "
                "expected 'mask' and 'channel' at most, and a share from 0 to below 1."
            )
        self.patch = n_times if variate == "whole" else patch
        self.stride = n_times if variate == "whole" else (stride or patch)
        if not 0 < self.patch <= n_times or self.stride < 1:
            raise ValueError(
                f"TrialPatches: patches of {self.patch} samples every {self.stride} in windows of "
                f"{n_times}; expected a patch of 1 to {n_times} samples, and a stride above 0."
            )
        self.contract = Contract(
            kinds=tuple(kinds), n_channels=n_channels, n_times=n_times, sfreq=float(sfreq)
        )
        self.dim, self.variate, self.sfreq = dim, variate, float(sfreq)
        self.n_channels, self.n_times = n_channels, n_times
        self.augment, self.augment_share = tuple(augment), augment_share
        self.n_patches = 1 + math.ceil((n_times - self.patch) / self.stride)
        self.n_tokens = self.n_patches * (1 if variate == "multi" else n_channels)
        self.offset = nn.Parameter(torch.zeros(1, n_channels, 1))
        width = self.patch * (n_channels if variate == "multi" else 1)
        self.linear = nn.Linear(width, dim)
        nn.init.normal_(self.linear.weight, std=width**-0.5)
        nn.init.zeros_(self.linear.bias)
        # A single patch has no place among others.
        table = sinusoids(self.n_patches, dim) if self.n_patches > 1 else torch.zeros(1, dim)
        self.register_buffer("position", table, persistent=False)

    def signal(self, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Standardized channels with their offsets, augmented in training mode.

        Raises:
            ValueError: Other channels, rate or length than it was built for, or padding before
                channels.
        """
        self.contract.check(batch, model="TrialPatches")
        n = self.n_channels
        if batch.x.shape[1] > n and not bool(batch.channel_mask[:, :n].all()):
            raise ValueError(
                f"TrialPatches: padding lies among the first {n} channels of the batch. Put it "
                "behind them, as `collate` does."
            )
        x = batch.x[:, :n].float()
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-8)
        if self.training and self.augment:
            x = self._augmented(x)
        return x + self.offset

    def _augmented(self, x: Tensor) -> Tensor:
        kind = self.augment[int(torch.randint(len(self.augment), ()))]
        if kind == "mask":
            drawn = draw_windows(torch.rand, x.shape, None, x.device)
            return x * (drawn >= self.augment_share)
        if x.shape[1] < 2 or not self.augment_share:
            return x
        real = x.new_ones(x.shape[:2], dtype=torch.bool)
        return x * keep_channels(real, self.augment_share, None).unsqueeze(-1)

    def forward(self, batch: Batch) -> Tokens:
        """Tokens, continuous: in time for "multi", else channel by channel."""
        x = self.signal(batch)
        missing = (self.n_patches - 1) * self.stride + self.patch - self.n_times
        if missing:
            x = F.pad(x, (0, missing), mode="replicate")
        parts = x.unfold(-1, self.patch, self.stride)  # batch channel patch sample
        steps = torch.arange(self.n_patches, device=x.device) * self.stride
        time = (steps + self.patch / 2) / self.sfreq
        if self.variate == "multi":
            values = self.linear(parts.transpose(1, 2).flatten(2)) + self.position
            shape = values.shape[:2]
            return Tokens(
                values=values,
                mask=values.new_ones(shape, dtype=torch.bool),
                channel=values.new_full(shape, -1, dtype=torch.long),
                time=time.expand(shape),
            )
        values = self.linear(parts) + self.position
        return channel_tokens(values, values.new_ones(x.shape[:2], dtype=torch.bool), time)


def sinusoids(n: int, dim: int) -> Float[Tensor, "place dim"]:
    """Sines in even and cosines in odd features, of wavelengths from 2 pi to 20000 pi places.

    Source: Vaswani et al. 2017.
    """
    place = torch.arange(n, dtype=torch.float32).unsqueeze(1)
    rate = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    table = torch.zeros(n, dim)
    table[:, 0::2] = (place * rate).sin()
    table[:, 1::2] = (place * rate[: dim // 2]).cos()
    return table
