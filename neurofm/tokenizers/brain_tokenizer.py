"""BrainTokenizer: any set of EEG and MEG sensors to a fixed grid of discrete codes.

Each 2-s window of each channel passes a SEANet encoder (8 steps of features). At every step the
channels are compressed into 16 latent sources by attention whose keys know the sensors' geometry;
a residual vector quantizer turns each source and step into a tuple of codes. The decoder asks the
quantized sources for the signal at any sensor.

Two levels: methods on plain tensors (`windows`, `embed_sensors`, `encode_windows`, ...) follow the
original; `forward`, `loss`, `reconstruct`, `decode` take a `Batch` and own the normalization.
Padded channels are removed before the encoder and masked in the attention.

Source: OpenTSLab/BrainOmni (MIT), arXiv 2505.18185.
Axes: batch channel window sample; source = latent channel; step = one of `window_length / hop`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurofm.batch import Batch, Tokens
from neurofm.cards import configured
from neurofm.nn.channels import ChannelCompression, ChannelExpansion, SensorEncoder
from neurofm.nn.conv import Conv, ConvTranspose, SEANetDecoder, SEANetEncoder
from neurofm.nn.draw import draw_windows, keep_channels, shown_channels
from neurofm.nn.processes import batch_mean
from neurofm.nn.quantize import Quantized, ResidualVQ
from neurofm.nn.start import unit_variance
from neurofm.nn.transformer import initialize
from neurofm.shapes import Bool, Float, Int
from neurofm.tokenizers.checks import check_batch
from neurofm.tokenizers.normalize import geometry, normalize_amplitude, sensor_type
from neurofm.tokenizers.reconstruction import reconstruction_losses, standardize
from neurofm.tokenizers.upstream import rename_brain_tokenizer
from neurofm.units import Kind


@configured
class BrainTokenizer(nn.Module):
    """Tokenizer of EEG and MEG with residual vector quantization. Defaults: the published size.

    Args:
        window_length: Samples of one window; a multiple of the product of `ratios`.
        n_filters: Features of the first convolution.
        ratios: Strides of the decoder; the encoder uses them in reverse.
        n_dim: Features of a token.
        n_neuro: Latent sources.
        dropout: In the sensor encoder and attention, in training mode.
        rotation_trick: Pass gradients through the quantizer by rotation; else straight through.
        quantize_optimize_method: Only "ema"; no released weights use the other one.
        init_embed_avg: See `nn.VectorQuantizer`: "upstream" repeats the original's k-means start.
        restart_below: See `nn.VectorQuantizer`; 0 is the published behaviour.
        drop_channels: Fraction of channels hidden from the encoder in `loss`.
        noise: Standard deviation of the noise added to the encoder's windows in `loss`.
        amplitude_weight: Of the amplitude spectrum in `loss`.
        phase_weight: Of the phase spectrum in `loss`. Both spectral terms hold a short training at
            a small size on a plateau without correlation; it learns with both at 0.
        decay: Of the codebooks' moving averages; a short training needs a smaller one.
        start: "published": narrow linear maps, so every source first attends to all channels alike.
            "spread": sharp attention and, from the first training batch, unit variance in every
            layer: what a short training needs.
        sfreq: Hz, of the signals it expects.
        kinds: Kinds of channels it accepts; electrodes beyond "eeg" are treated like EEG.
    """

    def __init__(
        self,
        window_length: int = 512,
        n_filters: int = 32,
        ratios: Sequence[int] = (8, 4, 2),
        kernel_size: int = 5,
        last_kernel_size: int = 5,
        n_dim: int = 256,
        n_head: int = 4,
        n_neuro: int = 16,
        dropout: float = 0.0,
        codebook_dim: int = 256,
        codebook_size: int = 512,
        num_quantizers: int = 4,
        rotation_trick: bool = True,
        quantize_optimize_method: str = "ema",
        *,
        init_embed_avg: Literal["scaled", "upstream"] = "scaled",
        restart_below: float = 0.0,
        drop_channels: float = 0.25,
        noise: float = 0.1,
        amplitude_weight: float = 1.0,
        phase_weight: float = 0.5,
        decay: float = 0.99,
        start: Literal["published", "spread"] = "published",
        sfreq: float = 256.0,
        kinds: Sequence[str] = ("eeg", "mag", "grad", "axial"),
    ) -> None:
        super().__init__()
        self.hop = math.prod(ratios)
        if window_length % self.hop:
            raise ValueError(
                f"BrainTokenizer: window_length {window_length} is not a multiple of "
                f"{self.hop}, the product of ratios {tuple(ratios)}. "
                f"Use {max(window_length // self.hop, 1) * self.hop}."
            )
        if n_dim % n_head:
            raise ValueError(f"BrainTokenizer: n_dim {n_dim} is not a multiple of n_head {n_head}.")
        if quantize_optimize_method != "ema":
            raise ValueError(
                f"BrainTokenizer: quantize_optimize_method {quantize_optimize_method!r} is not "
                "supported; released weights use 'ema'."
            )
        self.dim = n_dim
        self.n_codes = codebook_size
        self.n_levels = num_quantizers
        self.n_sources = n_neuro
        self.window_length = window_length
        self.drop_channels = drop_channels
        self.noise = noise
        self.amplitude_weight = amplitude_weight
        self.phase_weight = phase_weight
        self.start = start
        self.sfreq = sfreq
        self.kinds = tuple(Kind[name.upper()] for name in kinds)
        seanet: dict[str, Any] = {
            "n_filters": n_filters,
            "ratios": tuple(ratios),
            "kernel_size": kernel_size,
            "last_kernel_size": last_kernel_size,
        }
        self.sensors = SensorEncoder(n_dim, dropout)
        self.encoder = SEANetEncoder(n_dim, **seanet)
        self.compression = ChannelCompression(n_dim, n_head, n_neuro, dropout)
        self.quantizer = ResidualVQ(
            n_dim,
            num_quantizers=num_quantizers,
            codebook_dim=codebook_dim,
            codebook_size=codebook_size,
            rotation_trick=rotation_trick,
            init_embed_avg=init_embed_avg,
            decay=decay,
            restart_below=restart_below,
        )
        self.expansion = ChannelExpansion(n_dim, n_head, dropout)
        self.decoder = SEANetDecoder(n_dim, **seanet)
        initialize(self)
        if start == "spread":
            self.compression.sharpen()
            self.expansion.sharpen()
            self.sensors.spread()

    # Plain tensors

    def stride(self, overlap: float) -> int:
        """Samples between the starts of two windows."""
        if not 0 <= overlap < 1:
            raise ValueError(f"BrainTokenizer: overlap {overlap} is not in [0, 1).")
        return int(self.window_length * (1 - overlap))

    def windows(
        self, x: Float[Tensor, "batch channel time"], overlap: float = 0.0
    ) -> Float[Tensor, "batch channel window sample"]:
        """Cut into windows.

        A signal shorter than one window is padded with zeros. With overlap the last window is
        completed with zeros; without, an incomplete last window is dropped.
        """
        length, stride = self.window_length, self.stride(overlap)
        missing = max(length - x.shape[-1], 0)
        if not missing and overlap > 0:
            missing = -(x.shape[-1] - length) % stride
        if missing:
            x = F.pad(x, (0, missing))
        return x.unfold(-1, length, stride)

    def encode_windows(
        self,
        windows: Float[Tensor, "batch channel window sample"],
        sensors: Float[Tensor, "batch channel dim"],
        mask: Bool[Tensor, "batch channel"] | None = None,
    ) -> Float[Tensor, "batch source window step dim"]:
        """Windows to latent sources; channels where `mask` is False take no part."""
        batch, channels, count, _ = windows.shape
        packed = windows.flatten(0, 1) if mask is None else windows[mask]
        z = self.encoder(packed.flatten(0, 1))
        z = z.unflatten(0, (-1, count)).flatten(1, 2)  # packed step dim
        if mask is None:
            z = z.unflatten(0, (batch, channels))
        else:
            z = z.new_zeros(batch, channels, *z.shape[1:]).index_put((mask,), z)
        return self.compression(z, sensors, mask).unflatten(2, (count, -1))

    def quantize(
        self,
        latent: Float[Tensor, "batch source ... dim"],
        *,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Scale to unit length and quantize. An untrained codebook starts from these latents."""
        return self.quantizer(F.normalize(latent, dim=-1), generator=generator)

    def decode_sources(
        self,
        values: Float[Tensor, "batch source window step dim"],
        sensors: Float[Tensor, "batch channel dim"],
        mask: Bool[Tensor, "batch channel"] | None = None,
    ) -> Float[Tensor, "batch channel window sample"]:
        """Quantized sources to windows at the sensors; zeros where `mask` is False."""
        count = values.shape[2]
        y = self.expansion(values.flatten(2, 3), sensors).unflatten(2, (count, -1))
        packed = y.flatten(0, 1) if mask is None else y[mask]
        out = self.decoder(packed.flatten(0, 1)).unflatten(0, (-1, count))
        if mask is None:
            return out.unflatten(0, y.shape[:2])
        return out.new_zeros(*y.shape[:2], *out.shape[1:]).index_put((mask,), out)

    def tokenize(
        self,
        x: Float[Tensor, "batch channel time"],
        pos: Float[Tensor, "batch channel 6"],
        sensor_type: Int[Tensor, "batch channel"],
        *,
        overlap: float = 0.0,
        mask: Bool[Tensor, "batch channel"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Normalized signal to quantized sources, `batch source step`, windows joined in time."""
        sensors = self.sensors(pos, sensor_type)
        latent = self.encode_windows(self.windows(x, overlap), sensors, mask)
        return self.quantize(latent.flatten(2, 3), generator=generator)

    # Batches

    def prepare(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Checked and normalized signal, geometry, sensor type, and mask (None: nothing padded).

        Raises:
            ValueError: Rate, kind of channel, or values are not what the model expects.
        """
        check_batch(batch, name="BrainTokenizer", kinds=self.kinds, sfreq=self.sfreq)
        x = batch.x
        if batch.unit == "physical":
            x = normalize_amplitude(x, batch.kind, batch.channel_mask)
        mask = None if bool(batch.channel_mask.all()) else batch.channel_mask
        return x, geometry(batch), sensor_type(batch.kind), mask

    def forward(
        self, batch: Batch, *, overlap: float = 0.0, generator: torch.Generator | None = None
    ) -> Tokens:
        """Tokens of each window, source by source: token = source x steps + step.

        `channel` is the index of the latent source, `time` the centre of the step. Steps that begin
        after the end of the signal (zeros completing the last window) have mask False.
        """
        x, pos, kind, mask = self.prepare(batch)
        found = self.tokenize(x, pos, kind, overlap=overlap, mask=mask, generator=generator)
        values, codes = found.values.flatten(1, 2), found.codes.flatten(1, 2)
        n, steps = len(batch), found.values.shape[2]
        per_window = self.window_length // self.hop
        step = torch.arange(steps, device=x.device)
        start = step // per_window * self.stride(overlap) + step % per_window * self.hop
        source = torch.arange(self.n_sources, device=x.device).repeat_interleave(steps)
        return Tokens(
            values=values,
            codes=codes,
            mask=(start < x.shape[-1]).repeat(self.n_sources).expand(n, -1),
            channel=source.expand(n, -1),
            time=((start + self.hop / 2) / self.sfreq).repeat(self.n_sources).expand(n, -1),
        )

    def reconstruct(
        self, batch: Batch, *, overlap: float = 0.0
    ) -> tuple[
        Float[Tensor, "batch channel window sample"], Float[Tensor, "batch channel window sample"]
    ]:
        """Target (each window of each channel as z) and what the decoder makes of its codes."""
        x, pos, kind, mask = self.prepare(batch)
        sensors = self.sensors(pos, kind)
        windows = self.windows(x, overlap)
        found = self.quantize(self.encode_windows(windows, sensors, mask))
        return standardize(windows), self.decode_sources(found.values, sensors, mask)

    def decode(self, tokens: Tokens, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Signal, as z per window, at the sensors of `batch` from tokens made without overlap."""
        if tokens.codes is None:
            raise ValueError("BrainTokenizer.decode: the tokens carry no codes.")
        _, pos, kind, mask = self.prepare(batch)
        values = self.quantizer.lookup(tokens.codes)
        per_window = self.window_length // self.hop
        values = values.unflatten(1, (self.n_sources, -1, per_window))
        return self.decode_sources(values, self.sensors(pos, kind), mask).flatten(2)

    def loss(self, batch: Batch, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Stage-1 training loss of a batch; see `losses`."""
        x, pos, kind, mask = self.prepare(batch)
        return self.losses(x, pos, kind, mask=mask, generator=generator)

    def losses(
        self,
        x: Float[Tensor, "batch channel time"],
        pos: Float[Tensor, "batch channel 6"],
        sensor_type: Int[Tensor, "batch channel"],
        *,
        mask: Bool[Tensor, "batch channel"] | None = None,
        keep: Bool[Tensor, "batch channel"] | None = None,
        noise: Float[Tensor, "batch channel window sample"] | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Reconstruct all channels from noisy windows of some of them. Random in any mode.

        Args:
            keep: Channels the encoder sees; drawn if not given.
            noise: Unit normal, scaled by the `noise` of the constructor; drawn if not given.

        Returns:
            "loss" and its parts "time", "pcc", "amplitude", "phase", "commitment", and "codes".
        """
        windows = self.windows(x)
        chosen = None  # the same channels of every window: known without asking the device
        if keep is None and mask is None:
            chosen = shown_channels(x.shape[1], self.drop_channels, generator, x.device)
        elif keep is None:
            keep = keep_channels(cast(Tensor, mask), self.drop_channels, generator)
        if noise is None:
            noise = draw_windows(torch.randn, windows.shape, generator, x.device)
        sensors = self.sensors(pos, sensor_type)
        if self.start == "spread" and self.training and not self.quantizer.initialized:
            self._spread(windows, sensors, mask)
        noisy = windows + self.noise * noise
        if chosen is not None:
            latent = self.encode_windows(noisy[:, chosen], sensors[:, chosen])
        else:
            seen = cast(Tensor, keep if mask is None else cast(Tensor, keep) & mask)
            latent = self.encode_windows(noisy, sensors, seen)
        found = self.quantize(latent, generator=generator)
        output = self.decode_sources(found.values, sensors, mask)
        target = standardize(windows)
        if mask is not None:
            target, output = target[mask], output[mask]
        target, output = target.flatten(0, -3), output.flatten(0, -3)
        parts = reconstruction_losses(target, output)
        losses = {name: batch_mean(part, len(target)) for name, part in parts.items()}
        losses["commitment"] = found.loss
        losses["loss"] = (
            losses["time"]
            + torch.exp(-losses["pcc"])
            + found.loss
            + self.amplitude_weight * losses["amplitude"]
            + self.phase_weight * losses["phase"]
        )
        return losses | {"codes": found.codes}

    def _spread(self, windows: Tensor, sensors: Tensor, mask: Tensor | None) -> None:
        """Rescale every layer between signal, sources and signal on these windows."""
        convolutions = (Conv, ConvTranspose)
        layers = [part for part in self.modules() if isinstance(part, convolutions)]

        def run() -> None:
            latent = self.encode_windows(windows, sensors, mask)
            self.decode_sources(F.normalize(latent, dim=-1), sensors, mask)

        unit_variance([*layers, self.compression.out, self.expansion.out], run)

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original BrainTokenizer as ours; unknown keys come back unchanged."""
        return rename_brain_tokenizer(state_dict)
