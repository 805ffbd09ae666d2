"""DuInTokenizer: the contacts of one person as one discrete code for every 100 ms.

Stage 1 of Du-IN, a variational autoencoder with a codebook: the encoder's tokens are replaced by
codes, and a smaller transformer and transposed convolutions rebuild the standardized signal.

Source: liulab-repository/Du-IN (MIT), arXiv 2405.11459 (NeurIPS 2024).
Axes: batch channel time; feature = fused channel; token = patch of 100 ms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from neurofm.batch import Batch, Embedding, Tokens
from neurofm.cards import configured
from neurofm.nn.cosine_quantizer import CosineQuantizer
from neurofm.nn.processes import batch_mean
from neurofm.nn.start import unit_variance
from neurofm.nn.transformer import initialize
from neurofm.shapes import Bool, Float
from neurofm.tokenizers.du_in_encoder import DuInEncoder, SubjectLayer, add_time, transformer


class Regression(nn.Module):
    """Tokens to fused channels: transposed convolutions without activations, then a linear map.

    Each convolution makes the signal longer by exactly its stride.
    """

    def __init__(
        self,
        dim: int,
        n_out: int,
        filters: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.upsample = nn.ModuleList()
        widths = zip((dim, *filters), filters, kernels, strides, strict=False)
        for before, after, kernel, stride in widths:
            padding = -((stride - kernel) // 2)
            extra = 2 * padding - (kernel - stride)
            self.upsample.append(
                nn.ConvTranspose1d(before, after, kernel, stride, padding, output_padding=extra)
            )
        self.out = nn.Linear(filters[-1], n_out)

    def forward(
        self, tokens: Float[Tensor, "batch token dim"]
    ) -> Float[Tensor, "batch feature time"]:
        """The fused signal of the whole window."""
        x = tokens.transpose(1, 2)
        for layer in self.upsample:
            x = layer(x)
        return self.out(x.transpose(1, 2)).transpose(1, 2)


@configured
class DuInTokenizer(nn.Module):
    """Tokenizer of one person's contacts. Defaults: the published size.

    Args:
        encoder: Made for the subjects and channels of the data.
        n_codes: Entries of the codebook.
        code_dim: Features of a code.
        decoder_depth: Blocks of the decoder.
        filters: Features of the transposed convolutions; `kernels` and `strides` go with them, and
            the product of the strides is the encoder's patch.
        beta: Weight of the commitment loss.
        decay: Of the codebook's moving average; a short training needs a smaller one.
        kmeans: See `nn.CosineQuantizer`, also for `count_in_eval`.
        start: "published": narrow linear maps, whose queries are all alike at first; after a few
            hundred steps a handful of codes is used. "spread": wide ones and, from the first
            training batch, queries around zero.
    """

    def __init__(
        self,
        encoder: DuInEncoder,
        *,
        n_codes: int = 2048,
        code_dim: int = 64,
        decoder_depth: int = 4,
        filters: Sequence[int] = (128, 128, 128, 128, 16),
        kernels: Sequence[int] = (3, 3, 10, 9, 19),
        strides: Sequence[int] = (1, 1, 10, 1, 10),
        beta: float = 1.0,
        decay: float = 0.99,
        kmeans: bool = True,
        count_in_eval: bool = True,
        start: Literal["published", "spread"] = "published",
    ) -> None:
        super().__init__()
        if not len(filters) == len(kernels) == len(strides):
            raise ValueError(
                f"DuInTokenizer: {len(filters)} filters, {len(kernels)} kernels and "
                f"{len(strides)} strides; each convolution has one of each."
            )
        if start not in ("published", "spread"):
            raise ValueError(f"DuInTokenizer: start {start!r} is not 'published' or 'spread'.")
        made = math.prod(strides)
        if made != encoder.patch:
            raise ValueError(
                f"DuInTokenizer: strides {tuple(strides)} make {made} samples of a token, the "
                f"encoder's patch has {encoder.patch}."
            )
        self.dim, self.n_codes, self.n_levels = encoder.dim, n_codes, 1
        self.encoder = encoder
        self.quantizer = CosineQuantizer(
            encoder.dim,
            n_codes=n_codes,
            code_dim=code_dim,
            beta=beta,
            decay=decay,
            kmeans=kmeans,
            count_in_eval=count_in_eval,
        )
        self.decoder = transformer(
            decoder_depth, encoder.dim, encoder.heads, encoder.head_dim, encoder.dropout
        )
        self.regression = Regression(encoder.dim, encoder.n_fused, filters, kernels, strides)
        self.unmix = SubjectLayer(encoder.n_subjects, encoder.n_fused, encoder.n_channels)
        self.start = start
        initialize(self.quantizer)
        initialize(self.regression)
        if start == "spread":
            self._widen()

    # Plain tensors

    def rebuild(self, values: Float[Tensor, "batch token dim"]) -> Tensor:
        """batch feature time: quantized tokens to the fused signal."""
        return self.regression(self.decoder(add_time(values)))

    # Batches

    def encode(self, batch: Batch) -> Embedding:
        """Tokens before they are quantized: what fine-tuning from stage 1 starts from."""
        x = self.encoder(self.encoder.signal(batch), batch.subject)
        return Embedding(x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device))

    def forward(self, batch: Batch, *, generator: torch.Generator | None = None) -> Tokens:
        """One code for each patch, of all channels together. A fresh codebook starts from these."""
        x = self.encoder(self.encoder.signal(batch), batch.subject)
        found = self.quantizer(x, generator=generator)
        shape, device = x.shape[:2], x.device
        return Tokens(
            values=found.values,
            codes=found.codes,
            mask=torch.ones(shape, dtype=torch.bool, device=device),
            channel=torch.full(shape, -1, device=device),
            time=self.encoder.times(batch),
        )

    def decode(self, tokens: Tokens, batch: Batch) -> Float[Tensor, "batch channel time"]:
        """Standardized signal of the batch's channels from codes; zeros in padded channels.

        Raises:
            ValueError: The tokens carry no codes.
        """
        if tokens.codes is None:
            raise ValueError("DuInTokenizer: the tokens carry no codes.")
        self.encoder.check(batch)
        fused = self.rebuild(self.quantizer.lookup(tokens.codes))
        signal = self.unmix(fused, batch.subject)
        real = batch.channel_mask.unsqueeze(-1)
        missing = batch.x.shape[1] - signal.shape[1]
        if missing > 0:
            signal = nn.functional.pad(signal, (0, 0, 0, missing))
        return torch.where(real, signal[:, : batch.x.shape[1]], 0)

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """batch channel time, twice: the standardized signal, and what its codes make of it."""
        x = self.encoder.signal(batch)
        return x, self.decode(self(batch), batch)[:, : x.shape[1]]

    def loss(self, batch: Batch, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Stage-1 training loss of a batch; see `losses`."""
        x = self.encoder.signal(batch)
        mask = batch.channel_mask[:, : self.encoder.n_channels]
        return self.losses(x, batch.subject, mask, generator=generator)

    def losses(
        self,
        x: Float[Tensor, "batch channel time"],
        subject: Tensor,
        mask: Bool[Tensor, "batch channel"],
        *,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Rebuild the real channels from codes.

        Returns:
            "loss" and its parts "reconstruction" (mean squared error over the real channels of the
            whole batch) and "commitment"; "codes".
        """
        if self.start == "spread" and self.training and not self.quantizer.started:
            self._spread(x, subject)
        found = self.quantizer(self.encoder(x, subject), generator=generator)
        rebuilt = self.unmix(self.rebuild(found.values), subject)[:, : x.shape[1]]
        error = (rebuilt - x).float().square().mean(-1)
        real = mask.sum()
        reconstruction = torch.where(mask, error, 0).sum() / real.clamp(min=1)
        reconstruction = batch_mean(reconstruction, real)
        return {
            "loss": reconstruction + found.loss,
            "reconstruction": reconstruction,
            "commitment": found.loss,
            "codes": found.codes,
        }

    @torch.no_grad()
    def _widen(self) -> None:
        """Draw the maps around the transformers so that they neither shrink nor blow up."""
        parts = [*self.quantizer.modules(), *self.regression.modules()]
        for layer in (self.encoder.subject, self.unmix):
            layer.weight.normal_(std=layer.n_in**-0.5)
        for part in parts:
            if isinstance(part, nn.Linear):
                part.weight.normal_(std=part.in_features**-0.5)

    @torch.no_grad()
    def _spread(self, x: Tensor, subject: Tensor) -> None:
        """Centre and scale the queries on these windows."""
        project = self.quantizer.project_in
        tokens = self.encoder(x, subject)
        unit_variance([project[0], project[2]], lambda: project(tokens))

    @staticmethod
    def rename_keys(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the original's stage `vqvae` as ours; unknown keys come back unchanged.

        Time encodings and attention scales are left out: they are computed.
        """
        return rename_du_in(state_dict)


def rename_du_in(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys that the stages of Du-IN have in common as ours."""
    renamed = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        if key == "emb_time.time_encodings" or key.endswith(".mha.attention.scale"):
            continue
        for old, new in _RENAMED:
            key = re.sub(old, new, key)
        renamed[key] = value
    return renamed


_RENAMED = (
    (r"^subj_block\.subj_layer\.W\.weight", "encoder.subject.weight"),
    (r"^subj_block\.subj_layer\.B\.weight", "encoder.subject.bias"),
    (r"^desubj_block\.subj_layer\.W\.weight", "unmix.weight"),
    (r"^desubj_block\.subj_layer\.B\.weight", "unmix.bias"),
    (r"^tokenizer\.conv_blocks\.(\d+)\.0\.1\.", r"encoder.patches.convolutions.\1."),
    (r"^tokenizer\.conv_blocks\.(\d+)\.1\.1\.", r"encoder.patches.norms.\1."),
    (r"^encoder\.1\.xfmr_blocks\.", "encoder.blocks."),
    (r"^decoder\.1\.xfmr_blocks\.", "decoder."),
    (r"\.mha\.W_q\.W\.", ".query."),
    (r"\.mha\.W_k\.W\.", ".key."),
    (r"\.mha\.W_v\.W\.", ".value."),
    (r"\.mha\.norm_q\.", ".query_norm."),
    (r"\.mha\.norm_k\.", ".key_norm."),
    (r"\.mha\.proj\.0\.", ".out."),
    (r"\.norm_mha\.", ".attention_norm."),
    (r"\.ffn\.fc1\.0\.", ".widen."),
    (r"\.ffn\.fc2\.0\.", ".narrow."),
    (r"\.norm_ffn\.", ".feedforward_norm."),
    (r"^vq_block\.counts", "quantizer.count"),
    (r"^vq_block\.codex\.embeddings", "quantizer.codebook"),
    (r"^vq_block\.codex\.initted", "quantizer.initialized"),
    (r"^vq_block\.pre_proj\.", "quantizer.project_in."),
    (r"^vq_block\.layernorm\.", "quantizer.norm."),
    (r"^vq_block\.post_proj\.0\.", "quantizer.project_out."),
    (r"^rgs_block\.rgs_head\.(\d+)\.0\.1\.", r"regression.upsample.\1."),
    (r"^rgs_block\.rgs_head\.\d+\.0\.(weight|bias)", r"regression.out.\1"),
)
