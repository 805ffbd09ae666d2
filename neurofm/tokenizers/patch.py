"""PatchTokenizer: one token per channel and patch, a learned linear map of the standardized signal.

Standardizing takes each channel's mean over the window off and divides by one scale per window and
kind of channel: the median over channels of their standard deviations. Which channel is louder, and
when, stays in the tokens; a single bad channel does not move the scale. The scale itself enters
every token as one more feature (its logarithm), so that loud windows can be told from quiet ones.

Source: patches as in ViT and LaBraM (arXiv 2405.18765); the spectrum beside them as in CBraMod
(arXiv 2412.07236).
Axes: batch channel time; sample = place inside a patch, frequency = bin of its spectrum; token =
channel x patches + patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.checks import check_batch
from neurofm.tokenizers.grid import channel_tokens
from neurofm.units import Kind

KINDS = tuple(kind for kind in Kind if kind != Kind.PAD)

# Standardized values beyond this are artefacts; they would rule the squared error.
LIMIT = 15.0
# Power of a bin of a signal of variance 1 below which differences fade; silence becomes zero.
POWER_FLOOR = 0.03


class Patches(NamedTuple):
    """Standardized patches of a batch and the scale they were divided by."""

    values: Float[Tensor, "batch channel patch sample"]
    scale: Float[Tensor, "batch channel"]


@configured
class PatchTokenizer(nn.Module):
    """A linear map of every patch. Learned together with the model that follows.

    Args:
        dim: Features of a token.
        patch_s: Length of a patch, seconds. What is left of a window after its last whole patch is
            not looked at.
        sfreq: Hz; other rates are refused, because a weight belongs to a sample.
        spectrum: Also map the logarithm of the patch's power spectrum, added to the map of its
            samples. A linear map of samples alone cannot tell a strong rhythm from a weak one when
            its phase is random.
    """

    n_codes = 0
    window: Tensor

    def __init__(
        self, *, dim: int = 200, patch_s: float = 1.0, sfreq: float = 200.0, spectrum: bool = False
    ) -> None:
        super().__init__()
        self.n_samples = round(patch_s * sfreq)
        if self.n_samples < 2 or abs(self.n_samples - patch_s * sfreq) > 1e-3:
            raise ValueError(
                f"PatchTokenizer: patches of {patch_s:g} s at {sfreq:g} Hz are "
                f"{patch_s * sfreq:g} samples, expected a whole number of at least 2. "
                f"Set patch_s to {max(self.n_samples, 2) / sfreq:g}."
            )
        self.dim, self.patch_s, self.sfreq = dim, patch_s, sfreq
        self.linear = nn.Linear(self.n_samples + 1, dim, bias=False)
        self.n_bins = self.n_samples // 2
        self.spectrum = nn.Linear(self.n_bins, dim) if spectrum else None
        self.register_buffer("window", torch.hann_window(self.n_samples), persistent=False)
        nn.init.normal_(self.linear.weight, std=self.n_samples**-0.5)
        if self.spectrum is not None:
            nn.init.normal_(self.spectrum.weight, std=self.n_bins**-0.5)

    def patches(self, batch: Batch) -> Patches:
        """Standardized patches, zeros in padded channels.

        Raises:
            ValueError: Rate, a window without a real channel or shorter than a patch, or values
                not finite.
        """
        check_batch(
            batch, name="PatchTokenizer", kinds=KINDS, sfreq=self.sfreq, least=self.n_samples
        )
        mask = batch.channel_mask
        x = torch.where(mask.unsqueeze(-1), batch.x.float(), 0)
        x = x - x.mean(-1, keepdim=True)
        spread = x.square().mean(-1).sqrt()
        scale = scale_of_kind(spread.detach(), batch.kind, mask)
        x = (x / scale.unsqueeze(-1)).clamp(-LIMIT, LIMIT)
        n = x.shape[-1] // self.n_samples
        return Patches(x[..., : n * self.n_samples].unflatten(-1, (n, self.n_samples)), scale)

    def log_spectrum(
        self, patches: Float[Tensor, "*other sample"]
    ) -> Float[Tensor, "*other frequency"]:
        """`log(1 + power / 0.03)` in each bin above 0 Hz, of a patch seen through a Hann window.

        White noise of variance 1 has power 1 in every bin.
        """
        found = torch.fft.rfft(patches.float() * self.window, dim=-1)[..., 1 : self.n_bins + 1]
        power = (found.real.square() + found.imag.square()) / self.window.square().sum()
        return (power / POWER_FLOOR).log1p()

    def forward(self, batch: Batch) -> Tokens:
        """Tokens channel by channel, continuous."""
        values, scale = self.patches(batch)
        steps = values.shape[2]
        loudness = scale.log().clamp(-LIMIT, LIMIT)[..., None, None].expand(-1, -1, steps, 1)
        out = self.linear(torch.cat([values, loudness], -1))
        if self.spectrum is not None:
            out = out + self.spectrum(self.log_spectrum(values))
        time = (torch.arange(steps, device=out.device) + 0.5) * self.patch_s
        return channel_tokens(out, batch.channel_mask, time)


def scale_of_kind(
    spread: Float[Tensor, "batch channel"],
    kind: Int[Tensor, "batch channel"],
    mask: Bool[Tensor, "batch channel"],
) -> Float[Tensor, "batch channel"]:
    """For each channel the median spread of its window's channels of that kind that are not flat.

    1 where there is none.
    """
    kinds = torch.arange(len(Kind) - 1, device=kind.device)
    member = (kind.unsqueeze(-1) == kinds) & (mask & (spread > 0)).unsqueeze(-1)
    each = torch.where(member, spread.unsqueeze(-1), torch.nan).nanmedian(1).values
    scale = each.gather(1, kind.long().clamp(min=0))
    return torch.where(mask & scale.isfinite(), scale, 1)
