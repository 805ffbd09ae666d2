"""TFMTokenizer: every half second of every single channel as one of a few thousand motifs.

A frame of one second is seen twice: as a magnitude spectrum, by a small transformer over frequency,
and as a waveform, by convolutions. Both meet in a transformer over time, whose output is replaced
by the nearest code. The decoder rebuilds the spectrum. In training parts of the spectrum are
hidden, first one set of frames and bins, then all others.

Channels never meet, so a window with any set of channels is a list of rows, and padding is left
out.

Source: Jathurshan0330/TFM-Tokenizer (MIT), arXiv 2502.16060 (ICLR 2026).
Axes: row = one channel of one window; bin = 1 Hz from 0; frame = 1 s, every 0.5 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.nn.draw import draw
from neurofm.nn.ema_quantizer import EMAQuantizer
from neurofm.nn.linear_attention import LinearTransformer
from neurofm.nn.processes import mean_rows
from neurofm.nn.quantize import straight_through
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.tfm_input import (
    HOP,
    SFREQ,
    WINDOW,
    packed_signal,
    spectrum,
    with_magnitude,
)
from neurofm.units import Kind


@configured
class TFMTokenizer(nn.Module):
    """Tokenizer of single channels at 200 Hz. Defaults: the published size.

    Args:
        dim: Features of a token.
        n_codes: Entries of the codebook.
        n_bins: Frequencies of the spectrum, 1 Hz apart; at most 100.
        patch: Frequencies of a patch.
        frequency_depth: Blocks over the patches of a frame.
        temporal_depth: Blocks over the frames of a window.
        decoder_depth: Blocks between codes and spectrum.
        heads: Of all blocks.
        dropout: Of the attention's output, in training mode.
        beta: Weight of the commitment loss.
        commitment: "published": two terms that cancel for `beta` 1, so that reconstruction alone
            trains the encoder. "towards_codes": the mean squared distance to the codes, times
            `beta`.
        decay: Of the codebook's moving averages; a short training needs a smaller one.
        start: "published": small random codes, whose first step loses most of them, and a decoder
            that has to find the mean spectrum first. "data": codes from k-means and a last layer
            at each bin's mean and standard deviation, both of the first training batch: what a
            short training needs.
        restart_below: See `nn.EMAQuantizer`; 0 is published.
        hidden_bins: Fraction of the patches of the spectrum that training hides.
        hidden_frames: Fraction of the frames that training hides.
        resample: Take signals of other rates, resampled window by window as the original's loader
            does; otherwise they are refused.
        kinds: Kinds of channels it accepts.
    """

    def __init__(
        self,
        dim: int = 64,
        n_codes: int = 8192,
        *,
        n_bins: int = 100,
        patch: int = 5,
        frequency_depth: int = 2,
        temporal_depth: int = 2,
        decoder_depth: int = 8,
        heads: int = 8,
        dropout: float = 0.2,
        beta: float = 1.0,
        commitment: Literal["published", "towards_codes"] = "published",
        decay: float = 0.99,
        start: Literal["published", "data"] = "published",
        restart_below: float = 0.0,
        hidden_bins: float = 0.5,
        hidden_frames: float = 0.5,
        resample: bool = False,
        kinds: Sequence[str] = ("eeg",),
    ) -> None:
        super().__init__()
        groups = n_bins // patch**2
        if not 0 < n_bins <= WINDOW // 2 or groups < 1 or dim % (2 * groups) or dim % 4:
            raise ValueError(
                f"TFMTokenizer: dim {dim}, n_bins {n_bins} and patch {patch} do not fit. n_bins is "
                f"at most {WINDOW // 2} and at least patch^2 = {patch**2}; dim is a multiple of 4 "
                f"and of 2 (n_bins // patch^2) = {2 * max(groups, 1)}."
            )
        if commitment not in ("published", "towards_codes"):
            raise ValueError(
                f"TFMTokenizer: commitment {commitment!r} is not 'published' or 'towards_codes'."
            )
        if start not in ("published", "data"):
            raise ValueError(f"TFMTokenizer: start {start!r} is not 'published' or 'data'.")
        self.dim, self.n_codes, self.n_levels = dim, n_codes, 1
        self.sfreq, self.n_bins, self.patch = SFREQ, n_bins, patch
        self.beta, self.commitment = beta, commitment
        self.hidden_bins, self.hidden_frames = hidden_bins, hidden_frames
        self.resample = resample
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        blocks: dict[str, Any] = {"heads": heads, "dropout": dropout}
        self.frequency_patches = _convolutions(dim, dim, patch, patch)
        self.frequency_blocks = LinearTransformer(dim, depth=frequency_depth, **blocks)
        self.gate = nn.Conv1d(dim, dim // (2 * groups), patch, patch)
        self.gated = nn.Conv1d(dim, dim // (2 * groups), patch, patch)
        self.waveform_patches = _convolutions(dim, dim // 2, WINDOW, HOP)
        self.temporal_blocks = LinearTransformer(dim, depth=temporal_depth, **blocks)
        self.quantizer = EMAQuantizer(
            dim,
            n_codes=n_codes,
            decay=decay,
            start="kmeans" if start == "data" else "uniform",
            restart_below=restart_below,
        )
        self.decoder_blocks = LinearTransformer(dim, depth=decoder_depth, **blocks)
        self.decoder = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, n_bins))

    # Plain tensors

    def spectrum(self, x: Float[Tensor, "row time"]) -> Float[Tensor, "row bin frame"]:
        """Magnitudes of each frame of the scaled signal."""
        with torch.autocast(x.device.type, enabled=False):
            return spectrum(x.float(), self.n_bins)

    def from_spectrum(
        self, magnitude: Float[Tensor, "row bin frame"]
    ) -> Float[Tensor, "row frame half"]:
        """Features of each frame's spectrum alone."""
        rows, _, frames = magnitude.shape
        items = magnitude.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # frame fastest
        x = self.frequency_blocks(self.frequency_patches(items).transpose(1, 2)).transpose(1, 2)
        return (self.gate(x).sigmoid() * self.gated(x)).flatten(1).unflatten(0, (rows, frames))

    def from_waveform(self, x: Float[Tensor, "row time"]) -> Float[Tensor, "row frame half"]:
        """Features of each frame's waveform; norms span all frames of the window."""
        return self.waveform_patches(x.unsqueeze(1)).transpose(1, 2)

    def combine(
        self,
        from_spectrum: Float[Tensor, "row frame half"],
        from_waveform: Float[Tensor, "row frame half"],
    ) -> Float[Tensor, "row frame dim"]:
        """Unit vectors to quantize, from both halves."""
        x = self.temporal_blocks(torch.cat([from_spectrum, from_waveform], -1))
        return F.normalize(x.float(), dim=-1)

    def rebuild(self, values: Float[Tensor, "row frame dim"]) -> Float[Tensor, "row bin frame"]:
        """Spectrum of quantized tokens."""
        return self.decoder(self.decoder_blocks(values)).transpose(1, 2)

    def encode_rows(self, x: Float[Tensor, "row time"]) -> Float[Tensor, "row frame dim"]:
        """What is quantized of the scaled signal, nothing hidden."""
        return self.combine(self.from_spectrum(self.spectrum(x)), self.from_waveform(x))

    def keep_mask(
        self, frames: int, *, generator: torch.Generator | None, device: torch.device
    ) -> Bool[Tensor, "bin frame"]:
        """True where the first view sees the spectrum; the second sees all else."""
        patches = -(-self.n_bins // self.patch)
        bins = _keep(patches, self.hidden_bins, generator, device)
        bins = bins.repeat_interleave(self.patch)[: self.n_bins]
        return bins.unsqueeze(1) & _keep(frames, self.hidden_frames, generator, device)

    def losses(
        self,
        x: Float[Tensor, "row time"],
        *,
        keep: Bool[Tensor, "bin frame"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Rebuild the whole spectrum from each of two complementary views of it.

        Args:
            x: Scaled signal.
            keep: What the first view sees; drawn if not given.

        Returns:
            "loss" and its parts "reconstruction" and "commitment", each added over the views;
            "explained", the fraction of the variance of the spectrum around each bin's mean;
            "views", both reconstructions, and "codes", one view after the other.
        """
        target = self.spectrum(x)
        if keep is None:
            keep = self.keep_mask(target.shape[-1], generator=generator, device=x.device)
        if self.training and not self.quantizer.started:
            self._begin(target)
        # Both views in one pass: norms and attention stay within a row.
        seen = torch.cat([target * keep, target * ~keep])
        latent = self.combine(self.from_spectrum(seen), self.from_waveform(x).repeat(2, 1, 1))
        # The codebook moves between the views, so they are quantized in turn.
        found = [self.quantizer(part, generator=generator) for part in latent.chunk(2)]
        code = torch.cat([values for values, _ in found])
        passed = straight_through(latent, code)
        views = self.rebuild(passed).unflatten(0, (2, -1))
        # Means over each view, added.
        reconstruction = 2 * F.mse_loss(views.float(), target.expand_as(views))
        if self.commitment == "published":
            first = F.mse_loss(passed, latent.detach())
            commitment = 2 * (first + self.beta * F.mse_loss(passed.detach(), latent))
        else:
            commitment = 2 * self.beta * F.mse_loss(latent, code)
        mean = target.mean((0, 2), keepdim=True)
        with torch.no_grad():
            explained = 1 - reconstruction / (2 * F.mse_loss(mean.expand_as(target), target))
        return {
            "loss": reconstruction + commitment,
            "explained": explained,
            "reconstruction": reconstruction,
            "commitment": commitment,
            "views": views,
            "codes": torch.cat([codes for _, codes in found]).unsqueeze(-1),
        }

    @torch.no_grad()
    def _begin(self, target: Float[Tensor, "row bin frame"]) -> None:
        """Let the last layer vary around each bin's mean as much as the bin does.

        Otherwise its inputs saturate on the way to the mean, and the codes are never used.
        """
        frames = target.transpose(1, 2).flatten(0, 1)
        mean = mean_rows(frames)
        spread = mean_rows((frames - mean).square()).sqrt()
        last = cast(nn.Linear, self.decoder[-1])
        last.weight.mul_(spread.unsqueeze(1))
        last.bias.copy_(mean)

    # Batches

    def prepare(self, batch: Batch) -> Float[Tensor, "row time"]:
        """Scaled signal of the real channels, window after window; see `packed_signal`."""
        return packed_signal(batch, kinds=self.kinds, resample=self.resample)

    def forward(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tokens:
        """One token for each frame of each channel: token = channel x frames + frame.

        `values` are the vectors of the codes, `channel` the place of the channel in the batch and
        `time` the centre of the frame. Padded channels have mask False and channel -1.
        """
        latent = self.encode_rows(self.prepare(batch))
        code, codes = self.quantizer(latent, generator=generator)
        if torch.is_grad_enabled() and latent.requires_grad:
            passed = straight_through(latent, code)
            code = code + (passed - passed.detach())  # the code to the last bit
        mask = batch.channel_mask
        n, channels, frames = *mask.shape, latent.shape[1]
        values = code.new_zeros(n, channels, frames, self.dim).index_put((mask,), code)
        places = codes.new_zeros(n, channels, frames).index_put((mask,), codes)
        channel = torch.arange(channels, device=mask.device)
        channel = torch.where(mask, channel, -1).repeat_interleave(frames, dim=1)
        frame = torch.arange(frames, device=mask.device)
        time = (HOP * frame + WINDOW / 2) / SFREQ
        return Tokens(
            values=values.flatten(1, 2),
            codes=places.flatten(1, 2).unsqueeze(-1),
            mask=mask.repeat_interleave(frames, dim=1),
            channel=channel,
            time=time.repeat(channels).expand(n, -1),
        )

    @staticmethod
    def frames_of(tokens: Tokens) -> Int[Tensor, "batch token"]:
        """Number of each token's frame, from its time."""
        return ((tokens.time * SFREQ - WINDOW / 2) / HOP).round().long()

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """batch channel frame time, twice: tapered frames of the scaled signal, and of its codes.

        Codes describe magnitudes; the phase is the signal's own. Zeros in padded channels.
        """
        x, mask = self.prepare(batch), batch.channel_mask
        made = self.rebuild(self.quantizer(self.encode_rows(x))[0])
        both = with_magnitude(x, made.clamp(min=0))
        n = mask.shape
        pair = (part.new_zeros(*n, *part.shape[1:]).index_put((mask,), part) for part in both)
        return next(pair), next(pair)

    def loss(self, batch: Batch, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Training loss of a batch; see `losses`."""
        losses = self.losses(self.prepare(batch), generator=generator)
        del losses["views"]
        return losses

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original tokenizer as ours; unknown keys come back unchanged."""
        renamed = {}
        for key, value in state_dict.items():
            key = key.removeprefix("module.")
            for old, new in _RENAMED:
                if key.startswith(old):
                    key = new + key.removeprefix(old)
                    break
            renamed[rename_blocks(key)] = value
        return renamed


def rename_blocks(key: str) -> str:
    """Names inside the blocks, which tokenizer and encoder have in common."""
    for old, new in _BLOCK:
        key = key.replace(old, new)
    return key


def _convolutions(dim: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    """Cut into patches, then mix features twice; norms of four features in the first two."""
    groups = dim // 4
    return nn.Sequential(
        *(nn.Conv1d(1, dim, kernel, stride), nn.GELU(), nn.GroupNorm(groups, dim)),
        *(nn.Conv1d(dim, dim, 1), nn.GELU(), nn.GroupNorm(groups, dim)),
        *(nn.Conv1d(dim, out, 1), nn.GELU(), nn.GroupNorm(groups, out)),
    )


def _keep(
    n: int, hidden: float, generator: torch.Generator | None, device: torch.device
) -> Bool[Tensor, " item"]:
    rank = draw(torch.rand, (n,), generator, device).argsort().argsort()
    return rank >= int(n * hidden)


_RENAMED = (
    ("freq_patch_embedding_2_atten.0.", "gate."),
    ("freq_patch_embedding_2.0.", "gated."),
    ("freq_patch_embedding.", "frequency_patches."),
    ("temporal_patch_embedding.", "waveform_patches."),
    ("trans_freq_encoder.transformer.layers.layers.", "frequency_blocks."),
    ("trans_temporal_encoder.transformer.layers.layers.", "temporal_blocks."),
    ("trans_decoder.transformer.layers.layers.", "decoder_blocks."),
    ("quantizer.embedding.weight", "quantizer.codebook"),
    ("quantizer.ema_w", "quantizer.codebook_sum"),
    ("quantizer.cluster_size", "quantizer.count"),
)
_BLOCK = (
    (".0.fn.to_q.", ".attention.query."),
    (".0.fn.to_k.", ".attention.key."),
    (".0.fn.to_v.", ".attention.value."),
    (".0.fn.to_out.", ".attention.out."),
    (".0.norm.", ".attention_norm."),
    (".1.fn.fn.w1.", ".feedforward.0."),
    (".1.fn.fn.w2.", ".feedforward.2."),
    (".1.norm.", ".feedforward_norm."),
)
